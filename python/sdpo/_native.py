"""Calls libsdpo on PyTorch tensors: memory in place through data_ptr(), on the CPU or on a CUDA device's current stream."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from typing import Any, List, Optional, Tuple

import torch

from . import _library, _threads
from ._failures import is_throwing, throw_non_finite
from ._kept import RESULTS
from ._levels import compiling, to_device
from ._numbers import RowNumbers
from ._operands import Operands, elements_per_row, empty_like, lay_out
from ._tables import LISTS, METRIC, ROW_OUTPUT
from ._validate import fail_length, fail_type

DTYPES = {getattr(torch, name): index for index, name in enumerate(LISTS["dtypes"])}
_HOST, _CUDA = 0, 1  # sdpo_location_kind

# The coefficients a and b of both branches are neighbours among the row outputs, so that one operation scales them all.
COEFFICIENTS = slice(ROW_OUTPUT["a_chosen"], ROW_OUTPUT["b_rejected"] + 1)
assert COEFFICIENTS.stop - COEFFICIENTS.start == 4


# ---- Where and on which stream


def _location(device: torch.device) -> _library.Location:
    return _library.Location(_CUDA, device.index or 0) if device.type == "cuda" else _library.Location(_HOST, 0)


def _stream(device: torch.device) -> Optional[int]:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None


def _on(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _thread_count(threads: int, device: torch.device) -> int:
    return 0 if device.type == "cuda" else threads or _threads.default_threads()


# ---- A tensor as the library reads it

_View = Tuple[Optional[int], int, int, int]  # data, row stride, dtype, reserved
_ABSENT: _View = (None, 0, 0, 0)


def _view(tensor: Optional[torch.Tensor], rows: int, offset: int = 0, step: int = 1) -> _View:
    """Row i of the view is row offset + i * step of the tensor; a tensor of one row serves all."""
    if tensor is None:
        return _ABSENT
    stride = tensor.stride(0) if tensor.shape[0] > 1 else 0 if rows > 1 else elements_per_row(tensor)
    return tensor.data_ptr() + offset * stride * tensor.element_size(), stride * step, DTYPES[tensor.dtype], 0


def _branch_views(chosen: Optional[torch.Tensor], rejected: Optional[torch.Tensor], layout: str, rows: int) -> Tuple[_View, _View]:
    if layout == "branches":
        return _view(chosen, rows), _view(rejected, rows)
    if layout == "halves":
        return _view(chosen, rows), _view(chosen, rows, rows)
    return _view(chosen, rows, 0, 2), _view(chosen, rows, 1, 2)


# ---- The passes


@functools.lru_cache(maxsize=64)
def _options(numbers: Tuple[float, ...]) -> _library.Options:
    """Made once for each loss, and never written afterwards."""
    options = _library.Options(ctypes.sizeof(_library.Options))
    for (name, kind), value in zip(_library.Options._fields_[1:], numbers):
        setattr(options, name, value if kind is ctypes.c_double else int(value))
    return options


def _columns(numbers: RowNumbers) -> Tuple[Any, List[Any]]:
    """(sdpo_column for every row input, what must stay alive as long as they are read)."""
    columns = _library.Columns(*((None, value, 0, 0) for value in numbers.values))
    for field, values in numbers.lists.items():
        column = columns[field]
        if isinstance(values, torch.Tensor):
            column.data, column.dtype = values.data_ptr(), DTYPES[values.dtype]
            column.location = _CUDA if values.device.type == "cuda" else _HOST
        else:
            column.data = values.buffer_info()[0]  # array('d'), on the host; 0 is float64
    return columns, [numbers]


def _constant_columns(values: Tuple[float, ...]) -> Any:
    return _library.Columns(*((None, value, 0, 0) for value in values))


_constant_columns = functools.lru_cache(maxsize=64)(_constant_columns)


def _run(
    function: str,
    operands: Optional[Operands],
    row_outputs: torch.Tensor,
    threads: int,
    numbers: Optional[RowNumbers] = None,
    options: Optional[Tuple[float, ...]] = None,
    metrics: Optional[torch.Tensor] = None,
    gradient: Tuple[Optional[torch.Tensor], Optional[torch.Tensor]] = (None, None),
    denominator: float = 0.0,
    cross: bool = False,
) -> None:
    rows = row_outputs.shape[1]
    device = row_outputs.device
    where = (_CUDA, device.index or 0) if device.type == "cuda" else (_HOST, 0)
    if operands is None:
        size, views, weights, rejected_weights = 0, (_ABSENT,) * 8, _ABSENT, _ABSENT
    else:
        size, layout = operands.size, operands.layout
        policy = _branch_views(operands.policy_chosen, operands.policy_rejected, layout, rows)
        reference = _branch_views(operands.reference_chosen, operands.reference_rejected, layout, rows)
        target = _branch_views(operands.target_chosen, operands.target_rejected, layout, rows)
        grads = _branch_views(gradient[0], gradient[1], layout, rows)
        views = (policy[0], reference[0], target[0], grads[0], policy[1], reference[1], target[1], grads[1])
        weights, rejected_weights = _view(operands.element_weights, rows), _view(operands.element_weights_rejected, rows)
    columns, table, count = None, None, 0
    if numbers is not None:
        columns = _columns(numbers)[0] if numbers.lists else _constant_columns(numbers.values)
        if numbers.table is not None:
            table, count = numbers.table.pointer(device), numbers.table.count
    native = None if options is None else _options(options)
    problem = _library.Problem(
        ctypes.sizeof(_library.Problem), rows, size,
        *views[0], *views[1], *views[2], *views[3], *views[4], *views[5], *views[6], *views[7], *weights,
        *where, *where,
        None if columns is None else ctypes.addressof(columns), 0 if columns is None else len(columns),
        0 if where[0] == _CUDA else threads or _threads.within(_thread_limit()),
        table, count,
        row_outputs.data_ptr(), None if metrics is None else metrics.data_ptr(),
        None if native is None else ctypes.addressof(native),
        denominator, 1.0, cross, 0, _stream(device), *rejected_weights,
    )  # fmt: skip
    if function == "sdpo_reserve":
        with _on(device):
            _library.check(_library.library().sdpo_reserve(problem))
    elif where[0] == _CUDA:
        with torch.cuda.device(device):
            _library.run(function, problem)
    else:
        _library.run(function, problem)


_thread_limit = functools.lru_cache(maxsize=None)(_threads.limit)


def evaluate(
    operands: Operands,
    numbers: RowNumbers,
    options: Tuple[float, ...],
    denominator: float,
    threads: int,
    gradient: Tuple[Optional[torch.Tensor], Optional[torch.Tensor]],
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Row outputs [fields, rows] and metrics [fields]; the gradient of the batch loss into `gradient`, where tensors for it are given."""
    row_outputs, metrics = new_outputs(operands)
    _run("sdpo_evaluate", operands, row_outputs, threads, numbers, options, metrics, gradient, denominator)
    if row_outputs.device.type == "cuda" and is_throwing(options):
        throw_non_finite(row_outputs, operands, numbers)
    return row_outputs, metrics


