"""Noise levels of the two families of schedules: a_t, s_t and the weight of the transition, for tensors of timesteps on any device.

Formulas and their sources: docs/schedules.md and lib/schedule/{levels,variance-preserving,flow}.ts, of which this is a port.
"""

from __future__ import annotations

import array
import math
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch

from ._betas import PowerTable
from ._errors import SdpoError
from ._ladder import FlowSpec, SamplerLadder, flow_ladder, shifted, unshifted
from ._table_ladder import TableLadder
from ._validate import fail_type, fail_value, is_number

# An unshifted time below this counts as 0: n steps of 1/n do not add up to 1 exactly.
_CLEAN = 1e-9
# The smallest unshifted time that is drawn: 0 itself is no timestep.
_SMALLEST_DRAW = 2.0**-53


# torch >= 2.4. Older versions leave the graph around a call of the library, and come back behind it.
HAS_CUSTOM_OPERATORS = hasattr(torch.library, "custom_op") and hasattr(torch.library, "register_autograd")
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
_transforms = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None)


def compiling() -> bool:
    """Whether torch.compile is tracing calls of the custom operators, where a look at a value would break the graph."""
    return HAS_CUSTOM_OPERATORS and torch.compiler.is_compiling()


def transforming() -> bool:
    """Whether a transformation of torch.func is at work."""
    return not compiling() and _transforms() is not None


def tracing() -> bool:
    """Whether values may not be there to be looked at: under torch.compile, export, make_fx, FakeTensorMode and torch.func."""
    return compiling() or _modes() > 0 or _transforms() is not None


def can_look(tensor: torch.Tensor) -> bool:
    """Whether the values of a tensor can be looked at for free: on a GPU a look would wait for everything queued before it."""
    return tensor.device.type == "cpu" and not tracing()


def read_list(argument: str, value: Any, expected: str = "a tensor or list of numbers", exact: bool = True) -> torch.Tensor:
    """A 1-D float64 tensor of a tensor, list, tuple or array of numbers, on the device it is on; `exact` refuses 16-bit floats."""
    if isinstance(value, torch.Tensor):
        if value.dim() != 1:
            fail_type(argument, f"{expected} with one dimension", value)
        if exact and value.dtype in (torch.bfloat16, torch.float16):
            fail_type(argument, f"{expected} of an integer type, float32 or float64 (16-bit floats round timesteps: 750 becomes 752)", value)
        if value.dtype == torch.bool or value.is_complex():
            fail_type(argument, expected, value)
        return value.detach().to(torch.float64)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple, range)):
        fail_type(argument, expected, value)
    for i, entry in enumerate(value):
        if not is_number(entry):
            fail_type(f"{argument}[{i}]", "a number", entry)
    return torch.tensor(list(value), dtype=torch.float64, device="cpu")


def refuse(argument: str, values: torch.Tensor, valid: torch.Tensor, expected: str, single: bool = False) -> torch.Tensor:
    """`values` with an error for the first entry that is not valid; where looking costs, NaN in its place, which shows in every result."""
    if not can_look(values):
        return torch.where(valid, values, torch.full_like(values, math.nan))
    if not bool(valid.all()):
        index = int((~valid).nonzero()[0])
        value = values[index].item()
        fail_value(argument if single else f"{argument}[{index}]", expected, int(value) if value == math.floor(value) else value)
    return values


def jacobian(prediction_type: str, signal: float, sigma: float) -> float:
    """d x0_hat / d u; infinite for 'epsilon' where nothing of x_0 is left in x_t."""
    if prediction_type == "epsilon":
        return -sigma / signal if signal != 0 else -math.inf
    return 1.0 if prediction_type == "sample" else -sigma


class TransitionRule(NamedTuple):
    """How much noise a transition draws; eta belongs to "posterior"."""

    variance: str
    eta: float


def _finite(product: float, other: float) -> float:
    """A product, or the same of other factors where it is infinity times 0 with these: the noise level of a first step may be as small as numbers get."""
    return other if math.isnan(product) else product


