"""How the loss enters PyTorch's graphs: an autograd.Function in eager mode, registered custom operators wherever something is being traced."""

from __future__ import annotations

from typing import Any, List, NoReturn, Optional, Sequence, Tuple

import torch

from . import _native, _torch
from ._errors import SdpoError
from ._levels import HAS_CUSTOM_OPERATORS, transforming
from ._native import COEFFICIENTS
from ._numbers import OmegaTensor, RowNumbers
from ._operands import TENSOR_COUNT, Operands, empty_like, lay_out
from ._tables import METRIC, ROW_OUTPUT

Gradient = Tuple[Optional[torch.Tensor], Optional[torch.Tensor]]


class Call:
    """One evaluation: what it is made of, and what it left for the backward pass."""

    __slots__ = ("operands", "numbers", "options", "denominator", "threads", "backend", "per_row", "keep_reference", "row_outputs", "metrics", "fused", "owner")

    def __init__(
        self, operands: Operands, numbers: RowNumbers, options: Tuple[float, ...], denominator: float, threads: int, backend: Any, per_row: bool
    ) -> None:
        self.operands = operands
        self.numbers = numbers
        self.options = options
        self.denominator = denominator
        self.threads = threads
        self.backend = backend
        self.per_row = per_row
        self.keep_reference = True
        self.fused: Optional[Gradient] = None
        self.owner: Any = None  # the loss, which learns whether its losses are scaled

    def evaluate(self, fuse: bool, wanted: Sequence[bool] = ()) -> torch.Tensor:
        operands = laid_out(self.operands)
        gradient: Gradient = _native.new_gradient(operands, *wanted) if fuse else (None, None)
        self.row_outputs, self.metrics = self.backend.evaluate(operands, self.numbers, self.options, self.denominator, self.threads, gradient)
        if fuse:
            self.fused = gradient
        return loss_of(self.row_outputs, self.metrics, loss_dtype(operands), self.per_row)

    def gradients(self, grad_output: torch.Tensor, wanted: Sequence[bool]) -> Gradient:
        return gradients(self.operands, self.row_outputs, grad_output, wanted, self.threads, self.backend)


def laid_out(operands: Operands) -> Operands:
    tensors, row_strides = lay_out(operands.tensors)
    return Operands(*tensors, operands.layout, row_strides)  # type: ignore[arg-type]


def loss_dtype(operands: Operands) -> torch.dtype:
    """float64 for float64 predictions, else float32: a loss in 16 bits would lose its digits."""
    rejected = operands.policy_rejected
    double = operands.policy_chosen.dtype == torch.float64 or (rejected is not None and rejected.dtype == torch.float64)
    return torch.float64 if double else torch.float32


def loss_of(row_outputs: torch.Tensor, metrics: torch.Tensor, dtype: torch.dtype, per_row: bool) -> torch.Tensor:
    if per_row:
        return row_outputs[ROW_OUTPUT["loss"]].to(dtype, copy=True)
    if metrics.device.type == "cpu":
        return torch.tensor(metrics.tolist()[METRIC["batch_loss"]], dtype=dtype, device="cpu")
    return metrics[METRIC["batch_loss"]].to(dtype, copy=True)


def gradients(operands: Operands, row_outputs: torch.Tensor, grad_output: torch.Tensor, wanted: Sequence[bool], threads: int, backend: Any) -> Gradient:
    """The gradient from the coefficients of the objective times `grad_output` (of the batch, or of every row), in float64, before any rounding."""
    operands = laid_out(operands)
    scaled = row_outputs
    if grad_output.dim() > 0 or grad_output.device.type != "cpu" or grad_output.item() != 1:
        scaled = row_outputs.clone()
        coefficients = scaled[COEFFICIENTS]
        # A removed row stays 0, whatever the loss is scaled by.
        scaled[COEFFICIENTS] = torch.where(coefficients == 0, coefficients, coefficients * grad_output.to(scaled.dtype))
    gradient = _native.new_gradient(operands, *wanted)
    backend.gradients(operands, scaled, threads, gradient)
    return gradient


def _refuse_second() -> NoReturn:
    raise SdpoError(
        "ERR_SDPO_SECOND_DERIVATIVE",
        "Expected the gradient of PreferenceLoss not to be differentiated again, received a second backward through it: second derivatives do not exist here",
    )


# ---- Eager mode


class _Once(torch.autograd.Function):
    """Gradients as a step of a graph of their own (backward with create_graph=True); it has no derivative."""

    @staticmethod
    def forward(ctx: Any, call: Call, grad_output: torch.Tensor, wanted: Sequence[bool], *policies: torch.Tensor) -> Any:
        return tuple(gradient for gradient in call.gradients(grad_output, wanted) if gradient is not None)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        _refuse_second()