def reserve(operands: Operands, numbers: RowNumbers, options: Tuple[float, ...], threads: int) -> None:
    """Room for all passes in the workspace of the current stream, and tables on its device; no tensor is read or written."""
    row_outputs, metrics = new_outputs(operands)
    # Backward may come without the references, which then do not choose its kernel any more.
    for given in (operands, operands._replace(reference_chosen=None, reference_rejected=None)):
        # The gradients are made when they are wanted; what they take depends on their shape only.
        policies = (operands.policy_chosen, operands.policy_rejected)
        _run("sdpo_reserve", given, row_outputs, threads, numbers, options, metrics, policies)


def moments(operands: Operands, numbers: RowNumbers, options: Tuple[float, ...], threads: int, cross: bool) -> torch.Tensor:
    """Row outputs with the moments and the elements of the tensors given; all other fields are 0."""
    row_outputs = torch.zeros((len(ROW_OUTPUT), operands.rows), dtype=torch.float64, device=operands.device)
    _run("sdpo_moments", operands, row_outputs, threads, numbers, options, cross=cross)
    return row_outputs


def objective(row_outputs: torch.Tensor, numbers: RowNumbers, options: Tuple[float, ...], denominator: float) -> torch.Tensor:
    """Fills the row outputs that follow from the moments in them, and gives the metrics."""
    metrics = torch.empty((len(METRIC),), dtype=torch.float64, device=row_outputs.device)
    _run("sdpo_objective", None, row_outputs, 1, numbers, options, metrics, denominator=denominator)
    if row_outputs.device.type == "cuda" and is_throwing(options):
        throw_non_finite(row_outputs)
    return metrics


