"""Noise levels of the two families of schedules: a_t, s_t and the weight of the transition, for tensors of timesteps on any device.

Formulas and their sources: docs/schedules.md and lib/schedule/{levels,variance-preserving,flow}.ts, of which this is a port.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Tuple

import torch

from ._betas import PowerTable
from ._errors import SdpoError
from ._validate import fail_type, fail_value, is_number

# An unshifted time below this counts as 0: n steps of 1/n do not add up to 1 exactly.
_CLEAN = 1e-9
# The smallest unshifted time that is drawn: 0 itself is no timestep.
_SMALLEST_DRAW = 2.0**-53


# torch >= 2.4. Older versions leave the graph around a call of the library, and come back behind it.
HAS_CUSTOM_OPERATORS = hasattr(torch.library, "custom_op") and hasattr(torch.library, "register_autograd")


def compiling() -> bool:
    """Whether torch.compile is tracing calls of the custom operators, where a look at a value would break the graph."""
    return HAS_CUSTOM_OPERATORS and torch.compiler.is_compiling()


def can_look(tensor: torch.Tensor) -> bool:
    """Whether the values of a tensor can be looked at for free: on a GPU a look would wait for everything queued before it."""
    return tensor.device.type == "cpu" and not compiling()


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
    return torch.tensor(list(value), dtype=torch.float64)


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


def transition_weight(signal_previous: float, sigma_previous: float, gap: float, eta: float, derivative: float) -> float:
    """omega = SNR_p (1-rho²) (1+eta² rho²)² / (2 eta² (1 + rho sqrt(1-eta²(1-rho²)))²) (d x0_hat/du)², with gap = 1-rho²."""
    # Tested before any arithmetic: the products below would be infinity * 0 for these.
    if sigma_previous == 0 or not math.isfinite(derivative):
        return math.inf
    ratio = signal_previous / sigma_previous
    scale = ratio * ratio * gap * derivative * derivative
    if eta == 1:
        return scale / 2
    variance = eta * eta
    rho2 = 1 - gap
    factor = (1 + variance * rho2) / (eta * (1 + math.sqrt(rho2 * (1 - variance * gap))))
    return scale * factor * factor / 2


class VariancePreservingLevels:
    """DDPM, DDIM, CogVideoX: integer timesteps, everything read from tables that are kept on each device they were used on."""

    family = "variance-preserving"
    shift = 1.0

    def __init__(self, powers: PowerTable, final: Tuple[float, float], prediction_type: str, inference_steps: int, eta: float) -> None:
        steps = len(powers.signal)
        self.train_steps = steps
        self.stride = steps // inference_steps
        signal = [math.sqrt(power) for power in powers.signal]
        sigma = [math.sqrt(power) for power in powers.noise]
        omega: List[float] = []
        for t in range(steps):
            p = t - self.stride
            signal_power, noise_power = final if p < 0 else (powers.signal[p], powers.noise[p])
            # 1-rho² = (ab_p - ab_t) / (ab_p (1-ab_t)). The difference is taken where the two numbers are small, so that it keeps its digits.
            difference = powers.noise[t] - noise_power if signal_power > 0.5 else signal_power - powers.signal[t]
            gap = 0.0 if difference <= 0 else min(1.0, difference / (signal_power * powers.noise[t]))
            derivative = jacobian(prediction_type, signal[t], sigma[t])
            omega.append(transition_weight(math.sqrt(signal_power), math.sqrt(noise_power), gap, eta, derivative))
        self._host = torch.tensor([signal, sigma, omega], dtype=torch.float64)
        self._tables: Dict[torch.device, torch.Tensor] = {self._host.device: self._host}

    def table(self, device: torch.device) -> torch.Tensor:
        """[3, T]: a, s and omega."""
        found = self._tables.get(device)
        if found is None:
            found = self._tables[device] = to_device(self._host, device)
        return found

    def _entries(self, row: int, timesteps: torch.Tensor, argument: str, single: bool) -> torch.Tensor:
        last = self.train_steps - 1
        valid = (timesteps >= 0) & (timesteps <= last) & (timesteps == timesteps.floor())
        checked = refuse(argument, timesteps, valid, f"an integer between 0 and {last}", single)
        entries = self.table(timesteps.device)[row][torch.nan_to_num(checked).to(torch.int64)]
        return entries if can_look(timesteps) else torch.where(valid, entries, checked)

    def signal(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        return self._entries(0, timesteps, argument, single)

    def sigma(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        return self._entries(1, timesteps, argument, single)

    def omegas(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        return self._entries(2, timesteps, argument, single)

    def previous(self, timestep: float) -> float:
        return timestep - self.stride

    def from_unit(self, draws: torch.Tensor, bounds: Optional[Tuple[float, float]]) -> torch.Tensor:
        low, high = bounds if bounds is not None else (0, self.train_steps - 1)
        if low != int(low) or high != int(high) or not 0 <= low <= high < self.train_steps:
            fail_value("range", f"two integers (low, high) with 0 <= low <= high <= {self.train_steps - 1}", f"({low}, {high})")
        count = high - low + 1
        # The minimum only matters for a draw that was rounded up to 1.
        return (low + (draws * count).floor().clamp(max=count - 1)).to(torch.int64)


class FlowLevels:
    """Rectified flow (SD3, FLUX, Wan2.1): real timesteps in (0, T], sigma = t / T after the shift."""

    family = "flow"

    def __init__(self, train_steps: int, shift: float, prediction_type: str, inference_steps: int, eta: float) -> None:
        self.train_steps = train_steps
        self.shift = shift
        self._step = 1 / inference_steps
        self._prediction_type = prediction_type
        self._eta = eta

    def _check(self, timesteps: torch.Tensor, argument: str, single: bool) -> torch.Tensor:
        valid = (timesteps > 0) & (timesteps <= self.train_steps)
        return refuse(argument, timesteps, valid, f"a number in (0, {self.train_steps}]", single)

    def signal(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        # (T - t) / T and not 1 - t / T: the difference of the two timesteps is exact where they are close.
        return (self.train_steps - self._check(timesteps, argument, single)) / self.train_steps

    def sigma(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        return self._check(timesteps, argument, single) / self.train_steps

    def omegas(self, timesteps: torch.Tensor, argument: str, single: bool = False) -> torch.Tensor:
        t = self._check(timesteps, argument, single)
        signal, sigma = (self.train_steps - t) / self.train_steps, t / self.train_steps
        time = self._unshift(sigma) - self._step
        sigma_previous = torch.where(time < _CLEAN, torch.zeros_like(time), self._shifted(time))
        signal_previous = 1 - sigma_previous
        # 1-rho = (a_p s_t - a_t s_p) / (a_p s_t), and the numerator is sigma_t - sigma_p because a = 1 - sigma.
        missing = (sigma - sigma_previous) / (signal_previous * sigma)
        gap = (missing * (2 - missing)).clamp(max=1)
        if self._prediction_type == "epsilon":
            derivative = -sigma / signal
        elif self._prediction_type == "sample":
            derivative = torch.ones_like(sigma)
        else:
            derivative = -sigma
        scale = (signal_previous / sigma_previous) ** 2 * gap * derivative**2
        if self._eta != 1:
            variance = self._eta * self._eta
            rho2 = 1 - gap
            scale = scale * ((1 + variance * rho2) / (self._eta * (1 + (rho2 * (1 - variance * gap)).sqrt()))) ** 2
        no_density = (sigma_previous == 0) | derivative.isinf()
        return torch.where(no_density, torch.full_like(scale, math.inf), scale / 2)

    def previous(self, timestep: float) -> float:
        time = self._unshift(timestep / self.train_steps) - self._step
        return 0.0 if time < _CLEAN else self._shifted(time) * self.train_steps

    def from_unit(self, draws: torch.Tensor, bounds: Optional[Tuple[float, float]]) -> torch.Tensor:
        steps = self.train_steps
        low, high = bounds if bounds is not None else (0, steps)
        if not (0 <= low <= high <= steps and high > 0):
            fail_value("range", f"two numbers (low, high) with 0 <= low <= high, 0 < high <= {steps}", f"({low}, {high})")
        start = self._unshift(low / steps)
        width = self._unshift(high / steps) - start
        time = start + width * draws.clamp(min=_SMALLEST_DRAW)
        # Shifting back and forth rounds; the result must not leave the range for that.
        return (self._shifted(time) * steps).clamp(low, high)

    def _shifted(self, time: Any) -> Any:
        return self.shift * time / (1 + (self.shift - 1) * time)

    def _unshift(self, sigma: Any) -> Any:
        return sigma / (self.shift - (self.shift - 1) * sigma)


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
