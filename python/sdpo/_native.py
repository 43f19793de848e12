"""Calls libsdpo on PyTorch tensors: memory in place through data_ptr(), on the CPU or on a CUDA device's current stream."""

from __future__ import annotations

import contextlib
import ctypes
import math
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import torch

from . import _library
from ._errors import NonFiniteError
from ._levels import compiling, to_device
from ._tables import LISTS, METRIC, ROW_INPUT, ROW_OUTPUT
from ._threads import default_threads
from ._validate import fail_length, fail_type

DTYPES = {getattr(torch, name): index for index, name in enumerate(LISTS["dtypes"])}
_HOST, _CUDA = 0, 1  # sdpo_location_kind

# The coefficients a and b of both branches are neighbours among the row outputs, so that one operation scales them all.
COEFFICIENTS = slice(ROW_OUTPUT["a_chosen"], ROW_OUTPUT["b_rejected"] + 1)
assert COEFFICIENTS.stop - COEFFICIENTS.start == 4


# ---- Layout: the library reads rows of D contiguous elements


def _is_packed(tensor: torch.Tensor) -> bool:
    """Whether the elements of each row lie one behind the other in the order of their indices."""
    expected = 1
    for extent, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:])):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return not tensor.is_neg()


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


class Layout(NamedTuple):
    tensors: List[Optional[torch.Tensor]]  # as given, or copies where rows were not contiguous
    row_strides: Optional[Tuple[int, ...]]  # of the dimensions behind the first, where memory order is not index order


def lay_out(tensors: Sequence[Optional[torch.Tensor]]) -> Layout:
    """Tensors [rows, …] of one shape, all in one order of elements: in place where they agree on one, else copied where they do not.

    A tensor of shape [1, …] serves all rows.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if all(_is_packed(tensor) for tensor in given):
        return Layout(list(tensors), None)
    if all(_is_permuted(tensor) and _pattern(tensor) == _pattern(given[0]) for tensor in given):
        return Layout(list(tensors), tuple(given[0].stride()[1:]))
    return Layout([None if tensor is None else tensor if _is_packed(tensor) else tensor.resolve_neg().contiguous() for tensor in tensors], None)


def _empty_like(tensor: torch.Tensor, row_strides: Optional[Tuple[int, ...]]) -> torch.Tensor:
    if row_strides is None:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return torch.empty_strided(tensor.shape, (elements_per_row(tensor), *row_strides), dtype=tensor.dtype, device=tensor.device)


def elements_per_row(tensor: torch.Tensor) -> int:
    size = 1
    for extent in tensor.shape[1:]:
        size *= extent
    return size


def _view(tensor: Optional[torch.Tensor], rows: int) -> _library.Tensor:
    if tensor is None:
        return _library.Tensor()
    one_for_all = tensor.shape[0] == 1 and rows != 1
    stride = 0 if one_for_all else tensor.stride(0) if rows > 1 else elements_per_row(tensor)
    return _library.Tensor(tensor.data_ptr(), stride, DTYPES[tensor.dtype], 0)


# ---- Where and on which stream


def _location(device: torch.device) -> _library.Location:
    return _library.Location(_CUDA, device.index or 0) if device.type == "cuda" else _library.Location(_HOST, 0)


def _stream(device: torch.device) -> Optional[int]:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None


def _on(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _thread_count(threads: int, device: torch.device) -> int:
    return 0 if device.type == "cuda" else threads or default_threads()


# ---- The two passes


class Operands(NamedTuple):
    """Tensors [rows, …] of one shape on one device; `reference` None: its error is a row input; element_weights [rows or 1, …]."""

    policy_chosen: torch.Tensor
    policy_rejected: torch.Tensor
    target_chosen: torch.Tensor
    target_rejected: torch.Tensor
    reference_chosen: Optional[torch.Tensor]
    reference_rejected: Optional[torch.Tensor]
    element_weights: Optional[torch.Tensor]


def _problem(operands: Operands, row_inputs: torch.Tensor, row_outputs: torch.Tensor, threads: int) -> _library.Problem:
    device = operands.policy_chosen.device
    rows = operands.policy_chosen.shape[0]
    problem = _library.new_problem()
    problem.rows = rows
    problem.size = elements_per_row(operands.policy_chosen)
    problem.chosen.policy = _view(operands.policy_chosen, rows)
    problem.chosen.reference = _view(operands.reference_chosen, rows)
    problem.chosen.target = _view(operands.target_chosen, rows)
    problem.rejected.policy = _view(operands.policy_rejected, rows)
    problem.rejected.reference = _view(operands.reference_rejected, rows)
    problem.rejected.target = _view(operands.target_rejected, rows)
    problem.element_weights = _view(operands.element_weights, rows)
    problem.tensors = problem.scalars = _location(device)
    problem.row_inputs = row_inputs.data_ptr()
    problem.row_outputs = row_outputs.data_ptr()
    problem.threads = _thread_count(threads, device)
    problem.stream = _stream(device)
    return problem


def _options(encoded: Sequence[float]) -> _library.Options:
    native = _library.new_options()
    for name, value in zip(_library.ENCODED_OPTIONS, encoded):
        setattr(native, name, type(getattr(native, name))(value))
    return native


def loss_dtype(operands: Operands) -> torch.dtype:
    """float64 for float64 predictions, else float32: a loss in 16 bits would lose its digits."""
    double = torch.float64 in (operands.policy_chosen.dtype, operands.policy_rejected.dtype)
    return torch.float64 if double else torch.float32


def objective_outputs(operands: Operands) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Uninitialised results of `objective`: loss, row outputs [fields, rows], metrics [fields]."""
    device, rows = operands.policy_chosen.device, operands.policy_chosen.shape[0]
    return (
        torch.empty((), dtype=loss_dtype(operands), device=device),
        torch.empty((len(ROW_OUTPUT), rows), dtype=torch.float64, device=device),
        torch.empty((len(METRIC),), dtype=torch.float64, device=device),
    )


