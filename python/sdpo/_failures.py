"""Which value a failure is about, found from the results of a call where the library does not say."""

from __future__ import annotations

import math
from typing import Optional, Tuple

import torch

from ._errors import NonFiniteError, SdpoError
from ._numbers import RowNumbers
from ._operands import Operands, branches_of
from ._tables import LISTS, ROW_OUTPUT


def is_throwing(options: Tuple[float, ...]) -> bool:
    return options[_NON_FINITE] == _THROW


_NON_FINITE = LISTS["options"].index("nonFinite")
_THROW = LISTS["nonFinite"].index("throw")


def throw_non_finite(row_outputs: torch.Tensor, operands: Optional[Operands] = None, numbers: Optional[RowNumbers] = None) -> None:
    """The error of the first row that is not finite. It waits for the device, which is what non_finite="throw" asks for there."""
    bad = row_outputs[ROW_OUTPUT["non_finite"]].nonzero()
    if bad.shape[0] == 0:
        return
    row = int(bad[0])
    if operands is not None:
        for branch, tensors in zip(("chosen", "rejected"), branches_of(operands)):
            for tensor in ("policy", "reference", "target"):
                values = tensors[tensor]
                elements = [] if values is None else (~torch.isfinite(values[row])).reshape(-1).nonzero().reshape(-1).tolist()
                if elements:
                    raise NonFiniteError(row, branch, tensor, elements[0])
            error = None if numbers is None else numbers.of(f"reference_error_{branch}", row)
            if tensors["reference"] is None and error is not None and not math.isfinite(error):
                raise NonFiniteError(row, branch, "reference_error", -1)
    sums = [row_outputs[ROW_OUTPUT[f"error_{branch}"], row].item() for branch in ("chosen", "rejected")]
    raise NonFiniteError(row, "chosen" if not math.isfinite(sums[0]) else "rejected", "row", -1)


def throw_element_weights(row: int) -> None:
    raise SdpoError(
        "ERR_SDPO_ELEMENT_WEIGHTS",
        f"Expected element_weights to be finite, >= 0 and of positive sum in every row, received weights in row {row} that are not",
    )
