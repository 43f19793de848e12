"""Reads the tensors of a batch: branch by branch or stacked, with reference or its error, and checks that they fit together."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

import torch

from ._errors import SdpoRangeError, SdpoTypeError
from ._native import DTYPES
from ._numbers import BRANCHES, check_layout, count_of, halves
from ._operands import Operands, elements_per_row, half
from ._validate import check_fields, fail_length, fail_type, fail_value

_FIELDS = ("policy", "reference", "target")
_BRANCH_FIELDS = ("policy", "reference", "reference_error", "target")
_PLAIN = (torch.Tensor, torch.nn.Parameter)


class Batch(NamedTuple):
    operands: Operands
    reference_errors: Dict[str, Any]
    policy_name: str
    traced: bool  # a tensor has no values to look at
    reference_is_wider: bool  # than everything else: the gradient is computed in the widest type, though it may not read the reference


def read_branches(chosen: Any, rejected: Any, element_weights: Any, options: Any) -> Batch:
    if rejected is None:
        fail_type("rejected", "given beside chosen", None)
    fields = [_branch_fields(name, value, options) for name, value in zip(BRANCHES, (chosen, rejected))]
    first = fields[0]["policy"]
    traced = False
    tensors = []
    for branch, given in zip(BRANCHES, fields):
        for field in _FIELDS:
            tensor = given.get(field)
            if field == "reference" and tensor is None:
                continue
            traced = _check_tensor(branch, field, tensor) or traced
            if tensor.shape != first.shape or tensor.device != first.device:
                _fail_unlike(f"{branch}.{field}", tensor, first, "chosen.policy")
            tensors.append(tensor)
    weights = _read_element_weights(element_weights, first)
    c, r = fields
    operands = Operands(c["policy"], r["policy"], c["target"], r["target"], c.get("reference"), r.get("reference"), *weights, "branches", None)
    errors = {f"reference_error_{branch}": given.get("reference_error") for branch, given in zip(BRANCHES, fields)}
    return Batch(operands, errors, "chosen.policy", traced, _reference_is_wider(operands))


def read_stacked(given: Mapping[str, Any], layout: Any, element_weights: Any, options: Any, chosen: Any, rejected: Any) -> Batch:
    if chosen is not None or rejected is not None:
        fail_type("chosen", "left out where layout is given", chosen if chosen is not None else rejected)
    if given["policy"] is None:
        fail_type("chosen", "(policy, reference, target), with rejected alike; or policy, reference, target and layout of stacked tensors", None)
    layout = check_layout(layout)
    _check_reference("the batch", given, options)
    policy = given["policy"]
    traced = False
    for field in _FIELDS:
        tensor = given[field]
        if field == "reference" and tensor is None:
            continue
        traced = _check_tensor("", field, tensor) or traced
        if tensor.shape != policy.shape or tensor.device != policy.device:
            _fail_unlike(field, tensor, policy, "policy")
    if policy.shape[0] % 2 != 0:
        fail_length("policy", "of an even number of rows, chosen and rejected", policy)
    weights = _read_element_weights(element_weights, half(policy, "halves", 0))
    operands = Operands(policy, None, given["target"], None, given["reference"], None, *weights, layout, None)
    errors = _stacked_errors(given["reference_error"], layout, policy.shape[0])
    return Batch(operands, errors, "policy", traced, _reference_is_wider(operands))


def _stacked_errors(given: Any, layout: str, count: int) -> Dict[str, Any]:
    if given is None:
        return {}
    found = count_of(given)
    if found is not None and found != count:
        fail_length("reference_error", f"of length {count}, one per row of policy, or one number for all rows", given)
    return dict(zip(("reference_error_chosen", "reference_error_rejected"), (given, given) if found is None else halves(given, layout)))


def _branch_fields(name: str, value: Any, options: Any) -> Mapping[str, Any]:
    if isinstance(value, (tuple, list)):
        if len(value) != 3:
            fail_length(name, "(policy, reference, target), or a mapping with these fields", value)
        fields: Mapping[str, Any] = dict(zip(_FIELDS, value))
    else:
        fields = check_fields(name, value, _BRANCH_FIELDS)
    _check_reference(name, fields, options)
    return fields


def _check_reference(name: str, fields: Mapping[str, Any], options: Any) -> None:
    reference, error = fields.get("reference"), fields.get("reference_error")
    neither, both = reference is None and error is None, reference is not None and error is not None
    if both or (neither and options.traits["reference"]):
        raise SdpoTypeError(
            "ERR_SDPO_INVALID_ARG_TYPE",
            f"Expected {name} to have either reference or reference_error, received {'both' if both else 'neither'}",
        )
    if reference is None and options.needs_drift is not None:
        raise SdpoRangeError(
            "ERR_SDPO_INVALID_OPTION",
            f"Expected {name}.reference to be given, since {options.needs_drift} needs the drift q, which only a reference tensor can give, received none",
        )


def _check_tensor(branch: str, field: str, value: Any) -> bool:
    """A strided floating-point tensor [rows, …] with elements; whether it is one without values to look at."""
    if type(value) in _PLAIN and value.dtype in DTYPES and value.layout == torch.strided and value.dim() > 0:
        if value.numel() == 0 and elements_per_row(value) == 0:
            fail_length(f"{branch}.{field}" if branch else field, "of one or more elements a row", value)
        return value.device.type == "meta"
    argument = f"{branch}.{field}" if branch else field
    check_plain(argument, value)
    if value.dtype not in DTYPES or value.layout != torch.strided or value.dim() == 0:
        fail_type(argument, "a tensor [rows, …] of float64, float32, float16 or bfloat16", value)
    return type(value) not in _PLAIN


def check_plain(argument: str, value: Any) -> None:
    """Refuses what is no tensor, and subclasses: one that stands for memory elsewhere must not be gathered or misread in silence."""
    if not isinstance(value, torch.Tensor):
        fail_type(argument, "a tensor [rows, …] of float64, float32, float16 or bfloat16", value)
    if type(value) in _PLAIN or isinstance(value, _traceable()):
        return
    advice = "value.as_subclass(torch.Tensor) gives one"
    if hasattr(value, "to_local") and hasattr(value, "full_tensor"):
        advice = (
            ".to_local() gives the part of this rank, for rows that are whole there, or with group= where their elements are spread over ranks; "
            ".full_tensor() gathers"
        )
    fail_type(argument, f"a plain torch.Tensor ({advice})", value)


def _traceable() -> Tuple[Any, ...]:
    found = []
    subclasses = getattr(torch, "_subclasses", None)
    for name in ("FakeTensor", "functional_tensor.FunctionalTensor"):
        each: Any = subclasses
        for part in name.split("."):
            each = getattr(each, part, None)
        if each is not None:
            found.append(each)
    return tuple(found)


def _fail_unlike(name: str, tensor: torch.Tensor, first: torch.Tensor, other: str) -> None:
    """Equal shapes, and nothing is broadcast: a tensor of another shape is a mistake that broadcasting would hide."""
    if tensor.shape != first.shape:
        fail_length(name, f"of shape {list(first.shape)} as {other}", tensor)
    fail_value(name, f"on {first.device} as {other}", f"a tensor on {tensor.device}")


def _read_element_weights(value: Any, policy: Any) -> Tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
    """Of both branches, or of chosen and those of rejected."""
    if value is None:
        return None, None
    if not isinstance(value, (tuple, list, Mapping)):
        return read_weights("element_weights", value, policy), None
    if isinstance(value, Mapping):
        given = check_fields("element_weights", value, BRANCHES)
        value = tuple(given.get(branch) for branch in BRANCHES)
    if len(value) != 2:
        fail_length("element_weights", "a tensor, (chosen, rejected), or a mapping with these fields", value)
    first, other = value
    if first is other and first is not None:
        return read_weights("element_weights", first, policy), None
    return read_weights("element_weights.chosen", first, policy), read_weights("element_weights.rejected", other, policy)


def refuse_cross(operands: Operands, asker: str) -> None:
    """The mean of d_c d_r pairs the elements of both branches, so it has one weighting or none."""
    if operands.weighted_apart:
        raise SdpoRangeError(
            "ERR_SDPO_INVALID_OPTION",
            f"Expected element_weights to be one weighting of both branches where {asker} is given, since the mean of d_c d_r that it needs pairs their "
            "elements, received weights of each branch",
        )


def read_weights(argument: str, value: Any, policy: Any) -> torch.Tensor:
    check_plain(argument, value)
    if value.dtype in (torch.bool, torch.uint8):
        value = value.to(torch.float32)
    if value.dtype not in DTYPES:
        fail_type(argument, "of a float dtype, or a boolean or uint8 mask", value)
    if value.device != policy.device:
        fail_value(argument, f"on {policy.device} as the policy", f"a tensor on {value.device}")
    if value.dim() == policy.dim() - 1:
        value = value.unsqueeze(0)
    fits = value.dim() == policy.dim() and all(mine in (1, theirs) for mine, theirs in zip(value.shape, policy.shape))
    if not fits:
        fail_length(argument, f"of shape {list(policy.shape)} or {list(policy.shape[1:])}, with 1 for an axis that shares its weights", value)
    return value.detach().expand(value.shape[0], *policy.shape[1:])


def _reference_is_wider(operands: Operands) -> bool:
    """float64 among narrower tensors: rare, and then it is kept for the gradient's sake."""
    double = torch.float64
    references = (operands.reference_chosen, operands.reference_rejected)
    if not any(reference is not None and reference.dtype == double for reference in references):
        return False
    others = (*operands[:4], operands.element_weights, operands.element_weights_rejected)
    return not any(tensor is not None and tensor.dtype == double for tensor in others)
