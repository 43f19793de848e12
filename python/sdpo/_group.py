"""Rows whose elements are spread over the ranks of a process group: one exchange of moments between the two passes."""

from __future__ import annotations

import math
from typing import Any, Sequence, Tuple

import torch

from ._autograd import Call, Gradient, laid_out, loss_dtype, loss_of
from ._errors import SdpoError
from ._failures import is_throwing, throw_non_finite
from ._levels import tracing
from ._tables import LISTS, ROW_OUTPUT
from ._validate import fail_type
from .moments import combine_packed, moments_of, pack

_NON_FINITE = LISTS["options"].index("nonFinite")
_PROPAGATE = float(LISTS["nonFinite"].index("propagate"))
_SAFEGUARD = LISTS["options"].index("safeguard")
_WEIGHTS = "ERR_SDPO_ELEMENT_WEIGHTS"


class SpreadCall(Call):
    __slots__ = ("group",)

    def __init__(self, *arguments: Any) -> None:
        *rest, self.group = arguments
        super().__init__(*rest)  # type: ignore[call-arg]
        if tracing():
            fail_type("group", "left out under torch.compile, export and torch.func: its exchange is not part of a graph", self.group)

    def evaluate(self, fuse: bool, wanted: Sequence[bool] = ()) -> torch.Tensor:
        operands = laid_out(self.operands)
        # A rank that throws before the exchange would leave the others waiting in it. So what is wrong travels, and all ranks throw together.
        quiet = tuple(_PROPAGATE if i == _NON_FINITE else value for i, value in enumerate(self.options))
        refused = None
        try:
            local = self.backend.moments(operands, self.numbers, quiet, self.threads, self.options[_SAFEGUARD] >= 0)
        except SdpoError as error:
            if error.code != _WEIGHTS:
                raise
            refused, local = error, torch.full((len(ROW_OUTPUT), operands.rows), math.nan, dtype=torch.float64)
        parts = _gather(pack(moments_of(local, True, operands.weighted_apart)), self.group)
        if refused is not None:
            raise refused
        self.row_outputs = combine_packed(parts)
        if operands.device.type == "cpu" and bool(torch.isnan(self.row_outputs[ROW_OUTPUT["element_sum_chosen"]]).any()):
            raise SdpoError(_WEIGHTS, "Expected element_weights to be finite and >= 0 on every rank of the group, received others on a rank, which says where")
        self.metrics = self.backend.objective(self.row_outputs, self.numbers, quiet if is_throwing(self.options) else self.options, self.denominator)
        if is_throwing(self.options):
            throw_non_finite(self.row_outputs, operands, self.numbers)
        return loss_of(self.row_outputs, self.metrics, loss_dtype(operands), self.per_row)


def _gather(packed: torch.Tensor, group: Any) -> torch.Tensor:
    """[ranks, fields, rows], in the order of the ranks on every rank: sums over it have the same bits everywhere."""
    distributed = torch.distributed
    home = packed.device
    if "nccl" in distributed.get_backend(group) and home.type == "cpu":
        packed = packed.cuda()  # nccl moves device memory only
    parts = [torch.empty_like(packed) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, packed.contiguous(), group=group)
    return torch.stack(parts).to(home)


class _SpreadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: SpreadCall, *policies: torch.Tensor) -> torch.Tensor:
        loss = call.evaluate(False)
        ctx.save_for_backward(*call.operands.tensors)
        ctx.call = call
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> Tuple[Any, ...]:
        ctx.saved_tensors  # noqa: B018 - a change in place is noticed here
        wanted = ctx.needs_input_grad[1:]
        found: Gradient = ctx.call.gradients(grad_output, wanted if len(wanted) == 2 else (wanted[0], False))
        return (None, *found[: len(wanted)])


def evaluate_spread(call: SpreadCall) -> torch.Tensor:
    policies = [policy for policy in call.operands[:2] if policy is not None]
    if not (torch.is_grad_enabled() and any(policy.requires_grad for policy in policies)):
        return call.evaluate(False)
    return _SpreadLoss.apply(call, *policies)