def transition_weight(signal_previous: float, sigma_previous: float, sigma: float, gap: float, rule: TransitionRule, derivative: float) -> float:
    """omega of a transition, with gap = 1-rho²; lib/schedule/levels.ts has the formulas."""
    # Tested before any arithmetic: the products below would be infinity * 0 for these.
    if sigma_previous == 0 or not math.isfinite(derivative):
        return math.inf
    ratio = signal_previous / sigma_previous
    if rule.variance == "fresh":
        return _finite(ratio * ratio * derivative * derivative, (ratio * derivative) ** 2) / 2
    if rule.variance == "forward":
        forward = signal_previous * derivative / sigma
        return forward * forward * gap / 2
    scale = _finite(ratio * ratio * gap * derivative * derivative, (ratio * derivative) ** 2 * gap)
    if rule.eta == 1:
        return scale / 2
    squared = rule.eta * rule.eta
    rho2 = 1 - gap
    factor = (1 + squared * rho2) / (rule.eta * (1 + math.sqrt(rho2 * (1 - squared * gap))))
    return scale * factor * factor / 2


class DeviceTable:
    """float64 numbers of a schedule, on the host and, once they were asked for there, on other devices."""

    def __init__(self, numbers: Any) -> None:
        # An array, since a tensor could be a fake one or land on a default device, depending on where the schedule is made.
        self._numbers = numbers
        self.count = len(numbers)
        self._host = array.array("d", numbers) if not isinstance(numbers[0], list) else None
        self._kept: Dict[torch.device, torch.Tensor] = {}
        if not tracing():
            self.on(torch.device("cpu"))

    def on(self, device: torch.device) -> torch.Tensor:
        found = self._kept.get(device)
        if found is not None and (compiling() or not tracing()):
            return found
        made = torch.tensor(self._numbers, dtype=torch.float64, device="cpu")
        if tracing():  # not to be kept: it may be a fake tensor
            return made.to(device)
        self._kept[device] = made = to_device(made, device)
        return made

    def pointer(self, device: torch.device) -> int:
        """The address of the numbers in the memory of a device."""
        if device.type == "cpu" and self._host is not None:
            return self._host.buffer_info()[0]
        return self.on(device).data_ptr()


