"""The preference loss: checks a batch, lays its scalars out per row, and gives a loss that PyTorch can differentiate."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import torch

from . import _autograd, _native
from ._errors import SdpoRangeError, SdpoTypeError
from ._levels import can_look, read_list, to_device
from ._native import Operands, check_tensor, fill_row_inputs
from ._options import ResolvedOptions, encode, log, resolve
from ._tables import ROW_INPUT
from ._validate import check_above, check_fields, check_number, fail_length, fail_type, fail_value, is_number
from .result import PreferenceOutput
from .schedule import NoiseSchedule

BRANCHES = ("chosen", "rejected")
_BRANCH_FIELDS = ("policy", "reference", "reference_error", "target")

Numbers = Union[torch.Tensor, Sequence[float]]
PerBranch = Union[Numbers, Mapping[str, Numbers]]
BranchInput = Union[Tuple[torch.Tensor, torch.Tensor, torch.Tensor], Mapping[str, Any]]


class _Branch(NamedTuple):
    policy: torch.Tensor
    reference: Optional[torch.Tensor]
    reference_error: Any
    target: torch.Tensor


class PreferenceLoss:
    """SDPO, DPO-C&M, Diffusion-DPO, DSPO, DMPO or MaPO over pairs of predictions. Reusable and stateless: a call leaves nothing for the next.

    The options are those of the TypeScript class in snake_case (docs/api.md), with the same defaults and the same errors:

    objective: "diffusion-dpo", "dpo-cm", "sdpo", "dspo", "dmpo" or "mapo". beta: > 0, required. schedule: a NoiseSchedule, unless every
        call brings its own omega.
    clip_range (0.1, or (low, high)), mask_threshold (0.9), weight_sharpness (1), weight_ratio ("policy/data"), weight_gradient (False):
        for "dpo-cm" and "sdpo"; pair_weight ("geometric"): for "dpo-cm".
    timestep_weighting ("constant"), log_ratio_reduction ("mean"), link ("sigmoid"), label_smoothing (0), sft_weight (0), sft_scope
        ("all"), kl_weight (0), kl_scope ("all"), safeguard (off), dmpo_alpha (0.01), mapo_scale (0.5), mapo_steps (T of the schedule).
    non_finite: "throw", "skip" or "propagate"; default "throw" on the CPU and "propagate" on a CUDA device, where looking would synchronise.
    threads: of a call on the CPU; default SDPO_NUM_THREADS, else the cores of the host divided by the ranks on it. Results do not depend on it.
    """

    def __init__(
        self,
        objective: Any = None,
        schedule: Optional[NoiseSchedule] = None,
        beta: Any = None,
        **options: Any,
    ) -> None:
        self.options: ResolvedOptions = resolve({"objective": objective, "schedule": schedule, "beta": beta, **options})
        self._templates: Dict[torch.device, torch.Tensor] = {}

    def __call__(
        self,
        *,
        chosen: BranchInput,
        rejected: BranchInput,
        timesteps: Optional[PerBranch] = None,
        row_weights: Optional[Numbers] = None,
        element_weights: Optional[torch.Tensor] = None,
        transition: Optional[Mapping[str, Any]] = None,
        weight_noise: Optional[Mapping[str, Numbers]] = None,
        denominator: Optional[float] = None,
        mask_threshold: Optional[Union[float, Numbers]] = None,
    ) -> PreferenceOutput:
        """Loss, row statistics and metrics of one batch; the gradient is formed when `loss.backward()` asks for it.

        chosen, rejected: (policy, reference, target), or a mapping with the fields policy, target and either reference or
            reference_error (its mean squared error r per row, where it was cached; "mapo" needs neither). Tensors [rows, …] of one shape and device in
            float64, float32, float16 or bfloat16, mixed as autocast makes them. Only the policies receive a gradient. Rows are read in
            place where each is contiguous (slices of a stacked batch are) or where all tensors share one order of elements
            (channels_last); other layouts are copied.
        timesteps: one per row, or {"chosen": …, "rejected": …}.
        row_weights: weight >= 0 of each row in the loss, anchors included.
        element_weights: weights e >= 0 of the elements, [rows, …] or one row […]: m = sum e d² / sum e.
        transition: {"omega": …, "offset_chosen": …, "offset_rejected": …}, the caller's own transitions in place of the schedule's.
        weight_noise: {"chosen": …, "rejected": …}, one standard normal per row, for the sampled weight.
        denominator: what the sum over rows is divided by; default the number of rows. For gradient accumulation, and for ranks with
            different numbers of rows (see `sdpo.denominator`).
        mask_threshold: overrides the option for this call, as one number or one per row.

        Raises SdpoTypeError, SdpoRangeError (a ValueError), NonFiniteError, or SdpoError; each has a `code`.
        """
        operands, row_inputs, options, denominator = self._prepare(
            chosen, rejected, timesteps, row_weights, element_weights, transition, weight_noise, denominator, mask_threshold
        )
        keep_reference = self.options.reads_reference_for_gradient()
        results = _autograd.evaluate(operands, row_inputs, options, denominator, self.options.threads, keep_reference)
        return PreferenceOutput.of(*results)

    def reserve(
        self,
        *,
        chosen: BranchInput,
        rejected: BranchInput,
        timesteps: Optional[PerBranch] = None,
        row_weights: Optional[Numbers] = None,
        element_weights: Optional[torch.Tensor] = None,
        transition: Optional[Mapping[str, Any]] = None,
        weight_noise: Optional[Mapping[str, Numbers]] = None,
        denominator: Optional[float] = None,
        mask_threshold: Optional[Union[float, Numbers]] = None,
    ) -> None:
        """Makes room for a call of these arguments, and its backward, on the current stream of their device, and puts tables there.

        To be called once on the stream that a CUDA graph is captured on, before the capture: a workspace cannot grow during one. The graph
        uses the workspace of that stream, so nothing else may run there while it is replayed elsewhere (docs/pytorch.md). On the
        CPU the arguments are checked, and there is nothing to make.
        """
        operands, row_inputs, options, _ = self._prepare(
            chosen, rejected, timesteps, row_weights, element_weights, transition, weight_noise, denominator, mask_threshold
        )
        _native.reserve(operands, row_inputs, options, self.options.threads)

    def _prepare(
        self,
        chosen: BranchInput,
        rejected: BranchInput,
        timesteps: Any,
        row_weights: Any,
        element_weights: Optional[torch.Tensor],
        transition: Any,
        weight_noise: Any,
        denominator: Optional[float],
        mask_threshold: Any,
    ) -> Tuple[Operands, torch.Tensor, List[float], float]:
        """Operands, row inputs, encoded options, and the denominator or 0 for the number of rows."""
        branches = {
            "chosen": _read_branch("chosen", chosen, self.options),
            "rejected": _read_branch("rejected", rejected, self.options),
        }
        operands = _read_operands(branches, element_weights)
        rows, device = operands.policy_chosen.shape[0], operands.policy_chosen.device
        if denominator is not None:
            denominator = check_above("denominator", denominator, 0)
        elif rows == 0:
            fail_length(
                "chosen.policy",
                "of at least one row (the mean over no rows does not exist; a rank without rows passes its denominator)",
                operands.policy_chosen,
            )
        row_inputs = self._row_inputs(
            branches, timesteps, row_weights, transition, weight_noise, mask_threshold, rows, device
        )
        return operands, row_inputs, encode(self.options, device.type == "cuda"), denominator or 0.0

    # ---- Scalars of the rows (docs/mathematics.md, section 5), formed on the device of the tensors

    def _row_inputs(
        self,
        branches: Mapping[str, _Branch],
        timesteps: Any,
        row_weights: Any,
        transition: Any,
        weight_noise: Any,
        mask_threshold: Any,
        rows: int,
        device: torch.device,
    ) -> torch.Tensor:
        options = self.options
        transition = {} if transition is None else check_fields("transition", transition, ("omega", "offset_chosen", "offset_rejected"))
        out = fill_row_inputs(self._template(device), rows)
        omega = self._omega(timesteps, transition.get("omega"), rows)
        noise = self._weight_noise(weight_noise)
        for branch in BRANCHES:
            w = to_device(omega[branch], device)
            out[ROW_INPUT[f"weight_scale_{branch}"]] = options.weight_sharpness * w
            if options.elbo:
                out[ROW_INPUT[f"psi_scale_{branch}"]] = options.beta * w
            offset = transition.get(f"offset_{branch}")
            if offset is not None:
                if options.weight_ratio == "policy/reference":
                    raise SdpoRangeError(
                        "ERR_SDPO_INVALID_OPTION",
                        f"Expected transition.offset_{branch} to be left out, since weight_ratio 'policy/reference' does not use it (log q cancels), received it",
                    )
                offset = _row_list(f"transition.offset_{branch}", offset, rows, device)
                out[ROW_INPUT[f"weight_offset_{branch}"]] = options.weight_sharpness * offset
            if noise is not None:
                xi = _row_list(f"weight_noise.{branch}", noise[branch], rows, device)
                out[ROW_INPUT[f"weight_noise_{branch}"]] = options.weight_sharpness * torch.sqrt(2 * w) * xi
            error = branches[branch].reference_error
            if error is not None:
                out[ROW_INPUT[f"reference_error_{branch}"]] = _row_list(f"{branch}.reference_error", error, rows, device, data=True)
        if mask_threshold is not None:
            out[ROW_INPUT["log_mask_floor"]] = self._mask_floor(mask_threshold, rows, device)
        if row_weights is not None:
            out[ROW_INPUT["row_weight"]] = _row_list("row_weights", row_weights, rows, device, low=0)
        return out

    def _template(self, device: torch.device) -> torch.Tensor:
        """The scalars of a row that are the same in every batch, kept on each device that was used."""
        found = self._templates.get(device)
        if found is None:
            options = self.options
            values = [0.0] * len(ROW_INPUT)
            for branch in BRANCHES:
                values[ROW_INPUT[f"psi_scale_{branch}"]] = options.beta / 2
            values[ROW_INPUT["log_mask_floor"]] = log(options.mask_threshold)
            values[ROW_INPUT["log_clip_low"]] = log(options.clip_range[0])
            values[ROW_INPUT["log_clip_high"]] = log(options.clip_range[1])
            values[ROW_INPUT["row_weight"]] = 1.0
            found = self._templates[device] = to_device(torch.tensor(values, dtype=torch.float64), device)
        return found

    def _omega(self, timesteps: Any, given: Any, rows: int) -> Dict[str, torch.Tensor]:
        times = None if timesteps is None else _per_branch("timesteps", timesteps)
        for branch in BRANCHES if times is not None else ():
            _check_length(_branch_name("timesteps", timesteps, branch), times[branch], rows)
        if given is not None:
            omega = _per_branch("transition.omega", given)
            out = {}
            for branch in BRANCHES:
                name = _branch_name("transition.omega", given, branch)
                list_ = read_list(name, omega[branch], exact=False)
                _check_length(name, list_, rows)
                out[branch] = _refuse(name, list_, list_ >= 0, "a number >= 0 or inf")
            return out
        schedule = self.options.schedule
        if schedule is None:
            fail_type("transition.omega", "given where the loss has no schedule", None)
        if times is None:
            fail_type("timesteps", "given, one per row", None)
        chosen = schedule.omegas(times["chosen"], _branch_name("timesteps", timesteps, "chosen"))
        if times["rejected"] is times["chosen"]:
            return {"chosen": chosen, "rejected": chosen}
        return {"chosen": chosen, "rejected": schedule.omegas(times["rejected"], _branch_name("timesteps", timesteps, "rejected"))}

    def _weight_noise(self, given: Any) -> Optional[Mapping[str, Any]]:
        if given is None:
            return None
        check_fields("weight_noise", given, BRANCHES)
        if self.options.weight_ratio != "policy/data":
            raise SdpoRangeError(
                "ERR_SDPO_INVALID_OPTION",
                f"Expected weight_noise to be left out, since weight_ratio '{self.options.weight_ratio}' has no sampled form, received it",
            )
        for branch in BRANCHES:
            if given.get(branch) is None:
                fail_type(f"weight_noise.{branch}", "a tensor or list of numbers", None)
        return given

    def _mask_floor(self, given: Any, rows: int, device: torch.device) -> Any:
        if not self.options.has_mask:
            raise SdpoRangeError(
                "ERR_SDPO_INVALID_OPTION",
                f"Expected mask_threshold to be left out, since objective '{self.options.objective}' does not use it, received it",
            )
        if is_number(given):
            return log(check_number("mask_threshold", given, 0, 1))
        return torch.log(_row_list("mask_threshold", given, rows, device, low=0, high=1))

    def __getstate__(self) -> Dict[str, Any]:
        return {"options": self.options}  # the templates are a cache, and may lie on a device

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.options = state["options"]
        self._templates = {}

    def __repr__(self) -> str:
        return f"PreferenceLoss({self.options})"


# ---- Reading a batch


def _read_branch(name: str, value: Any, options: ResolvedOptions) -> _Branch:
    if isinstance(value, (tuple, list)):
        if len(value) != 3:
            fail_length(name, "(policy, reference, target), or a mapping with these fields", value)
        fields: Mapping[str, Any] = dict(zip(("policy", "reference", "target"), value))
    else:
        fields = check_fields(name, value, _BRANCH_FIELDS)
    reference, error = fields.get("reference"), fields.get("reference_error")
    neither, both = reference is None and error is None, reference is not None and error is not None
    if both or (neither and not options.is_reference_free):
        raise SdpoTypeError(
            "ERR_SDPO_INVALID_ARG_TYPE",
            f"Expected {name} to have either reference or reference_error, received {'both' if both else 'neither'}",
        )
    if reference is None and options.needs_reference is not None:
        raise SdpoRangeError(
            "ERR_SDPO_INVALID_OPTION",
            f"Expected {name}.reference to be given, since {options.needs_reference} needs the drift q, which only a reference tensor "
            "can give, received none",
        )
    return _Branch(fields.get("policy"), reference, error, fields.get("target"))


def _read_operands(branches: Mapping[str, _Branch], element_weights: Any) -> Operands:
    first = branches["chosen"].policy
    for branch in BRANCHES:
        for field in ("policy", "reference", "target"):
            tensor = getattr(branches[branch], field)
            if field == "reference" and tensor is None:
                continue
            check_tensor(f"{branch}.{field}", tensor)
            _check_like(f"{branch}.{field}", tensor, first)
    if element_weights is not None:
        element_weights = _read_element_weights(element_weights, first)
    chosen, rejected = branches["chosen"], branches["rejected"]
    return Operands(
        chosen.policy, rejected.policy, chosen.target, rejected.target, chosen.reference, rejected.reference, element_weights
    )


def _check_like(name: str, tensor: torch.Tensor, first: torch.Tensor) -> None:
    """Equal shapes, and nothing is broadcast: a tensor of another shape is a mistake that broadcasting would hide."""
    if tensor.shape != first.shape:
        fail_length(name, f"of shape {list(first.shape)} as chosen.policy", tensor)
    if tensor.device != first.device:
        fail_value(name, f"on {first.device} as chosen.policy", f"a tensor on {tensor.device}")


def _read_element_weights(value: Any, policy: torch.Tensor) -> torch.Tensor:
    check_tensor("element_weights", value if not isinstance(value, torch.Tensor) or value.dim() > 0 else value.unsqueeze(0))
    if value.device != policy.device:
        fail_value("element_weights", f"on {policy.device} as chosen.policy", f"a tensor on {value.device}")
    if value.shape == policy.shape:
        return value.detach()
    if value.shape != policy.shape[1:]:
        fail_length("element_weights", f"of shape {list(policy.shape)} or {list(policy.shape[1:])}", value)
    return value.detach().unsqueeze(0)


def _per_branch(argument: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        list_ = read_list(argument, value, exact=argument == "timesteps")
        return {"chosen": list_, "rejected": list_}
    check_fields(argument, value, BRANCHES)
    return {branch: read_list(f"{argument}.{branch}", value.get(branch), exact=argument == "timesteps") for branch in BRANCHES}


def _branch_name(argument: str, value: Any, branch: str) -> str:
    return f"{argument}.{branch}" if isinstance(value, Mapping) else argument


def _check_length(argument: str, list_: torch.Tensor, rows: int) -> None:
    if list_.shape[0] != rows:
        fail_length(argument, f"of length {rows}, one per row", list_)


def _refuse(argument: str, values: torch.Tensor, valid: torch.Tensor, expected: str) -> torch.Tensor:
    if not can_look(values):
        return torch.where(valid, values, torch.full_like(values, math.nan))
    if not bool(valid.all()):
        index = int((~valid).nonzero()[0])
        fail_value(f"{argument}[{index}]", expected, values[index].item())
    return values


def _row_list(
    argument: str,
    value: Any,
    rows: int,
    device: torch.device,
    low: float = -math.inf,
    high: float = math.inf,
    data: bool = False,
) -> torch.Tensor:
    """float64 [rows] on `device`; `data` may hold anything, which is what `non_finite` is about."""
    list_ = read_list(argument, value, exact=False)
    _check_length(argument, list_, rows)
    if not data:
        if low == -math.inf:
            expected = "a finite number"
        else:
            expected = f"a finite number >= {low:g}" if high == math.inf else f"a number in [{low:g}, {high:g}]"
        list_ = _refuse(argument, list_, torch.isfinite(list_) & (list_ >= low) & (list_ <= high), expected)
    return to_device(list_, device)