class _Loss(torch.autograd.Function):
    """Of the policies, one stacked or two. Everything else is constant and lies in the call."""

    @staticmethod
    def forward(ctx: Any, call: Call, fuse: bool, *policies: torch.Tensor) -> torch.Tensor:
        wanted = ctx.needs_input_grad[2:]
        loss = call.evaluate(fuse, wanted if len(wanted) == 2 else (wanted[0], False))
        operands = call.operands
        if not call.keep_reference:
            operands = operands._replace(reference_chosen=None, reference_rejected=None)
        # Kept as saved tensors, so that a change in place before backward is noticed.
        ctx.save_for_backward(*operands.tensors)
        ctx.call = call
        ctx.layout = operands.layout
        call.operands = call.numbers = None  # type: ignore[assignment]
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> Any:
        call = ctx.call
        operands = Operands(*ctx.saved_tensors, ctx.layout, None)
        wanted = ctx.needs_input_grad[2:]
        found: List[Optional[torch.Tensor]]
        fused, call.fused = call.fused, None
        plain = call.owner is not None and not call.per_row and grad_output.device.type == "cpu" and grad_output.item() == 1
        if call.owner is not None:
            call.owner._fuse = plain
        if fused is not None and plain and not torch.is_grad_enabled():
            found = list(fused)
        else:
            both = wanted if len(wanted) == 2 else (wanted[0], False)
            again = Call(operands, call.numbers, call.options, call.denominator, call.threads, call.backend, call.per_row)
            again.row_outputs = call.row_outputs
            if torch.is_grad_enabled():  # create_graph=True
                policies = [policy for policy in operands[:2] if policy is not None]
                made = iter(_Once.apply(again, grad_output, both, *policies))
                found = [next(made) if each else None for each in both]
            else:
                found = list(again.gradients(grad_output, both))
        return (None, None, *found[: len(wanted)])


def evaluate(call: Call, fuse: bool) -> torch.Tensor:
    """The loss, differentiable with respect to the policies, where one of them requires a gradient."""
    operands = call.operands
    policies = [policy for policy in operands[:2] if policy is not None]
    if not (torch.is_grad_enabled() and any(policy.requires_grad for policy in policies)):
        return call.evaluate(False)
    return _Loss.apply(call, fuse, *policies)


# ---- Custom operators, for torch.compile, export, make_fx, fake tensors and torch.func

_TENSORS = (
    "Tensor policy_chosen, Tensor? policy_rejected, Tensor target_chosen, Tensor? target_rejected, "
    "Tensor? reference_chosen, Tensor? reference_rejected, Tensor? element_weights, Tensor? element_weights_rejected"
)
_BACKENDS = (_native, _torch)
assert len(_TENSORS.split(",")) == TENSOR_COUNT


