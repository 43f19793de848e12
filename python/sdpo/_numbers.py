"""The numbers per row of a batch as the caller means them: which of them the loss reads, where omega comes from, and what may not be given."""

from __future__ import annotations

import array
import math
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import torch

from ._errors import SdpoRangeError
from ._levels import to_device
from ._operands import LAYOUTS
from ._tables import ROW_CHECK, ROW_DEFAULTS, ROW_INPUT
from ._validate import check_fields, fail_length, fail_type, fail_value, is_number

BRANCHES = ("chosen", "rejected")
Column = Union[array.array, torch.Tensor]


class RowNumbers:
    """A number for every row input that serves all rows, and the lists [rows] of those that differ from row to row.

    Lists are array('d') on the host where values were looked at, else float64 or float32 tensors on the device of the batch.
    """

    __slots__ = ("values", "lists", "table", "late")

    def __init__(self, values: Tuple[float, ...] = ROW_DEFAULTS) -> None:
        self.values = values
        self.lists: Dict[int, Column] = {}
        self.table: Any = None  # omega by timestep (DeviceTable, or an OmegaTensor of an operator)
        self.late: Any = None  # the branches' timesteps, where omega is of no use but for a statistic, which is made when it is looked at

    def set(self, name: str, value: Union[None, float, Column]) -> None:
        if value is None:
            return
        field = ROW_INPUT[name]
        if isinstance(value, float):
            self.values = (*self.values[:field], value, *self.values[field + 1 :])
        else:
            self.lists[field] = value

    def of(self, name: str, row: int) -> float:
        field = ROW_INPUT[name]
        return float(self.lists[field][row]) if field in self.lists else self.values[field]


