"""The moments of rows: what the first pass gives, how those of parts are joined, and what the objective reads."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Mapping, Optional, Sequence

import torch

from ._errors import SdpoRangeError
from ._native import COEFFICIENTS
from ._operands import Operands
from ._tables import LISTS, ROW_OUTPUT, snake
from ._validate import fail_length, fail_type, fail_value

BRANCHES = ("chosen", "rejected")
FIELDS = ("error", "delta", "drift")
Coefficients = Mapping[str, torch.Tensor]
COEFFICIENT_NAMES = tuple(snake(name) for name in LISTS["rowOutputs"][COEFFICIENTS])


@dataclasses.dataclass(frozen=True)
class Moments:
    """Means over the elements of every row, float64 [rows] each.

    chosen, rejected: {"error": m, "delta": δ = m - r accumulated without cancellation, "drift": q, NaN with a reference_error}.
    cross: x = mean d_c d_r, where it was asked for. elements: D, or the sum of the element weights.
    """

    chosen: Mapping[str, torch.Tensor]
    rejected: Mapping[str, torch.Tensor]
    elements: torch.Tensor
    cross: Optional[torch.Tensor] = None


def moments_of(row_outputs: torch.Tensor, cross: bool) -> Moments:
    branches = [{field: row_outputs[ROW_OUTPUT[f"{field}_{branch}"]] for field in FIELDS} for branch in BRANCHES]
    return Moments(*branches, row_outputs[ROW_OUTPUT["element_sum"]], row_outputs[ROW_OUTPUT["cross"]] if cross else None)


def combine_moments(parts: Sequence[Moments]) -> Moments:
    """The moments of rows whose elements are cut into parts, from those of the parts: sum n_k m_k / sum n_k (docs/mathematics.md, section 7).

    Sums are in float64 and in the order of `parts`. A part without elements is left out.
    """
    if not isinstance(parts, (list, tuple)) or len(parts) == 0:
        fail_type("parts", "a list of one or more moments", parts)
    for i, part in enumerate(parts):
        if not isinstance(part, Moments):
            fail_type(f"parts[{i}]", "moments, as PreferenceLoss.moments gives them", part)
        if part.elements.shape != parts[0].elements.shape:
            fail_length(f"parts[{i}]", f"of {parts[0].elements.shape[0]} rows, as parts[0]", part.elements)
        if (part.cross is None) != (parts[0].cross is None):
            fail_value("parts", "all with cross, or all without", f"parts[{i}] {'without' if part.cross is None else 'with'}")
    stacked = torch.stack([pack(part) for part in parts])
    return moments_of(combine_packed(stacked), parts[0].cross is not None)


_PACKED = (*(f"{field}_{branch}" for branch in BRANCHES for field in FIELDS), "cross", "element_sum")


def pack(moments: Moments) -> torch.Tensor:
    """[fields, rows], for one collective."""
    cross = torch.zeros_like(moments.elements) if moments.cross is None else moments.cross
    return torch.stack([*(getattr(moments, branch)[field] for branch in BRANCHES for field in FIELDS), cross, moments.elements])


def combine_packed(parts: torch.Tensor) -> torch.Tensor:
    """Row outputs with the joint moments, from the packed moments of parts [parts, fields, rows]."""
    elements = torch.zeros_like(parts[0, -1])
    for part in parts:
        elements = elements + part[-1]
    out = torch.zeros((len(ROW_OUTPUT), parts.shape[2]), dtype=parts.dtype, device=parts.device)
    for i, name in enumerate(_PACKED[:-1]):
        total = torch.zeros_like(elements)
        for part in parts:
            total = torch.where(part[-1] > 0, total + part[-1] * part[i], total)
        out[ROW_OUTPUT[name]] = total / elements
    out[ROW_OUTPUT["element_sum"]] = elements
    for branch in BRANCHES:
        out[ROW_OUTPUT[f"reference_error_{branch}"]] = out[ROW_OUTPUT[f"error_{branch}"]] - out[ROW_OUTPUT[f"delta_{branch}"]]
    return out


def read_moments(moments: Any, options: Any) -> torch.Tensor:
    """Row outputs with the moments where the objective reads them."""
    if not isinstance(moments, Moments):
        fail_type("moments", "moments, as PreferenceLoss.moments and combine_moments give them", moments)
    if options.safeguard is not None and moments.cross is None:
        raise SdpoRangeError(
            "ERR_SDPO_INVALID_OPTION",
            "Expected moments.cross to be given, since the safeguard needs it (moments of a loss with a safeguard have it), received none",
        )
    out = combine_packed(pack(moments).unsqueeze(0))
    if out.device.type != "cpu":
        return out
    if not bool((moments.elements > 0).all()):
        fail_value("moments.elements", "above 0 in every row", moments.elements.min().item())
    for branch in BRANCHES:
        if options.needs_drift is not None and bool(torch.isnan(getattr(moments, branch)["drift"]).any()):
            raise SdpoRangeError(
                "ERR_SDPO_INVALID_OPTION",
                f"Expected moments.{branch}['drift'] to be known in every row, since {options.needs_drift} needs it and only a reference tensor "
                "gives it, received NaN",
            )
    return out


def check_coefficients(coefficients: Any, elements: Any, operands: Operands) -> torch.Tensor:
    """Row outputs with coefficients, and the elements of the whole rows where the tensors are a part."""
    if not isinstance(coefficients, Mapping):
        fail_type("coefficients", "the coefficients of an output", coefficients)
    out = torch.zeros((len(ROW_OUTPUT), operands.rows), dtype=torch.float64, device=operands.device)
    given: Dict[str, Any] = {f"coefficients['{name}']": coefficients.get(name) for name in COEFFICIENT_NAMES}
    if elements is not None:
        given["elements"] = torch.as_tensor(elements, dtype=torch.float64, device=operands.device)
    for (argument, value), field in zip(given.items(), (*COEFFICIENT_NAMES, "element_sum")):
        if not isinstance(value, torch.Tensor):
            fail_type(argument, "a tensor [rows]", value)
        if value.shape != (operands.rows,) and not (argument == "elements" and value.dim() == 0):
            fail_length(argument, f"of length {operands.rows}, one per row", value)
        out[ROW_OUTPUT[field]] = value
    return out


def reference_error(reference: torch.Tensor, target: torch.Tensor, element_weights: Optional[torch.Tensor] = None) -> torch.Tensor:
    """r, the mean squared error of the reference per row: float64 [rows], to be kept in place of the reference's predictions.

    reference, target: [rows, …]. element_weights: as in a call of the loss. Products are formed in the widest dtype given (at least float32), sums in
    float64. A loss that reads the drift (kl_weight, "dspo") needs the predictions themselves.
    """
    dtype = torch.float64 if torch.float64 in (reference.dtype, target.dtype) else torch.float32
    d = (reference.detach().to(dtype) - target.detach().to(dtype)).flatten(1)
    if element_weights is None:
        return (d * d).sum(1, dtype=torch.float64) / d.shape[1]
    if element_weights.dim() == reference.dim() - 1:
        element_weights = element_weights.unsqueeze(0)
    weights = element_weights.to(dtype).expand(element_weights.shape[0], *reference.shape[1:]).flatten(1)
    # An element of weight 0 counts for nothing, whatever its value.
    total = torch.where(weights != 0, weights * d * d, torch.zeros_like(d)).sum(1, dtype=torch.float64)
    return total / weights.sum(1, dtype=torch.float64)