def traced(call: Call) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, row outputs, metrics) without a look at any value: by the registered operator, or by a function that torch.func can transform."""
    run = _Transformable.apply if transforming() or not HAS_CUSTOM_OPERATORS else torch.ops.sdpo.objective
    return run(*operator_arguments(call))


def operator_arguments(call: Call) -> Tuple[Any, ...]:
    numbers = call.numbers
    fields = sorted(numbers.lists)
    lists = torch.stack([numbers.lists[field].to(torch.float64) for field in fields]) if fields else None
    table = None if numbers.table is None else numbers.table.on(call.operands.device)
    return (
        *call.operands.tensors, lists, table, fields, list(numbers.values), list(call.options),
        call.operands.layout, call.denominator, call.threads, call.per_row, call.keep_reference, call.backend is _torch,
    )  # fmt: skip


def _numbers(lists: Optional[torch.Tensor], table: Optional[torch.Tensor], fields: List[int], values: List[float]) -> RowNumbers:
    numbers = RowNumbers(tuple(values))
    for i, field in enumerate(fields):
        numbers.lists[field] = lists[i].contiguous()  # type: ignore[index]
    numbers.table = None if table is None else OmegaTensor(table)
    return numbers


def _objective(*arguments: Any) -> Any:
    *tensors, lists, table, fields, values, options, layout, denominator, threads, per_row, _, plain = arguments
    operands = Operands(*(None if tensor is None else tensor.detach() for tensor in tensors), layout, None)  # type: ignore[arg-type]
    call = Call(operands, _numbers(lists, table, fields, values), tuple(options), denominator, threads, _BACKENDS[plain], per_row)
    loss = call.evaluate(False)
    # Nothing reads it without a safeguard, and a NaN would look like a difference to whoever compares runs.
    call.row_outputs[ROW_OUTPUT["cross"]].nan_to_num_(0.0)
    return loss, call.row_outputs, call.metrics


def _objective_fake(*arguments: Any) -> Any:
    *tensors, lists, table, fields, values, options, layout, denominator, threads, per_row, _, plain = arguments
    operands = Operands(*tensors, layout, None)
    make = operands.policy_chosen.new_empty
    loss = make((operands.rows,) if per_row else (), dtype=loss_dtype(operands))
    return loss, make((len(ROW_OUTPUT), operands.rows), dtype=torch.float64), make((len(METRIC),), dtype=torch.float64)


def _gradients(*arguments: Any) -> Any:
    *tensors, row_outputs, grad_output, layout, chosen, rejected, threads, plain = arguments
    found = gradients(Operands(*tensors, layout, None), row_outputs, grad_output, (chosen, rejected), threads, _BACKENDS[plain])
    return tuple(tensors[0].new_empty(0) if gradient is None else gradient for gradient in found)


def _gradients_fake(*arguments: Any) -> Any:
    *tensors, row_outputs, grad_output, layout, chosen, rejected, threads, plain = arguments
    operands = laid_out(Operands(*tensors, layout, None))
    made = zip((chosen, rejected), operands[:2])
    return tuple(empty_like(policy, operands.row_strides) if wanted and policy is not None else tensors[0].new_empty(0) for wanted, policy in made)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, lists, table, fields, values, options, layout, denominator, threads, per_row, keep_reference, plain = inputs
    operands = Operands(*tensors, layout, None)
    if not keep_reference:
        operands = operands._replace(reference_chosen=None, reference_rejected=None)
    ctx.save_for_backward(output[1], *operands.tensors)
    ctx.layout, ctx.threads, ctx.plain, ctx.inputs = layout, threads, plain, len(inputs)
    ctx.mark_non_differentiable(output[1], output[2])


def _backward(ctx: Any, grad_output: torch.Tensor, *_: Any) -> Any:
    row_outputs, *tensors = ctx.saved_tensors
    wanted = [bool(needed) and tensor is not None for needed, tensor in zip(ctx.needs_input_grad[:2], tensors)]
    run = _TransformableGradients.apply if transforming() or not HAS_CUSTOM_OPERATORS else torch.ops.sdpo.gradients
    found = run(*tensors, row_outputs, grad_output, ctx.layout, *wanted, ctx.threads, ctx.plain)
    return (*(gradient if each else None for gradient, each in zip(found, wanted)), *(None,) * (ctx.inputs - 2))


def _refuse_vmap(*_: Any, **__: Any) -> NoReturn:
    raise SdpoError(
        "ERR_SDPO_UNSUPPORTED_TRANSFORM",
        "Expected no torch.vmap around PreferenceLoss, received one: rows are its batch dimension already (put the mapped dimension into them)",
    )


def _refuse_jvp(*_: Any) -> NoReturn:
    raise SdpoError(
        "ERR_SDPO_UNSUPPORTED_TRANSFORM",
        "Expected no forward-mode differentiation (torch.func.jvp, jacfwd) through PreferenceLoss, received one: it has a backward pass only",
    )


class _Transformable(torch.autograd.Function):
    """The operator as a function whose context is set up apart from its forward, which torch.func.grad asks for."""

    forward = staticmethod(_objective)
    setup_context = staticmethod(_setup)
    backward = staticmethod(_backward)
    vmap = staticmethod(_refuse_vmap)
    jvp = staticmethod(_refuse_jvp)


class _TransformableGradients(torch.autograd.Function):
    forward = staticmethod(_gradients)
    setup_context = staticmethod(lambda ctx, inputs, output: None)
    backward = staticmethod(lambda ctx, *grads: _refuse_second())
    vmap = staticmethod(_refuse_vmap)
    jvp = staticmethod(_refuse_jvp)


def _register() -> None:
    custom_op = torch.library.custom_op
    loss = custom_op(
        "sdpo::objective",
        _objective,
        mutates_args=(),
        schema=f"({_TENSORS}, Tensor? lists, Tensor? table, int[] fields, float[] values, float[] options, str layout, float denominator, "
        "int threads, bool per_row, bool keep_reference, bool plain) -> (Tensor, Tensor, Tensor)",
    )
    loss.register_fake(_objective_fake)
    loss.register_autograd(_backward, setup_context=_setup)
    gradient = custom_op(
        "sdpo::gradients",
        _gradients,
        mutates_args=(),
        schema=f"({_TENSORS}, Tensor row_outputs, Tensor grad_output, str layout, bool chosen, bool rejected, int threads, bool plain) -> (Tensor, Tensor)",
    )
    gradient.register_fake(_gradients_fake)
    gradient.register_autograd(lambda ctx, *grads: _refuse_second())
    combine = custom_op("sdpo::combine", _native._combine, mutates_args=(), schema="(Tensor a, Tensor x, Tensor b, Tensor y) -> Tensor")
    combine.register_fake(lambda a, x, b, y: empty_like(x, lay_out([x, y])[1]))
    for operator in (loss, gradient, combine):
        register_vmap = getattr(operator, "register_vmap", None)
        if register_vmap is not None:
            register_vmap(_refuse_vmap)


if HAS_CUSTOM_OPERATORS:
    _register()