class OmegaTensor:
    """A table of omega that is a tensor already, as an operator is given it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self.count = tensor.shape[0]

    def pointer(self, device: torch.device) -> int:
        return self._tensor.data_ptr()

    def on(self, device: torch.device) -> torch.Tensor:
        return self._tensor


# ---- One list


class Reader:
    """Reads lists for `rows` rows on `device`; `look`: values are on the host and may be looked at."""

    def __init__(self, rows: int, device: torch.device, look: bool) -> None:
        self.rows = rows
        self.device = device
        self.look = look

    def read(self, argument: str, value: Any, expected: str, low: float = -math.inf, high: float = math.inf, finite: bool = True, checked: bool = True) -> Any:
        """None, one number as a float, or a list. Values out of bounds are errors where they are looked at, or come from the host."""
        if value is None:
            return None
        if isinstance(value, torch.Tensor):
            self._check_tensor(argument, value, expected)
            if not self.look:
                return self._on_device(value)
            values = value.reshape(-1).tolist()
            single = value.dim() == 0
        elif is_number(value) or isinstance(value, bool):
            values, single = [value], True
        else:
            values, single = self._listed(argument, value, expected), False
        if not single and len(values) != self.rows:
            fail_length(argument, f"of length {self.rows}, one per row", value)
        for i, number in enumerate(values if checked else ()):
            if not low <= number <= high or (finite and math.isinf(number)):
                fail_value(argument if single else f"{argument}[{i}]", expected, number)
        if single:
            return float(values[0])
        if self.look:
            return array.array("d", values)
        return to_device(torch.tensor(values, dtype=torch.float64, device="cpu"), self.device)

    def _listed(self, argument: str, value: Any, expected: str) -> List[float]:
        if hasattr(value, "tolist"):
            value = value.tolist()
        if not isinstance(value, (list, tuple, range)):
            fail_type(argument, f"a tensor or list of numbers, one per row, or {expected} for all", value)
        for i, entry in enumerate(value):
            if not is_number(entry) and not isinstance(entry, bool):
                fail_type(f"{argument}[{i}]", "a number", entry)
        return list(value)

    def _check_tensor(self, argument: str, value: torch.Tensor, expected: str) -> None:
        column = value.dim() == 2 and value.shape[1] == 1
        if value.dim() > 1 and not column:
            fail_type(argument, f"a tensor [rows] or [rows, 1] of numbers, or {expected} for all rows", value)
        if value.is_complex():
            fail_type(argument, "a tensor of real numbers", value)
        if value.dim() > 0 and value.shape[0] != self.rows:
            fail_length(argument, f"of length {self.rows}, one per row", value)

    def _on_device(self, value: torch.Tensor) -> torch.Tensor:
        value = value.detach().reshape(-1)
        if value.dtype not in (torch.float64, torch.float32):
            value = value.to(torch.float64)
        if value.shape[0] != self.rows:
            value = value.expand(self.rows)
        return to_device(value, self.device).contiguous()

    def timesteps(self, argument: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16, torch.bool):
            expected = "of an integer type, float32 or float64 (16-bit floats round timesteps: 750 becomes 752)"
            fail_type(argument, expected, value)
        return self.read(argument, value, "a finite number")


_EXPECTED = {"any": "a number", "finite": "a finite number", "notNegative": "a finite number >= 0"}


def _read(reader: Reader, name: str, argument: str, value: Any) -> Any:
    check = ROW_CHECK[name]
    # What may be anything is data, which non_finite is about.
    return reader.read(argument, value, _EXPECTED[check], 0 if check == "notNegative" else -math.inf, checked=check != "any")


# ---- All of a batch


def per_branch(argument: str, value: Any) -> Tuple[Tuple[str, Any], Tuple[str, Any]]:
    """(name, value) of chosen and of rejected; the same value for both unless it is a mapping."""
    if not isinstance(value, Mapping):
        return (argument, value), (argument, value)
    check_fields(argument, value, BRANCHES)
    for branch in BRANCHES:
        if value.get(branch) is None:
            fail_type(f"{argument}.{branch}", "a tensor or list of numbers, one per row", None)
    return tuple((f"{argument}.{branch}", value[branch]) for branch in BRANCHES)  # type: ignore[return-value]


def read_numbers(loss: Any, reader: Reader, given: Mapping[str, Any], layout: str, complete: bool = True) -> RowNumbers:
    """What a call of a loss gives per row. complete: the objective is evaluated, so that what it reads has to be there."""
    options = loss.options
    numbers = RowNumbers(loss._row_values)
    _read_omega(numbers, options, reader, given, layout, complete)
    _read_weight_noise(numbers, options, reader, given.get("weight_noise"))
    scale = given.get("beta_scale")
    if scale is not None:
        _refuse_unread("beta_scale", "beta_scale_chosen", options)
        for branch, (name, value) in zip(BRANCHES, per_branch("beta_scale", scale)):
            numbers.set(f"beta_scale_{branch}", _read(reader, f"beta_scale_{branch}", name, value))
    for argument, name in (("margins", "margin"), ("keep", "keep"), ("row_weights", "row_weight")):
        value = given.get(argument)
        if value is not None:
            _refuse_unread(argument, name, options)
            numbers.set(name, _read(reader, name, argument, value))
    threshold = given.get("mask_threshold")
    if threshold is not None:
        _refuse_unread("mask_threshold", "mask_threshold", options)
        numbers.set("mask_threshold", reader.read("mask_threshold", threshold, "a number in [0, 1]", 0, 1))
    for branch in BRANCHES:
        error = given.get(f"reference_error_{branch}")
        if error is not None:
            numbers.set(f"reference_error_{branch}", _read(reader, f"reference_error_{branch}", f"{branch}.reference_error", error))
    return numbers


def _refuse(argument: str, reason: str) -> None:
    raise SdpoRangeError("ERR_SDPO_INVALID_OPTION", f"Expected {argument} to be left out, since {reason}, received it")


def _refuse_unread(argument: str, name: str, options: Any) -> None:
    if name not in options.traits["rowInputs"]:
        _refuse(argument, f"objective '{options.objective}' does not use it")


def _read_weight_noise(numbers: RowNumbers, options: Any, reader: Reader, given: Any) -> None:
    if given is None:
        return
    check_fields("weight_noise", given, BRANCHES)
    _refuse_unread("weight_noise", "noise_chosen", options)
    if options.weight_ratio != "policy/data":
        _refuse("weight_noise", f"weight_ratio '{options.weight_ratio}' has no sampled form")
    for branch, (name, value) in zip(BRANCHES, per_branch("weight_noise", given)):
        numbers.set(f"noise_{branch}", _read(reader, f"noise_{branch}", name, value))


def _read_omega(numbers: RowNumbers, options: Any, reader: Reader, given: Mapping[str, Any], layout: str, complete: bool) -> None:
    transition = given.get("transition")
    transition = {} if transition is None else check_fields("transition", transition, ("omega", "offset_chosen", "offset_rejected"))
    timesteps = _timesteps(given.get("timesteps"), reader, layout)
    omega = transition.get("omega")
    if omega is not None:
        for branch, (name, value) in zip(BRANCHES, per_branch("transition.omega", omega)):
            numbers.set(f"omega_{branch}", reader.read(name, value, "a number >= 0 or inf", 0, finite=False))
    if timesteps is not None:
        _use_timesteps(numbers, options, reader, timesteps, omega is not None)
    elif complete and options.timestep_window is not None:
        fail_type("timesteps", "given, one per row, since timestep_window looks at them", None)
    elif complete and omega is None and options.reads_omega:
        if options.schedule is None:
            fail_type("transition.omega", "given where the loss has no schedule", None)
        fail_type("timesteps", "given, one per row", None)
    for branch in BRANCHES:
        offset = transition.get(f"offset_{branch}")
        if offset is None:
            continue
        name = f"transition.offset_{branch}"
        _refuse_unread(name, f"offset_{branch}", options)
        if options.weight_ratio == "policy/reference":
            _refuse(name, "weight_ratio 'policy/reference' does not use it (log q cancels)")
        numbers.set(f"offset_{branch}", _read(reader, f"offset_{branch}", name, offset))


def _timesteps(given: Any, reader: Reader, layout: str) -> Optional[Tuple[Tuple[str, Any], Tuple[str, Any]]]:
    """(name, list) per branch. Of stacked tensors both [rows] and [2 rows], stacked as they are, will do."""
    if given is None:
        return None
    if layout != "branches" and count_of(given) == 2 * reader.rows:
        given = dict(zip(BRANCHES, halves(given, layout)))
    (name, chosen), (other, rejected) = per_branch("timesteps", given)
    first = reader.timesteps(name, chosen)
    return (name, first), (other, first if rejected is chosen else reader.timesteps(other, rejected))


def _use_timesteps(numbers: RowNumbers, options: Any, reader: Reader, timesteps: Any, has_omega: bool) -> None:
    schedule, reads = options.schedule, options.reads_omega
    needed = reads and not has_omega
    if needed and schedule is None:
        fail_type("transition.omega", "given where the loss has no schedule", None)
    if schedule is not None and (needed or options.timestep_window is not None):
        for name, list_ in timesteps:
            _refuse_sigmas(schedule, name, list_)
    table = getattr(schedule._levels, "omega_table", None) if schedule is not None and not has_omega else None
    if table is not None or options.timestep_window is not None:
        if table is not None and needed:
            for name, list_ in timesteps:
                _check_indices(schedule, name, list_)
        for branch, (_, list_) in zip(BRANCHES, timesteps):
            numbers.set(f"timestep_{branch}", list_)
        numbers.table = table
    if schedule is None or has_omega or table is not None:
        return
    if not needed:
        numbers.late = timesteps
        return
    write_omegas(numbers, schedule, reader, timesteps)


def write_omegas(numbers: RowNumbers, schedule: Any, reader: Reader, timesteps: Any) -> None:
    """omega of a flow schedule, which has no table."""
    found: List[Any] = []
    for branch, (name, list_) in zip(BRANCHES, timesteps):
        if found and list_ is timesteps[0][1]:
            value = found[0]
        elif isinstance(list_, torch.Tensor):
            value = schedule.omegas(list_, name)
        else:
            omegas = schedule.omegas([list_] if isinstance(list_, float) else list(list_), name).tolist()
            value = omegas[0] if isinstance(list_, float) else array.array("d", omegas)
        found.append(value)
        numbers.set(f"omega_{branch}", value)


def _host_values(list_: Any) -> Optional[List[float]]:
    return None if isinstance(list_, torch.Tensor) else [list_] if isinstance(list_, float) else list(list_)


def _check_indices(schedule: Any, name: str, list_: Any) -> None:
    values, last = _host_values(list_), schedule.train_steps - 1
    for i, t in enumerate(values or ()):
        if not (0 <= t <= last and t == int(t)):
            at = name if isinstance(list_, float) else f"{name}[{i}]"
            fail_value(at, f"an integer between 0 and {last}", int(t) if t == math.floor(t) else t)


def _refuse_sigmas(schedule: Any, name: str, list_: Any) -> None:
    """sigma in place of t = T sigma would remove every row without a word: its omega is close to that of clean data."""
    values = _host_values(list_)
    if schedule.family != "flow" or schedule.train_steps <= 1 or not values or any(not 0 < t <= 1 for t in values):
        return
    fail_value(
        name,
        f"timesteps in (0, {schedule.train_steps}] of a flow schedule; these look like noise levels sigma, so multiply them by {schedule.train_steps}",
        f"only numbers in (0, 1], the first {values[0]:g}",
    )


def count_of(value: Any) -> Optional[int]:
    """How many entries a list or tensor of numbers has; None where it is one number for all, or neither."""
    if isinstance(value, Mapping) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0:
        return None
    return len(value)


def halves(value: Any, layout: str) -> Tuple[Any, Any]:
    """Numbers per row of stacked tensors, of chosen and of rejected."""
    if layout == "interleaved":
        return value[::2], value[1::2]
    rows = len(value) // 2
    return value[:rows], value[rows:]


def check_layout(layout: Any) -> str:
    if layout not in LAYOUTS[1:]:
        fail_value("layout", "'halves' (all chosen, then all rejected) or 'interleaved' (chosen, rejected, chosen, …)", layout)
    return layout