def gradients(operands: Operands, row_outputs: torch.Tensor, threads: int, gradient: Tuple[Optional[torch.Tensor], Optional[torch.Tensor]]) -> None:
    """The gradient of these elements, by the coefficients and the elements per row in `row_outputs`."""
    _run("sdpo_gradients", operands, row_outputs, threads, gradient=gradient)


def new_outputs(operands: Operands) -> Tuple[torch.Tensor, torch.Tensor]:
    """Uninitialised row outputs [fields, rows] and metrics [fields]."""
    device = operands.device
    return (
        torch.empty((len(ROW_OUTPUT), operands.rows), dtype=torch.float64, device=device),
        torch.empty((len(METRIC),), dtype=torch.float64, device=device),
    )


def new_gradient(operands: Operands, chosen: bool, rejected: bool) -> Tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
    """Uninitialised gradients like the policies, in the order of elements of the operands."""
    return (
        _result_like(operands.policy_chosen, operands.row_strides) if chosen else None,
        _result_like(operands.policy_rejected, operands.row_strides) if rejected and operands.policy_rejected is not None else None,
    )


def _result_like(tensor: torch.Tensor, row_strides: Optional[Tuple[int, ...]]) -> torch.Tensor:
    """As empty_like, in memory that is kept where it is large."""
    return RESULTS.like(empty_like(tensor, row_strides))


# ---- a x + b y


def combine(a: torch.Tensor, x: torch.Tensor, b: torch.Tensor, y: torch.Tensor, names: Tuple[str, str]) -> torch.Tensor:
    """out[row] = a[row] x[row] + b[row] y[row] in float64, rounded once to the dtype of x; laid out as x where x and y agree."""
    check_tensor(names[0], x)
    check_tensor(names[1], y)
    if x.shape[0] != a.shape[0]:
        fail_length(names[0], f"of shape [{a.shape[0]}, …], one row per timestep", x)
    if y.dtype != x.dtype or y.shape != x.shape or y.device != x.device:
        fail_type(names[1], f"of the shape, dtype and device of {names[0]} ({list(x.shape)}, {x.dtype}, {x.device})", y)
    if x.device.type != "cpu" or not _library.available():
        # The library takes the factors from the host; timesteps that are on the device would have to be waited for.
        per_row = (-1,) + (1,) * (x.dim() - 1)
        a, b = (to_device(factor, x.device).reshape(per_row) for factor in (a, b))
        return (a * x.detach().double() + b * y.detach().double()).to(x.dtype)
    run = torch.ops.sdpo.combine if compiling() else _combine
    return run(a.cpu(), x.detach(), b.cpu(), y.detach())


def _struct(tensor: torch.Tensor, rows: int) -> _library.Tensor:
    return _library.Tensor(*_view(tensor, rows))


def _combine(a: torch.Tensor, x: torch.Tensor, b: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    (x, y), row_strides = lay_out([x, y])
    out = _result_like(x, row_strides)
    rows = x.shape[0]
    a, b = a.contiguous(), b.contiguous()
    status = _library.library().sdpo_combine(
        rows,
        elements_per_row(x),
        a.data_ptr(),
        _struct(x, rows),
        b.data_ptr(),
        _struct(y, rows),
        _struct(out, rows),
        _location(x.device),
        None,
        _thread_count(0, x.device),
    )
    _library.check(status)
    return out


def check_tensor(argument: str, value: Any) -> None:
    """A strided floating-point tensor [rows, …] on the CPU or on a CUDA device."""
    expected = "a tensor [rows, …] of float64, float32, float16 or bfloat16"
    if not isinstance(value, torch.Tensor) or value.dtype not in DTYPES or value.layout != torch.strided or value.dim() == 0:
        fail_type(argument, expected, value)
    if value.device.type not in ("cpu", "cuda"):
        fail_type(argument, f"{expected} on the CPU or on a CUDA device", f"a tensor on {value.device}")
    if elements_per_row(value) == 0:
        fail_length(argument, "of one or more elements a row", value)
