"""The preference loss: checks a batch and gives a loss that PyTorch can differentiate; the passes of it by themselves."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NoReturn, Optional, Sequence, Tuple, Union

import torch

from . import _autograd, _native
from ._autograd import Call
from ._backends import backend_for, check_backend
from ._batch import Batch, read_branches, read_stacked, refuse_cross
from ._group import SpreadCall, evaluate_spread
from ._levels import tracing
from ._numbers import Reader, read_numbers, write_omegas
from ._options import OPTION_NAMES, encode, resolve
from ._tables import ROW_DEFAULTS, ROW_INPUT
from ._validate import check_above, check_one_of, fail_length, fail_type, refuse_unknown
from .moments import Coefficients, Moments, check_coefficients, moments_of, read_moments
from .result import PreferenceOutput
from .schedule import NoiseSchedule

Numbers = Union[float, torch.Tensor, Sequence[float]]
PerBranch = Union[Numbers, Mapping[str, Numbers]]
BranchInput = Union[Tuple[torch.Tensor, Optional[torch.Tensor], torch.Tensor], Mapping[str, Any]]
ElementWeights = Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor], Mapping[str, torch.Tensor]]
Range = Union[float, Tuple[float, float]]

REDUCTIONS = ("mean", "sum", "none")
NUMBER_NAMES = ("timesteps", "beta_scale", "margins", "keep", "row_weights", "transition", "weight_noise", "mask_threshold")


class PreferenceLoss:
    """A preference loss over pairs of predictions. Reusable and stateless: a call leaves nothing for the next.

    The options are those of the TypeScript class in snake_case (docs/api.md), with the same defaults and the same errors; None is "not given".

    objective: "diffusion-dpo", "dpo-cm", "sdpo", "dspo", "dmpo", "mapo" or "linear-dpo". beta: > 0, required.
    schedule: a NoiseSchedule; needed where omega is read: by "dpo-cm" and "sdpo", and by timestep_weighting "elbo", unless every call brings its own.
    clip_range (0.1, or (low, high)), mask_threshold (0.9), weight_sharpness (1), weight_exponent (1), weight_ratio ("policy/data"),
        weight_gradient (False): for "dpo-cm" and "sdpo". pair_weight: for "dpo-cm" ("geometric") and "sdpo" (one weight per branch).
    timestep_weighting ("constant"), log_ratio_reduction ("mean"), log_ratio_clip (off), timestep_window (all), link ("sigmoid"),
        label_smoothing (0), sft_weight (0), sft_scope ("all"), kl_weight (0), kl_scope ("all"), safeguard (off), safeguard_scope ("pair"),
        dmpo_alpha (0.01), mapo_scale (0.5), mapo_steps (T of the schedule, or 1000), linear_floor (0.01).
    non_finite: "throw", "skip" or "propagate"; default "throw" on the CPU and "propagate" elsewhere, where looking would synchronise.
    threads: of a call on the CPU; default SDPO_NUM_THREADS, else the processors that this process may use divided by the ranks on the host, and no
        more than torch.get_num_threads(). Results do not depend on it.
    backend: "native" (libsdpo), or "torch" (the same mathematics in plain PyTorch); default native where the library serves the device of the
        tensors, else torch with one warning.
    """

    def __init__(
        self,
        objective: Any = None,
        schedule: Optional[NoiseSchedule] = None,
        beta: Any = None,
        *,
        clip_range: Optional[Range] = None,
        mask_threshold: Optional[float] = None,
        weight_sharpness: Optional[float] = None,
        weight_exponent: Optional[float] = None,
        weight_ratio: Optional[str] = None,
        pair_weight: Optional[str] = None,
        weight_gradient: Optional[bool] = None,
        timestep_weighting: Optional[str] = None,
        log_ratio_reduction: Optional[str] = None,
        log_ratio_clip: Optional[Range] = None,
        timestep_window: Optional[Tuple[float, float]] = None,
        link: Optional[str] = None,
        label_smoothing: Optional[float] = None,
        sft_weight: Optional[float] = None,
        sft_scope: Optional[str] = None,
        kl_weight: Optional[float] = None,
        kl_scope: Optional[str] = None,
        safeguard: Optional[float] = None,
        safeguard_scope: Optional[str] = None,
        dmpo_alpha: Optional[float] = None,
        mapo_scale: Optional[float] = None,
        mapo_steps: Optional[float] = None,
        linear_floor: Optional[float] = None,
        non_finite: Optional[str] = None,
        threads: Optional[int] = None,
        backend: Optional[str] = None,
        **unknown: NoReturn,  # refused by type checkers, and here with the name that was meant
    ) -> None:
        given = dict(locals())
        refuse_unknown("the options", unknown, (*OPTION_NAMES, "backend"))
        self._set({"options": resolve({name: given[name] for name in OPTION_NAMES}), "backend": check_backend(backend)})

    def _set(self, state: Mapping[str, Any]) -> None:
        self.options = options = state["options"]
        self.backend: Optional[str] = state["backend"]
        # One number for all rows where a call does not say otherwise.
        self._row_values = tuple(options.mask_threshold if name == "mask_threshold" else value for name, value in zip(ROW_INPUT, ROW_DEFAULTS))
        self._encoded = {looking: encode(options, looking) for looking in (True, False)}
        self._threads = 0 if options.threads is None else options.threads
        self._keeps_reference = options.needs_drift is not None
        # Whether the last gradient was asked for as it is. Only when work is done depends on it: the gradient is formed with the loss, in one
        # reading of the tensors, as long as nobody scales the loss.
        self._fuse = True

    def __getstate__(self) -> Dict[str, Any]:
        return {"options": self.options, "backend": self.backend}

    __setstate__ = _set

    def __call__(
        self,
        *,
        chosen: Optional[BranchInput] = None,
        rejected: Optional[BranchInput] = None,
        policy: Optional[torch.Tensor] = None,
        reference: Optional[torch.Tensor] = None,
        target: Optional[torch.Tensor] = None,
        reference_error: Optional[Numbers] = None,
        layout: Optional[str] = None,
        timesteps: Optional[PerBranch] = None,
        beta_scale: Optional[PerBranch] = None,
        margins: Optional[Numbers] = None,
        keep: Optional[Numbers] = None,
        row_weights: Optional[Numbers] = None,
        element_weights: Optional[ElementWeights] = None,
        transition: Optional[Mapping[str, Any]] = None,
        weight_noise: Optional[Mapping[str, Numbers]] = None,
        denominator: Optional[float] = None,
        mask_threshold: Optional[Numbers] = None,
        reduction: str = "mean",
        group: Any = None,
    ) -> PreferenceOutput:
        """Loss, row statistics and metrics of one batch, differentiable with respect to the policy.

        chosen, rejected: (policy, reference, target), or a mapping with the fields policy, target and either reference or
            reference_error (its mean squared error r per row, where it was cached; "mapo" may do without). Tensors [rows, …] of
            one shape and device in float64, float32, float16 or bfloat16, mixed as autocast makes them. Only the policies receive a gradient.
            Rows are read in place where each is contiguous or where all tensors share one order of elements (channels_last); others are copied.
        policy, reference, target, layout: in place of chosen and rejected, both stacked in one tensor [2 rows, …] each: layout "halves" (all chosen,
            then all rejected) or "interleaved" (chosen, rejected, chosen, …). One gradient is written. reference_error: [2 rows], in that order too.
        timesteps: one per row ([rows] or [rows, 1]; of stacked tensors also [2 rows]), one number for all, or {"chosen": …, "rejected": …}.
            Not needed where nothing reads them.
        beta_scale: a factor >= 0 on beta per row, or {"chosen": …, "rejected": …}. margins: subtracted from the logit. keep: 0 or False removes a row.
        row_weights: weight >= 0 of each row in the loss, anchors included.
        element_weights: weights e >= 0 of the elements, or a boolean or uint8 mask; [rows, …] or one row […], axes of size 1 stand for all of the axis:
            m = sum e d² / sum e. For both branches alike; as (chosen, rejected) or {"chosen": …, "rejected": …} each branch has means and gradient by its
            own, and a safeguard, whose mean pairs the elements of both, is refused.
        transition: {"omega": …, "offset_chosen": …, "offset_rejected": …}, the caller's own transitions in place of the schedule's.
        weight_noise: {"chosen": …, "rejected": …}, one standard normal per row, for the sampled weight.
        denominator: what the sum over rows is divided by; default the number of rows. For gradient accumulation, and for ranks with
            different numbers of rows (see `sdpo.denominator`).
        mask_threshold: overrides the option for this call, as one number or one per row.
        reduction: "mean" (the sum divided by the denominator), "sum", or "none": the loss of every row, [rows].
        group: a process group over whose ranks the elements of every row are spread: every rank hands over its part of the same rows and the
            same numbers per row, all get the loss of the whole rows, bit for bit the same, and each the gradient of its own part.

        Numbers per row are lists or tensors, on the device of the batch or on the host; one number serves all rows.

        Raises SdpoTypeError, SdpoRangeError (a ValueError), NonFiniteError, or SdpoError; each has a `code`.
        """
        stacked = {"policy": policy, "reference": reference, "target": target, "reference_error": reference_error}
        batch = self._read(chosen, rejected, stacked, layout, element_weights)
        given = {
            "timesteps": timesteps,
            "beta_scale": beta_scale,
            "margins": margins,
            "keep": keep,
            "row_weights": row_weights,
            "transition": transition,
            "weight_noise": weight_noise,
            "mask_threshold": mask_threshold,
            **batch.reference_errors,
        }
        return self._evaluate(batch, given, self._denominator(denominator, reduction, batch), reduction == "none", group)

    def _read(self, chosen: Any, rejected: Any, stacked: Mapping[str, Any], layout: Any, element_weights: Any) -> Batch:
        if layout is not None or chosen is None:
            return read_stacked(stacked, layout, element_weights, self.options, chosen, rejected)
        for name, value in stacked.items():
            if value is not None:
                fail_type(name, "left out where chosen and rejected are given", value)
        return read_branches(chosen, rejected, element_weights, self.options)

    def reserve(
        self,
        *,
        chosen: Optional[BranchInput] = None,
        rejected: Optional[BranchInput] = None,
        policy: Optional[torch.Tensor] = None,
        reference: Optional[torch.Tensor] = None,
        target: Optional[torch.Tensor] = None,
        reference_error: Optional[Numbers] = None,
        layout: Optional[str] = None,
        element_weights: Optional[ElementWeights] = None,
        **numbers: Any,
    ) -> None:
        """Makes room for a call of these arguments, and its backward, on the current stream of their device, and puts tables there.

        numbers: the numbers per row of the call, under their names there. To be called once on the stream that a CUDA graph is captured on,
        before the capture: a workspace cannot grow during one. The graph uses the workspace of that stream, so nothing else may run there while it
        is replayed elsewhere. On the CPU the arguments are checked, and there is nothing to make.
        """
        refuse_unknown("the numbers per row", numbers, NUMBER_NAMES)
        stacked = {"policy": policy, "reference": reference, "target": target, "reference_error": reference_error}
        batch = self._read(chosen, rejected, stacked, layout, element_weights)
        operands = _autograd.laid_out(_detached(batch.operands))
        if self.options.safeguard is not None:
            refuse_cross(operands, "safeguard")
        on_host = operands.device.type == "cpu"
        given = read_numbers(self, Reader(operands.rows, operands.device, on_host), {**numbers, **batch.reference_errors}, operands.layout)
        if backend_for(operands.device, self.backend) is _native:
            _native.reserve(operands, given, self._encoded[on_host], self._threads)

    def _denominator(self, denominator: Optional[float], reduction: str, batch: Batch) -> float:
        check_one_of("reduction", reduction, REDUCTIONS)
        if denominator is not None:
            if reduction != "mean":
                fail_type("denominator", f"left out with reduction '{reduction}'", denominator)
            return check_above("denominator", denominator, 0)
        if reduction != "mean":
            return 1.0
        if batch.operands.rows == 0:
            fail_length(
                batch.policy_name,
                "of at least one row (the mean over no rows does not exist; a rank without rows passes its denominator)",
                batch.operands.policy_chosen,
            )
        return 0.0  # the number of rows, which a compiled graph must not be bound to

    def _evaluate(self, batch: Batch, given: Mapping[str, Any], denominator: float, per_row: bool, group: Any) -> PreferenceOutput:
        operands = batch.operands
        if self.options.safeguard is not None:
            refuse_cross(operands, "safeguard")
        device = operands.device
        traced = tracing() or batch.traced
        on_host = device.type == "cpu" and not traced
        reader = Reader(operands.rows, device, on_host)
        numbers = read_numbers(self, reader, given, operands.layout)
        backend = backend_for(device, self.backend)
        options = self._encoded[device.type == "cpu"]
        if group is not None:
            spread = SpreadCall(operands, numbers, options, denominator, self._threads, backend, per_row, group)
            return PreferenceOutput(evaluate_spread(spread), spread.row_outputs, spread.metrics)
        call = Call(operands, numbers, options, denominator, self._threads, backend, per_row)
        call.keep_reference = self._keeps_reference or batch.reference_is_wider
        if traced:
            return PreferenceOutput(*_autograd.traced(call))
        call.owner = self
        loss = _autograd.evaluate(call, self._fuse and on_host and not per_row and backend is _native)
        complete = None
        if numbers.late is not None:

            def complete(row_outputs: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
                late, numbers.late = numbers.late, None
                write_omegas(numbers, self.options.schedule, reader, late)
                again = row_outputs.clone()
                return again, backend.objective(again, numbers, self._encoded[False], denominator)

        return PreferenceOutput(loss, call.row_outputs, call.metrics, complete)

    # ---- The passes by themselves (docs/mathematics.md, section 6), outside of any graph

    def moments(
        self,
        *,
        chosen: BranchInput,
        rejected: BranchInput,
        element_weights: Optional[ElementWeights] = None,
        cross: Optional[bool] = None,
    ) -> Moments:
        """The moments of these elements of every row: a part of the rows, or all of them. No timesteps and no schedule are needed.

        chosen, rejected, element_weights: as in a call. cross: also the mean of d_c d_r; default: where the safeguard needs it.
        """
        batch = read_branches(chosen, rejected, element_weights, self.options)
        operands = _autograd.laid_out(_detached(batch.operands))
        numbers = read_numbers(self, Reader(operands.rows, operands.device, operands.device.type == "cpu"), batch.reference_errors, "branches", complete=False)
        asker, cross = ("safeguard", self.options.safeguard is not None) if cross is None else ("cross", cross)
        if cross:
            refuse_cross(operands, asker)
        backend = backend_for(operands.device, self.backend)
        row_outputs = backend.moments(operands, numbers, self._encoded[operands.device.type == "cpu"], self._threads, cross)
        return moments_of(row_outputs, cross, operands.weighted_apart)

    def objective(
        self,
        moments: Moments,
        *,
        timesteps: Optional[PerBranch] = None,
        beta_scale: Optional[PerBranch] = None,
        margins: Optional[Numbers] = None,
        keep: Optional[Numbers] = None,
        row_weights: Optional[Numbers] = None,
        transition: Optional[Mapping[str, Any]] = None,
        weight_noise: Optional[Mapping[str, Numbers]] = None,
        denominator: Optional[float] = None,
        mask_threshold: Optional[Numbers] = None,
    ) -> PreferenceOutput:
        """Loss, statistics, metrics and coefficients from the moments of whole rows, without a tensor. The loss is a constant."""
        given = {name: value for name, value in locals().items() if name not in ("self", "moments", "denominator")}
        row_outputs = read_moments(moments, self.options)
        rows, device = row_outputs.shape[1], row_outputs.device
        if denominator is not None:
            check_above("denominator", denominator, 0)
        elif rows == 0:
            fail_length("moments", "of at least one row", moments.chosen["error"])
        numbers = read_numbers(self, Reader(rows, device, device.type == "cpu"), given, "branches")
        if numbers.late is not None:
            write_omegas(numbers, self.options.schedule, Reader(rows, device, device.type == "cpu"), numbers.late)
        backend = backend_for(device, self.backend)
        metrics = backend.objective(row_outputs, numbers, self._encoded[device.type == "cpu"], denominator or float(rows))
        return PreferenceOutput(_autograd.loss_of(row_outputs, metrics, torch.float64, False), row_outputs, metrics)

    def gradients(
        self,
        *,
        chosen: BranchInput,
        rejected: BranchInput,
        coefficients: Coefficients,
        elements: Optional[PerBranch] = None,
        element_weights: Optional[ElementWeights] = None,
    ) -> Dict[str, torch.Tensor]:
        """{"chosen": …, "rejected": …}: d loss / d policy of these elements, from the coefficients of `objective`.

        elements: how many elements (or what sum of element weights) the whole of each row has, as `Moments.elements`; default: these are all.
        """
        batch = read_branches(chosen, rejected, element_weights, self.options)
        operands = _autograd.laid_out(_detached(batch.operands))
        row_outputs = check_coefficients(coefficients, elements, operands)
        gradient = _native.new_gradient(operands, True, True)
        backend_for(operands.device, self.backend).gradients(operands, row_outputs, self._threads, gradient)
        return dict(zip(("chosen", "rejected"), gradient))  # type: ignore[arg-type]

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={getattr(self.options, name)!r}" for name in OPTION_NAMES if getattr(self.options, name) is not None)
        return f"PreferenceLoss({given})"


def _detached(operands: Any) -> Any:
    return type(operands)(*(value.detach() if isinstance(value, torch.Tensor) else value for value in operands))
