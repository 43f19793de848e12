"""How the loss enters PyTorch's graphs: an autograd.Function, and under torch.compile (torch >= 2.4) registered custom operators.

Forward computes moments and objective; the gradient is formed in backward, where the scale of the loss is known.
"""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import torch

from . import _native
from ._errors import SdpoError
from ._levels import HAS_CUSTOM_OPERATORS, compiling
from ._native import Operands


class _Gradients(torch.autograd.Function):
    """The gradients as a step of a graph of their own (backward with create_graph=True); it has no derivative."""

    @staticmethod
    def forward(ctx: Any, row_outputs: Any, grad_output: Any, chosen: bool, rejected: bool, threads: int, *operands: Any) -> Any:
        grads = _native.gradients(Operands(*operands), row_outputs, grad_output, chosen, rejected, threads)
        return grads

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise SdpoError(
            "ERR_SDPO_SECOND_DERIVATIVE",
            "Expected the gradient of PreferenceLoss not to be differentiated again, received a second backward through it: "
            "second derivatives do not exist here",
        )


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, row_inputs: Any, options: List[float], denominator: float, threads: int, keep_reference: bool, *operands: Any
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        given = Operands(*operands)
        loss, row_outputs, metrics = _native.objective(given, row_inputs, options, denominator, threads)
        ctx.mark_non_differentiable(row_outputs, metrics)
        ctx.save_for_backward(row_outputs, *_for_backward(given, keep_reference))
        ctx.threads = threads
        return loss, row_outputs, metrics

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor, *_: Any) -> Tuple[Optional[torch.Tensor], ...]:
        row_outputs, *operands = ctx.saved_tensors
        chosen, rejected = ctx.needs_input_grad[5:7]
        grads = _Gradients.apply(row_outputs, grad_output, chosen, rejected, ctx.threads, *operands)
        # Behind the five arguments that are no operands: both policies, then the operands that are constants.
        return (None,) * 5 + (grads[0] if chosen else None, grads[1] if rejected else None) + (None,) * (len(Operands._fields) - 2)


def _for_backward(operands: Operands, keep_reference: bool) -> Operands:
    """Without the references, where the gradient does not read them, so that their memory can be used again."""
    return operands if keep_reference else operands._replace(reference_chosen=None, reference_rejected=None)


def evaluate(
    operands: Operands, row_inputs: torch.Tensor, options: List[float], denominator: float, threads: int, keep_reference: bool
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss (differentiable with respect to both policies), row outputs [fields, rows] and metrics [fields]."""
    if compiling():
        return torch.ops.sdpo.objective(row_inputs, options, denominator, threads, keep_reference, *operands)
    return _Loss.apply(row_inputs, options, denominator, threads, keep_reference, *operands)


# ---- Custom operators, which torch.compile takes as they are instead of looking inside

_OPERAND_SCHEMA = (
    "Tensor policy_chosen, Tensor policy_rejected, Tensor target_chosen, Tensor target_rejected, "
    "Tensor? reference_chosen, Tensor? reference_rejected, Tensor? element_weights"
)


def _register() -> None:
    def objective(row_inputs, options, denominator, threads, keep_reference, *operands):  # type: ignore[no-untyped-def]
        return _native.objective(Operands(*operands), row_inputs, options, denominator, threads)

    def objective_fake(row_inputs, options, denominator, threads, keep_reference, *operands):  # type: ignore[no-untyped-def]
        return _native.objective_outputs(Operands(*operands))

    def gradients(row_outputs, grad_output, chosen, rejected, threads, *operands):  # type: ignore[no-untyped-def]
        return _native.gradients(Operands(*operands), row_outputs, grad_output, chosen, rejected, threads)

    def gradients_fake(row_outputs, grad_output, chosen, rejected, threads, *operands):  # type: ignore[no-untyped-def]
        return _native.gradient_outputs(Operands(*operands), chosen, rejected)

    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        row_inputs, options, denominator, threads, keep_reference, *operands = inputs
        ctx.save_for_backward(output[1], *_for_backward(Operands(*operands), keep_reference))
        ctx.threads = threads

    def backward(ctx, grad_output, *_):  # type: ignore[no-untyped-def]
        row_outputs, *operands = ctx.saved_tensors
        chosen, rejected = ctx.needs_input_grad[5:7]
        grads = torch.ops.sdpo.gradients(row_outputs, grad_output, chosen, rejected, ctx.threads, *operands)
        return (None,) * 5 + (grads[0] if chosen else None, grads[1] if rejected else None) + (None,) * (len(Operands._fields) - 2)

    custom_op = torch.library.custom_op
    loss = custom_op(
        "sdpo::objective",
        objective,
        mutates_args=(),
        schema=f"(Tensor row_inputs, float[] options, float denominator, int threads, bool keep_reference, {_OPERAND_SCHEMA}) "
        "-> (Tensor, Tensor, Tensor)",
    )
    loss.register_fake(objective_fake)
    loss.register_autograd(backward, setup_context=setup_context)
    gradient = custom_op(
        "sdpo::gradients",
        gradients,
        mutates_args=(),
        schema=f"(Tensor row_outputs, Tensor grad_output, bool chosen, bool rejected, int threads, {_OPERAND_SCHEMA}) -> (Tensor, Tensor)",
    )
    gradient.register_fake(gradients_fake)
    combine = custom_op("sdpo::combine", _native._combine, mutates_args=(), schema="(Tensor a, Tensor x, Tensor b, Tensor y) -> Tensor")
    combine.register_fake(lambda a, x, b, y: _native._empty_like(x, _native.lay_out([x, y]).row_strides))


if HAS_CUSTOM_OPERATORS:
    _register()
