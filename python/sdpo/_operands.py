"""The tensors of a batch as the passes take them: two branches, or both stacked in one, in one order of elements."""

from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch

LAYOUTS = ("branches", "halves", "interleaved")


class Operands(NamedTuple):
    """Tensors of one shape on one device whose rows are contiguous in one order of elements.

    layout "branches": [rows, …] each. "halves" and "interleaved": [2 rows, …] in the fields of chosen, those of rejected are None.
    reference None: its error is a number per row. element_weights [rows or 1, …], of both branches where element_weights_rejected is None.
    """

    policy_chosen: torch.Tensor
    policy_rejected: Optional[torch.Tensor]
    target_chosen: torch.Tensor
    target_rejected: Optional[torch.Tensor]
    reference_chosen: Optional[torch.Tensor]
    reference_rejected: Optional[torch.Tensor]
    element_weights: Optional[torch.Tensor]
    element_weights_rejected: Optional[torch.Tensor]
    layout: str
    row_strides: Optional[Tuple[int, ...]]  # of the dimensions behind the first, where memory order is not index order

    @property
    def rows(self) -> int:
        return self.policy_chosen.shape[0] // (1 if self.layout == "branches" else 2)

    @property
    def size(self) -> int:
        return elements_per_row(self.policy_chosen)

    @property
    def device(self) -> torch.device:
        return self.policy_chosen.device

    @property
    def tensors(self) -> Tuple[Optional[torch.Tensor], ...]:
        return self[:TENSOR_COUNT]

    @property
    def weighted_apart(self) -> bool:
        """Whether each branch has element weights of its own."""
        return self.element_weights_rejected is not None

    def weights_of(self, branch: str) -> Optional[torch.Tensor]:
        return self.element_weights_rejected if branch == "rejected" and self.weighted_apart else self.element_weights


TENSOR_COUNT = Operands._fields.index("layout")


def elements_per_row(tensor: torch.Tensor) -> int:
    return math.prod(tensor.shape[1:])


def half(tensor: Optional[torch.Tensor], layout: str, which: int) -> Optional[torch.Tensor]:
    """The rows of one branch of a stacked tensor, as a view."""
    if tensor is None:
        return None
    if layout == "interleaved":
        return tensor[which::2]
    rows = tensor.shape[0] // 2
    return tensor[rows:] if which else tensor[:rows]


def branches_of(operands: Operands) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """{"policy", "reference", "target"} of chosen and of rejected, [rows, …] each."""
    if operands.layout == "branches":
        return tuple(  # type: ignore[return-value]
            {name: getattr(operands, f"{name}_{branch}") for name in ("policy", "reference", "target")} for branch in ("chosen", "rejected")
        )
    return tuple(  # type: ignore[return-value]
        {name: half(getattr(operands, f"{name}_chosen"), operands.layout, i) for name in ("policy", "reference", "target")} for i in range(2)
    )


# ---- Order of elements


def _is_packed(tensor: torch.Tensor) -> bool:
    """Whether the elements of each row lie one behind the other in the order of their indices."""
    if tensor.is_neg():
        return False
    if tensor.is_contiguous():
        return True
    expected = 1
    for extent, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:])):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True


def _is_permuted(tensor: torch.Tensor) -> bool:
    """Whether each row fills a contiguous piece of memory in any order of its dimensions, as with channels_last."""
    expected = 1
    for stride, extent in sorted((s, n) for n, s in zip(tensor.shape[1:], tensor.stride()[1:]) if n != 1):
        if stride != expected:
            return False
        expected *= extent
    return not tensor.is_neg()


def _pattern(tensor: torch.Tensor) -> Tuple[Tuple[int, int], ...]:
    return tuple((n, s) for n, s in zip(tensor.shape[1:], tensor.stride()[1:]) if n != 1)


def lay_out(tensors: Sequence[Optional[torch.Tensor]]) -> Tuple[List[Optional[torch.Tensor]], Optional[Tuple[int, ...]]]:
    """Tensors [rows, …] of one shape, all in one order of elements: in place where they agree on one, else copied where they do not.

    Second: the strides of the dimensions behind the first, where that order is not the order of indices. A tensor of shape [1, …] serves all rows.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if all(map(_is_packed, given)):
        return list(tensors), None
    if all(_is_permuted(tensor) and _pattern(tensor) == _pattern(given[0]) for tensor in given):
        return list(tensors), tuple(given[0].stride()[1:])
    return [None if tensor is None else tensor if _is_packed(tensor) else tensor.resolve_neg().contiguous() for tensor in tensors], None


def empty_like(tensor: torch.Tensor, row_strides: Optional[Tuple[int, ...]]) -> torch.Tensor:
    if row_strides is None:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return torch.empty_strided(tensor.shape, (elements_per_row(tensor), *row_strides), dtype=tensor.dtype, device=tensor.device)