def objective(
    operands: Operands, row_inputs: torch.Tensor, options: Sequence[float], denominator: float, threads: int
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Moments and objective: loss, row outputs and metrics. `options`: the fields of _library.ENCODED_OPTIONS as floats; denominator 0: the number of rows."""
    laid_out = Operands(*lay_out(operands).tensors)
    loss, row_outputs, metrics = objective_outputs(operands)
    native = _options(options)
    problem = _problem(laid_out, row_inputs, row_outputs, threads)
    problem.options = ctypes.pointer(native)
    problem.metrics = metrics.data_ptr()
    problem.denominator = denominator
    with _on(loss.device):
        _library.run("sdpo_objective", problem)
    loss.copy_(metrics[METRIC["batch_loss"]])
    if loss.device.type == "cuda" and native.non_finite == LISTS["nonFinite"].index("throw"):
        _throw_non_finite(operands, row_inputs, row_outputs)
    return loss, row_outputs, metrics


def reserve(operands: Operands, row_inputs: torch.Tensor, options: Sequence[float], threads: int) -> None:
    """Room for both passes in the workspace of the current stream; nothing is read or written."""
    _, row_outputs, metrics = objective_outputs(operands)
    native = _options(options)
    laid_out = Operands(*lay_out(operands).tensors)
    # Backward may come without the references, which then do not choose its kernel any more.
    for given in (laid_out, laid_out._replace(reference_chosen=None, reference_rejected=None)):
        problem = _problem(given, row_inputs, row_outputs, threads)
        problem.options = ctypes.pointer(native)
        problem.metrics = metrics.data_ptr()
        # The gradients are made when they are wanted; what they take depends on their shape only.
        problem.chosen.gradient, problem.rejected.gradient = problem.chosen.policy, problem.rejected.policy
        with _on(row_outputs.device):
            _library.check(_library.library().sdpo_reserve(ctypes.byref(problem)))


def _throw_non_finite(operands: Operands, row_inputs: torch.Tensor, row_outputs: torch.Tensor) -> None:
    """The error of the first row that is not finite. It waits for the device, which is what non_finite="throw" asks for there."""
    bad = row_outputs[ROW_OUTPUT["non_finite"]].nonzero()
    if bad.shape[0] == 0:
        return
    row = int(bad[0])
    for branch in ("chosen", "rejected"):
        for tensor in ("policy", "reference", "target"):
            values = getattr(operands, f"{tensor}_{branch}")
            elements = [] if values is None else (~torch.isfinite(values[row])).reshape(-1).nonzero().reshape(-1).tolist()
            if elements:
                raise NonFiniteError(row, branch, tensor, elements[0])
        error = row_inputs[ROW_INPUT[f"reference_error_{branch}"], row]
        if getattr(operands, f"reference_{branch}") is None and not bool(torch.isfinite(error)):
            raise NonFiniteError(row, branch, "reference_error", -1)
    sums = [row_outputs[ROW_OUTPUT[f"error_{branch}"], row].item() for branch in ("chosen", "rejected")]
    raise NonFiniteError(row, "chosen" if not math.isfinite(sums[0]) else "rejected", "row", -1)


def gradient_outputs(operands: Operands, chosen: bool, rejected: bool) -> Tuple[torch.Tensor, torch.Tensor]:
    """Uninitialised gradients like the policies; of no elements where one is not wanted."""
    row_strides = lay_out(operands).row_strides
    nothing = operands.policy_chosen.new_empty
    return (
        _empty_like(operands.policy_chosen, row_strides) if chosen else nothing(0),
        _empty_like(operands.policy_rejected, row_strides) if rejected else nothing(0),
    )


def gradients(
    operands: Operands, row_outputs: torch.Tensor, grad_output: torch.Tensor, chosen: bool, rejected: bool, threads: int
) -> Tuple[torch.Tensor, torch.Tensor]:
    """The gradient from the coefficients of `objective` times `grad_output`, which is folded in on its device, in float64, before any rounding."""
    laid_out = Operands(*lay_out(operands).tensors)
    grads = gradient_outputs(operands, chosen, rejected)
    scaled = row_outputs.clone()
    coefficients = scaled[COEFFICIENTS]
    # A removed row stays 0, whatever the loss is scaled by.
    scaled[COEFFICIENTS] = torch.where(coefficients == 0, coefficients, coefficients * grad_output.to(torch.float64))
    problem = _problem(laid_out, scaled, scaled, threads)
    rows = operands.policy_chosen.shape[0]
    if chosen:
        problem.chosen.gradient = _view(grads[0], rows)
    if rejected:
        problem.rejected.gradient = _view(grads[1], rows)
    with _on(row_outputs.device):
        _library.run("sdpo_gradients", problem)
    return grads


# ---- a x + b y


def combine(a: torch.Tensor, x: torch.Tensor, b: torch.Tensor, y: torch.Tensor, names: Tuple[str, str]) -> torch.Tensor:
    """out[row] = a[row] x[row] + b[row] y[row] in float64, rounded once to the dtype of x; laid out as x where x and y agree."""
    check_tensor(names[0], x)
    check_tensor(names[1], y)
    if x.shape[0] != a.shape[0]:
        fail_length(names[0], f"of shape [{a.shape[0]}, …], one row per timestep", x)
    if y.dtype != x.dtype or y.shape != x.shape or y.device != x.device:
        fail_type(names[1], f"of the shape, dtype and device of {names[0]} ({list(x.shape)}, {x.dtype}, {x.device})", y)
    if x.device.type == "cuda":
        # The library takes the factors from the host; timesteps that are on the device would have to be waited for.
        per_row = (-1,) + (1,) * (x.dim() - 1)
        a, b = (to_device(factor, x.device).reshape(per_row) for factor in (a, b))
        return (a * x.detach().double() + b * y.detach().double()).to(x.dtype)
    run = torch.ops.sdpo.combine if compiling() else _combine
    return run(a.cpu(), x.detach(), b.cpu(), y.detach())


def _combine(a: torch.Tensor, x: torch.Tensor, b: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    (x, y), row_strides = lay_out([x, y])
    out = _empty_like(x, row_strides)
    rows = x.shape[0]
    a, b = a.contiguous(), b.contiguous()
    status = _library.library().sdpo_combine(
        rows,
        elements_per_row(x),
        a.data_ptr(),
        ctypes.byref(_view(x, rows)),
        b.data_ptr(),
        ctypes.byref(_view(y, rows)),
        ctypes.byref(_view(out, rows)),
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


def fill_row_inputs(template: torch.Tensor, rows: int) -> torch.Tensor:
    """Row inputs [fields, rows] with the same scalars in every row."""
    assert template.shape[0] == len(ROW_INPUT)
    return template.unsqueeze(1).repeat(1, rows)
