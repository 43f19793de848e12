"""Tables of alpha-bar and 1 - alpha-bar in float64: beta schedules, the SNR shift and the zero-terminal-SNR rescaling (docs/schedules.md).

A port of lib/schedule/betas.ts; a test compares the two entry by entry.
"""

from __future__ import annotations

import math
from typing import Any, List, NamedTuple

from ._validate import check_number, fail_length, fail_type, fail_value, is_number

# The cap on a beta that is taken from ratios of alpha-bar (arXiv 2102.09672, section 3.2).
_MAX_BETA = 0.999


class PowerTable(NamedTuple):
    """Signal and noise power of every timestep. Both are kept because 1 - alpha-bar taken from a rounded alpha-bar loses its leading digits."""

    signal: List[float]
    noise: List[float]


def _linspace(start: float, end: float, count: int) -> List[float]:
    step = (end - start) / (count - 1) if count > 1 else 0.0
    return [start + step * i if 2 * i < count else end - step * (count - 1 - i) for i in range(count)]


def named_betas(schedule: str, steps: int, start: float, end: float) -> List[float]:
    """Forward variances of a named schedule; lib/schedule/betas.ts says what each is."""
    if schedule == "linear":
        return _linspace(start, end, steps)
    if schedule == "scaled_linear":
        return [root * root for root in _linspace(math.sqrt(start), math.sqrt(end), steps)]
    if schedule == "exp":
        return [min(-math.expm1(-12 / steps), _MAX_BETA)] * steps
    if schedule == "laplace":
        return [min(1 - _laplace_root((i + 1) / steps) / _laplace_root(i / steps), _MAX_BETA) for i in range(steps)]
    if schedule == "sigmoid":
        return [start + (end - start) / (1 + math.exp(-x)) for x in _linspace(-6, 6, steps)]
    # The angle left to pi/2 is computed by itself, and 1 - cos²/cos² as a product of sines, so that neither the first betas nor the
    # last cosines are differences of nearly equal numbers.
    quarter = math.pi / 2 / 1.008
    step = math.sin(quarter / steps)
    out = []
    for i in range(steps):
        angles = (i / steps + 0.008) * quarter + ((i + 1) / steps + 0.008) * quarter
        left = (steps - i) / steps * quarter
        total = min(angles, left + (steps - i - 1) / steps * quarter)  # their sines are the same
        cosine = math.sin(left)
        out.append(min(step * math.sin(total) / (cosine * cosine), _MAX_BETA))
    return out


def _laplace_root(x: float) -> float:
    """sqrt(SNR / (1 + SNR)) at the log SNR that the schedule takes for its alpha-bar; 1e-6 keeps the ends finite."""
    snr = math.exp((-0.5 if x <= 0.5 else 0.5) * math.log(1 - 2 * abs(0.5 - x) + 1e-6))
    return math.sqrt(snr / (1 + snr))


def _numbers(argument: str, values: Any) -> List[Any]:
    if hasattr(values, "tolist"):
        values = values.tolist()  # a tensor or a NumPy array
    if not isinstance(values, (list, tuple)):
        fail_type(argument, "a list of numbers", values)
    if len(values) == 0:
        fail_length(argument, "a list of at least one number", values)
    return list(values)


def given_betas(argument: str, values: Any) -> List[float]:
    out = _numbers(argument, values)
    for i, value in enumerate(out):
        if not is_number(value):
            fail_type(f"{argument}[{i}]", "a number in [0, 1]", value)
        if not 0 <= value <= 1:
            fail_value(f"{argument}[{i}]", "a number in [0, 1]", value)
    return [float(value) for value in out]


def given_alphas(argument: str, values: Any) -> PowerTable:
    """alpha-bar the caller computed, checked: in [0, 1] and non-increasing."""
    signal: List[float] = []
    for t, value in enumerate(_numbers(argument, values)):
        signal.append(check_number(f"{argument}[{t}]", value, 0, signal[-1] if signal else 1))
    return PowerTable(signal, [1 - power for power in signal])


def cumulate(betas: List[float]) -> PowerTable:
    """alpha-bar = prod (1 - beta), its complement by a sum of non-negative terms as long as that is the smaller of the two."""
    signal, noise = [], []
    power, complement = 1.0, 0.0
    for beta in betas:
        complement += power * beta
        power *= 1 - beta
        signal.append(power)
        noise.append(complement if power > 0.5 else 1 - power)
    return PowerTable(signal, noise)


def shift_snr(table: PowerTable, k: float) -> PowerTable:
    """Divides every signal-to-noise ratio by k: alpha-bar <- alpha-bar / (alpha-bar + k (1 - alpha-bar))."""
    pairs = list(zip(table.signal, table.noise))
    return PowerTable([s / (s + k * n) for s, n in pairs], [k * n / (s + k * n) for s, n in pairs])


def rescale_to_zero_terminal_snr(table: PowerTable) -> PowerTable:
    """Shifts and scales the root of alpha-bar so that its first entry stays and the last is 0 (arXiv 2305.08891, algorithm 1)."""
    root_first, root_last = math.sqrt(table.signal[0]), math.sqrt(table.signal[-1])
    missing_first = table.noise[0] / (1 + root_first)  # 1 - root
    span = root_first - root_last
    signal, noise = [], []
    for power, complement in zip(table.signal, table.noise):
        root = math.sqrt(power)
        scaled = (root - root_last) * root_first / span
        # 1 - scaled, put on the common denominator so that the ones cancel by algebra.
        missing = (complement / (1 + root) * root_first - root_last * missing_first) / span
        signal.append(scaled * scaled)
        noise.append(missing * (1 + scaled) if signal[-1] > 0.5 else 1 - signal[-1])
    return PowerTable(signal, noise)
