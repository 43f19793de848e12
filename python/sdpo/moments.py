"""The moments of rows: what the first pass gives, how those of parts are joined, and what the objective reads."""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, Optional, Sequence, Union

import torch

from ._batch import read_weights
from ._errors import SdpoRangeError
from ._native import COEFFICIENTS, check_tensor
from ._operands import Operands
from ._tables import LISTS, ROW_OUTPUT, snake
from ._validate import check_fields, fail_length, fail_type, fail_value

BRANCHES = ("chosen", "rejected")
FIELDS = ("error", "delta", "drift")
Coefficients = Mapping[str, torch.Tensor]
Elements = Union[torch.Tensor, Mapping[str, torch.Tensor]]
COEFFICIENT_NAMES = tuple(snake(name) for name in LISTS["rowOutputs"][COEFFICIENTS])


@dataclasses.dataclass(frozen=True)
class Moments:
    """Means over the elements of every row, float64 [rows] each.

    chosen, rejected: {"error": m, "delta": δ = m - r accumulated without cancellation, "drift": q, NaN with a reference_error}.
    cross: x = mean d_c d_r, where it was asked for. elements: D, or the sum of the element weights; {"chosen": …, "rejected": …} where each branch has
    weights of its own.
    """

    chosen: Mapping[str, torch.Tensor]
    rejected: Mapping[str, torch.Tensor]
    elements: Elements
    cross: Optional[torch.Tensor] = None

    @property
    def rows(self) -> int:
        return self.chosen["error"].shape[0]

    @property
    def weighted_apart(self) -> bool:
        """Whether each branch has elements of its own."""
        return isinstance(self.elements, Mapping)


def moments_of(row_outputs: torch.Tensor, cross: bool, apart: bool) -> Moments:
    branches = [{field: row_outputs[ROW_OUTPUT[f"{field}_{branch}"]] for field in FIELDS} for branch in BRANCHES]
    sums = {branch: row_outputs[ROW_OUTPUT[f"element_sum_{branch}"]] for branch in BRANCHES}
    return Moments(*branches, sums if apart else sums["chosen"], row_outputs[ROW_OUTPUT["cross"]] if cross else None)


def _elements_of(elements: Elements, branch: str) -> torch.Tensor:
    return elements[branch] if isinstance(elements, Mapping) else elements


def combine_moments(parts: Sequence[Moments]) -> Moments:
    """The moments of rows whose elements are cut into parts, from those of the parts: sum n_k m_k / sum n_k (docs/mathematics.md, section 7).

    Sums are in float64 and in the order of `parts`. A part without elements is left out.
    """
    if not isinstance(parts, (list, tuple)) or len(parts) == 0:
        fail_type("parts", "a list of one or more moments", parts)
    for i, part in enumerate(parts):
        if not isinstance(part, Moments):
            fail_type(f"parts[{i}]", "moments, as PreferenceLoss.moments gives them", part)
        if part.rows != parts[0].rows:
            fail_length(f"parts[{i}]", f"of {parts[0].rows} rows, as parts[0]", part.chosen["error"])
        for branch in BRANCHES:
            elements = _elements_of(part.elements, branch)
            if elements.device.type == "cpu" and not bool(((elements >= 0) & torch.isfinite(elements)).all()):
                fail_value(f"parts[{i}].elements", ">= 0 and finite in every row", elements.tolist())
        if (part.cross is None) != (parts[0].cross is None):
            fail_value("parts", "all with cross, or all without", f"parts[{i}] {'without' if part.cross is None else 'with'}")
    apart = any(part.weighted_apart for part in parts)
    if apart and parts[0].cross is not None:
        fail_value("parts", "without cross where elements are those of each branch, since it pairs their elements", "parts with cross")
    stacked = torch.stack([pack(part) for part in parts])
    return moments_of(combine_packed(stacked), parts[0].cross is not None, apart)


_SUMS = tuple(f"element_sum_{branch}" for branch in BRANCHES)
# Every mean and the elements it is over. Where the mean over pairs of elements is known there is one weighting.
_MEANS = {**{f"{field}_{branch}": f"element_sum_{branch}" for branch in BRANCHES for field in FIELDS}, "cross": _SUMS[0]}
_PACKED = (*_MEANS, *_SUMS)


def pack(moments: Moments) -> torch.Tensor:
    """[fields, rows], for one collective."""
    means = [getattr(moments, branch)[field] for branch in BRANCHES for field in FIELDS]
    cross = torch.zeros_like(means[0]) if moments.cross is None else moments.cross
    return torch.stack([*means, cross, *(_elements_of(moments.elements, branch) for branch in BRANCHES)])