class VariancePreservingLevels:
    """DDPM, DDIM, CogVideoX: integer timesteps, everything read from tables that are kept on each device they were used on."""

    family = "variance-preserving"
    shift = 1.0
    inverted = False

    def __init__(self, powers: PowerTable, ladder: TableLadder, prediction_type: str, rule: TransitionRule) -> None:
        steps = len(powers.signal)
        self.train_steps = steps
        self._expected = f"an integer between 0 and {steps - 1}"  # made here: torch.compile with dynamic shapes formats no number
        self._ladder = ladder
        self._previous: List[float] = []
        signal = [math.sqrt(power) for power in powers.signal]
        sigma = [math.sqrt(power) for power in powers.noise]
        omega: List[float] = []
        for t in range(steps):
            previous, (signal_power, noise_power) = ladder.step(t)
            self._previous.append(previous)
            # 1-rho² = (ab_p - ab_t) / (ab_p (1-ab_t)). The difference is taken where the two numbers are small, so that it keeps its digits.
            difference = powers.noise[t] - noise_power if signal_power > 0.5 else signal_power - powers.signal[t]
            gap = 0.0 if difference <= 0 else min(1.0, difference / (signal_power * powers.noise[t]))
            derivative = jacobian(prediction_type, signal[t], sigma[t])
            omega.append(transition_weight(math.sqrt(signal_power), math.sqrt(noise_power), sigma[t], gap, rule, derivative))
        self.omega_table = DeviceTable(omega)
        self._table = DeviceTable([signal, sigma, omega])

    def table(self, device: torch.device) -> torch.Tensor:
        """[3, T]: a, s and omega."""
        return self._table.on(device)

    def _entries(self, row: int, timesteps: torch.Tensor, argument: str, single: bool) -> torch.Tensor:
        last = self.train_steps - 1
        valid = (timesteps >= 0) & (timesteps <= last) & (timesteps == timesteps.floor())
        checked = refuse(argument, timesteps, valid, self._expected, single)
        entries = self.table(timesteps.device)[row][torch.nan_to_num(checked).to(torch.int64)]
        return entries if can_look(timesteps) else torch.where(valid, entries, checked)

    def signal(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        return self._entries(0, timesteps, argument, single)

    def sigma(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        return self._entries(1, timesteps, argument, single)

    def omegas(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        return self._entries(2, timesteps, argument, single)

    def previous(self, timestep: float) -> float:
        return self._previous[int(timestep)]

    def ladder(self) -> SamplerLadder:
        roots = torch.tensor(self._ladder.powers, dtype=torch.float64, device="cpu").sqrt()
        return SamplerLadder(torch.tensor(self._ladder.timesteps, dtype=torch.float64, device="cpu"), roots[:, 0], roots[:, 1])

    def from_unit(self, draws: torch.Tensor, bounds: Optional[Tuple[float, float]]) -> torch.Tensor:
        low, high = bounds if bounds is not None else (0, self.train_steps - 1)
        if low != int(low) or high != int(high) or not 0 <= low <= high < self.train_steps:
            fail_value("range", f"two integers (low, high) with 0 <= low <= high <= {self.train_steps - 1}", f"({low}, {high})")
        count = high - low + 1
        # The minimum only matters for a draw that was rounded up to 1.
        return (low + (draws * count).floor().clamp(max=count - 1)).to(torch.int64)


class FlowLevels:
    """Rectified flow (SD3, FLUX, Wan2.1): real timesteps in (0, T], sigma = t / T after the shift; inverted: [0, T), sigma = 1 - t / T."""

    family = "flow"

    def __init__(
        self,
        train_steps: int,
        shift: float,
        prediction_type: str,
        inference_steps: int,
        rule: TransitionRule,
        ladder: Any,  # a FlowSpec, or the timesteps that the sampler visits
        inverted: bool,
    ) -> None:
        self.train_steps = train_steps
        self.shift = shift
        self.inverted = inverted
        self._expected = f"a number in [0, {train_steps})" if inverted else f"a number in (0, {train_steps}]"
        self._arguments: Tuple[Any, ...] = (train_steps, prediction_type, inference_steps, rule, ladder, inverted)
        self._steps = inference_steps
        self._prediction_type = prediction_type
        self._rule = rule
        self._sigmas: Optional[List[float]] = None  # the levels visited and the end; None for steps of 1/n
        if not isinstance(ladder, FlowSpec):
            self._sigmas = [*((train_steps - t if inverted else t) / train_steps for t in ladder), 0.0]
        else:
            made = flow_ladder(ladder, shift, train_steps, inference_steps)
            self._sigmas = None if made is None else [*made[0], made[1]]
        self._times = None if self._sigmas is None else DeviceTable([unshifted(shift, sigma) for sigma in self._sigmas])

    def with_shift(self, shift: float) -> FlowLevels:
        train_steps, prediction_type, inference_steps, rule, ladder, inverted = self._arguments
        return FlowLevels(train_steps, shift, prediction_type, inference_steps, rule, ladder, inverted)

    def _check(self, timesteps: torch.Tensor, argument: str, single: bool) -> torch.Tensor:
        if self.inverted:
            valid = (timesteps >= 0) & (timesteps < self.train_steps)
        else:
            valid = (timesteps > 0) & (timesteps <= self.train_steps)
        return refuse(argument, timesteps, valid, self._expected, single)

    def _noise(self, t: Any) -> Any:
        return self.train_steps - t if self.inverted else t

    def _clean(self, t: Any) -> Any:
        return t if self.inverted else self.train_steps - t

    def _timestep(self, sigma: Any) -> Any:
        return (1 - sigma) * self.train_steps if self.inverted else sigma * self.train_steps

    def signal(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        # (T - t) / T and not 1 - t / T: the difference of the two timesteps is exact where they are close.
        return self._clean(self._check(timesteps, argument, single)) / self.train_steps

    def sigma(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        return self._noise(self._check(timesteps, argument, single)) / self.train_steps

    def omegas(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        t = self._check(timesteps, argument, single)
        signal, sigma = self._clean(t) / self.train_steps, self._noise(t) / self.train_steps
        sigma_previous = self._previous_sigma(sigma)
        signal_previous = 1 - sigma_previous
        # 1-rho = (a_p s_t - a_t s_p) / (a_p s_t), and the numerator is sigma_t - sigma_p because a = 1 - sigma.
        missing = (sigma - sigma_previous) / (signal_previous * sigma)
        gap = (missing * (2 - missing)).clamp(max=1)
        if self._prediction_type == "epsilon":
            derivative = -sigma / signal
        elif self._prediction_type == "sample":
            derivative = torch.ones_like(sigma)
        else:
            derivative = -sigma  # an inverted velocity only has the other sign, and omega its square
        variance, eta = self._rule
        fresh = (signal_previous / sigma_previous) ** 2 * derivative**2
        if variance == "fresh":
            scale = fresh
        elif variance == "forward":
            scale = (signal_previous * derivative / sigma) ** 2 * gap
        else:
            scale = fresh * gap
            if eta != 1:
                squared = eta * eta
                rho2 = 1 - gap
                scale = scale * ((1 + squared * rho2) / (eta * (1 + (rho2 * (1 - squared * gap)).sqrt()))) ** 2
        no_density = (sigma_previous == 0) | derivative.isinf()
        return torch.where(no_density, torch.full_like(scale, math.inf), scale / 2)

    def previous(self, timestep: float) -> float:
        sigma = torch.tensor([self._noise(timestep) / self.train_steps], dtype=torch.float64, device="cpu")
        return self._timestep(self._previous_sigma(sigma).item())

    def ladder(self) -> SamplerLadder:
        n = self._steps
        sigmas = self._sigmas if self._sigmas is not None else [*(shifted(self.shift, (n - i) / n) for i in range(n)), 0.0]
        sigma = torch.tensor(sigmas, dtype=torch.float64, device="cpu")
        return SamplerLadder(self._timestep(sigma), 1 - sigma, sigma)

    def from_unit(self, draws: torch.Tensor, bounds: Optional[Tuple[float, float]]) -> torch.Tensor:
        steps = self.train_steps
        low, high = bounds if bounds is not None else (0, steps)
        if not (0 <= low <= high <= steps and (low < steps if self.inverted else high > 0)):
            ends = f"0 <= low < {steps}, low <= high <= {steps}" if self.inverted else f"0 <= low <= high, 0 < high <= {steps}"
            fail_value("range", f"two numbers (low, high) with {ends}", f"({low}, {high})")
        clean, noisy = (high, low) if self.inverted else (low, high)
        start = unshifted(self.shift, self._noise(clean) / steps)
        width = unshifted(self.shift, self._noise(noisy) / steps) - start
        time = start + width * draws.clamp(min=_SMALLEST_DRAW)
        # Shifting back and forth rounds; the result must not leave the range for that.
        largest = min(high, steps * (1 - _SMALLEST_DRAW)) if self.inverted else high
        return self._timestep(shifted(self.shift, time)).clamp(low, largest)

    def _previous_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
        """sigma after one step of the sampler."""
        time = unshifted(self.shift, sigma)
        following = time - 1 / self._steps if self._sigmas is None else self._step_down(time)
        return torch.where(following < _CLEAN, torch.zeros_like(following), shifted(self.shift, following))

    def _step_down(self, time: torch.Tensor) -> torch.Tensor:
        """One step down the ladder: a time between two entries goes as far between the next two."""
        times = self._times.on(time.device)
        last = times.shape[0] - 2
        ending = torch.minimum(time, times[last + 1])
        if last == 0:
            return ending
        # The last index whose entry is at least the time; searchsorted wants a rising list.
        i = (torch.searchsorted(-times[: last + 1], -time.contiguous(), right=True) - 1).clamp(0, last - 1)
        here, after = times[i], times[i + 1]
        inside = after - (here - time) / (here - after) * (after - times[i + 2])
        above = time - (times[0] - times[1])
        return torch.where(time <= times[last], ending, torch.where(time >= times[0], above, inside))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on a device without waiting for it: through pinned memory, which PyTorch keeps until the copy is done."""
    if tensor.device == device:
        return tensor
    if tensor.device.type == "cpu" and device.type == "cuda" and not compiling():
        if torch.cuda.is_current_stream_capturing():
            raise SdpoError(
                "ERR_SDPO_DEVICE",
                f"Expected tensors on {device} for all numbers of a call that is captured into a CUDA graph, received some on the CPU, "
                "which a replay would read where they are no more; `reserve` puts the tables of a loss and its schedule there",
            )
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