def combine_packed(parts: torch.Tensor) -> torch.Tensor:
    """Row outputs with the joint moments, from the packed moments of parts [parts, fields, rows]."""
    out = torch.zeros((len(ROW_OUTPUT), parts.shape[2]), dtype=parts.dtype, device=parts.device)
    at = {name: i for i, name in enumerate(_PACKED)}
    for name in _SUMS:
        for part in parts:
            out[ROW_OUTPUT[name]] += part[at[name]]
    for name, over in _MEANS.items():
        total = torch.zeros_like(parts[0, 0])
        for part in parts:
            elements = part[at[over]]
            total = torch.where(elements > 0, total + elements * part[at[name]], total)
        out[ROW_OUTPUT[name]] = total / out[ROW_OUTPUT[over]]
    for branch in BRANCHES:
        out[ROW_OUTPUT[f"reference_error_{branch}"]] = out[ROW_OUTPUT[f"error_{branch}"]] - out[ROW_OUTPUT[f"delta_{branch}"]]
    return out


def read_moments(moments: Any, options: Any) -> torch.Tensor:
    """Row outputs with the moments where the objective reads them."""
    if not isinstance(moments, Moments):
        fail_type("moments", "moments, as PreferenceLoss.moments and combine_moments give them", moments)
    if options.safeguard is not None and moments.weighted_apart:
        raise SdpoRangeError(
            "ERR_SDPO_INVALID_OPTION",
            "Expected moments.elements to be one tensor for both branches where safeguard is given, since the mean of d_c d_r that it needs pairs their "
            "elements, received those of each branch",
        )
    if options.safeguard is not None and moments.cross is None:
        raise SdpoRangeError(
            "ERR_SDPO_INVALID_OPTION",
            "Expected moments.cross to be given, since the safeguard needs it (moments of a loss with a safeguard have it), received none",
        )
    out = combine_packed(pack(moments).unsqueeze(0))
    if out.device.type != "cpu":
        return out
    for branch in BRANCHES:
        elements = _elements_of(moments.elements, branch)
        if not bool((elements > 0).all()):
            fail_value("moments.elements", "above 0 in every row", elements.min().item())
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
    for name in COEFFICIENT_NAMES:
        argument, value = f"coefficients['{name}']", coefficients.get(name)
        if not isinstance(value, torch.Tensor):
            fail_type(argument, "a tensor [rows]", value)
        if value.shape != (operands.rows,):
            fail_length(argument, f"of length {operands.rows}, one per row", value)
        out[ROW_OUTPUT[name]] = value
        # The coefficients of such a batch's own output have b as well: zeros.
        needs = name.startswith("b_") and getattr(operands, f"reference_{name[2:]}") is None
        if needs and out.device.type == "cpu" and bool((value != 0).any()):
            fail_type(argument, "all 0 where the batch has a reference_error", value)
    if elements is None:
        return out
    apart = isinstance(elements, Mapping)
    each = check_fields("elements", elements, BRANCHES) if apart else dict.fromkeys(BRANCHES, elements)
    for branch in BRANCHES:
        argument, given = f"elements['{branch}']" if apart else "elements", each.get(branch)
        if given is None:
            fail_type(argument, "a number or numbers per row", given)
        value = torch.as_tensor(given, dtype=torch.float64, device=operands.device)
        if value.shape not in ((), (operands.rows,)):
            fail_length(argument, f"of length {operands.rows}, one per row", value)
        if value.device.type == "cpu" and not bool(((value > 0) & torch.isfinite(value)).all()):
            fail_value(argument, "above 0 and finite in every row", given)
        out[ROW_OUTPUT[f"element_sum_{branch}"]] = value
    return out


def reference_error(reference: torch.Tensor, target: torch.Tensor, element_weights: Optional[torch.Tensor] = None) -> torch.Tensor:
    """r, the mean squared error of the reference per row: float64 [rows], to be kept in place of the reference's predictions.

    reference, target: [rows, …] of one shape. element_weights: as in a call of the loss. Products are formed in the widest dtype given (at least float32),
    sums in float64. A loss that reads the drift (kl_weight, "dspo") needs the predictions themselves.
    """
    check_tensor("reference", reference)
    check_tensor("target", target)
    if target.shape != reference.shape:
        fail_length("target", f"of shape {list(reference.shape)} as reference", target)
    given = [reference, target]
    if element_weights is not None:
        element_weights = read_weights("element_weights", element_weights, reference)
        given.append(element_weights)
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in given) else torch.float32
    d = (reference.detach().to(dtype) - target.detach().to(dtype)).flatten(1)
    if element_weights is None:
        return (d * d).sum(1, dtype=torch.float64) / d.shape[1]
    weights = element_weights.to(dtype).flatten(1)
    # An element of weight 0 counts for nothing, whatever its value.
    total = torch.where(weights != 0, weights * d * d, torch.zeros_like(d)).sum(1, dtype=torch.float64)
    return total / weights.sum(1, dtype=torch.float64)
