"""Ladders of noise levels that samplers descend: spacings and conversions, and the ladders of flows.

A port of lib/schedule/{ladder,beta-quantile,flow-ladder}.ts; docs/schedules.md says what each ladder is.
"""

from __future__ import annotations

import math
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

from ._validate import fail_value

# Both parameters of the beta distribution of the beta ladder (arXiv 2407.12173).
_SHAPE = 0.6


def _series(x: float) -> float:
    """x^-a times the incomplete beta function; its terms fall at least as 2^-k for x <= 1/2."""
    total, term, k = 0.0, 1.0, 0
    while term > 2.0**-56:
        total += term / (_SHAPE + k)
        term *= (k + 1 - _SHAPE) / (k + 1) * x
        k += 1
    return total


# The complete beta function, of which half lies below 1/2 by symmetry.
_COMPLETE = 2 * 0.5**_SHAPE * _series(0.5)


def beta_quantile(p: float) -> float:
    """The x below which a Beta(0.6, 0.6) number lies with probability p in [0, 1]."""
    if p > 0.5:
        return 1 - beta_quantile(1 - p)
    if p == 0:
        return 0.0
    # Newton's method from above the root of a concave function: one step may pass it, the following ones rise to it.
    x = min(0.5, (p * _SHAPE * _COMPLETE) ** (1 / _SHAPE))
    for _ in range(50):
        density = (x * (1 - x)) ** (_SHAPE - 1) / _COMPLETE
        following = x - (x**_SHAPE * _series(x) / _COMPLETE - p) / density
        if abs(following - x) <= 4 * 2.0**-52 * x:
            return following
        x = following
    return x


def evenly(start: float, end: float, count: int) -> List[float]:
    """Evenly spaced values from `start` to exactly `end`, or `start` alone."""
    step = (end - start) / (count - 1) if count > 1 else 0.0
    return [start if i == 0 else end if i == count - 1 else start + i * step for i in range(count)]


def spaced(spacing: str, steps: int, count: int, parts: int, stride: float, offset: int, rounded: bool) -> List[float]:
    """Timesteps of an n-step sampler, falling; `parts` is n, or n + 1 where the last point is left out."""
    if spacing == "linspace":
        # Counted from 0 up, as NumPy does: the rounding of halves depends on it.
        points = evenly(0, steps - 1, parts)[::-1][:count]
        return [float(round(point)) for point in points] if rounded else points
    if spacing == "leading":
        step = steps // parts
        return [float(min((parts - 1 - i) * step + offset, steps - 1)) for i in range(count)]
    # NumPy's arange multiplies the rounded difference of its first two values.
    difference = steps - stride - steps
    return [float(max(round(steps + i * difference) - 1, 0)) for i in range(min(count, math.ceil(steps / stride)))]


def converted_levels(conversion: str, high: float, low: float, count: int) -> List[float]:
    """Levels from `high` down to `low`: evenly in the seventh root (arXiv 2206.00364, equation 5), in the logarithm, or by beta quantiles."""
    if conversion == "karras":
        first, last = high ** (1 / 7), low ** (1 / 7)
        return [(first + x * (last - first)) ** 7 for x in evenly(0, 1, count)]
    if conversion == "exponential":
        return [math.exp(x) for x in evenly(math.log(high), math.log(low), count)]
    return [low + beta_quantile(1 - x) * (high - low) for x in evenly(0, 1, count)]


class SamplerLadder(NamedTuple):
    """The levels that a sampler visits, in its order: n of them at which it calls the model, and the one it ends on. float64 [n + 1] each."""

    timesteps: Any
    signal: Any
    sigma: Any


class FlowSpec(NamedTuple):
    """How the ladder of a flow is laid."""

    base: str = "uniform"
    low_shift: float = 1.0  # the shift that the lowest time of flow-match has had before
    terminal: float = 0.0  # the shifted levels are stretched so that the last is this; 0: not
    conversion: Optional[str] = None
    high: Optional[float] = None  # bounds of a conversion in place of the ladder's own ends
    low: Optional[float] = None
    ratios: Optional[Tuple[float, float]] = None  # bounds (high, low) of a conversion in s/a
    below_one: bool = False  # a first level of 1 is lowered by 1e-6
    end: Any = 0.0  # where the last step ends: a level, or "last"


def shifted(shift: float, time: Any) -> Any:
    """sigma = k tau / (1 + (k-1) tau)."""
    return shift * time / (1 + (shift - 1) * time)


def unshifted(shift: float, sigma: Any) -> Any:
    """tau = sigma / (k - (k-1) sigma), the inverse of the shift."""
    return sigma / (shift - (shift - 1) * sigma)


def flow_ladder(spec: FlowSpec, shift: float, train_steps: int, count: int) -> Optional[Tuple[List[float], float]]:
    """n falling levels, and where the last step ends; None where the steps are the plain ones of 1/n, which need no list."""
    plain = spec.base == "uniform" and spec.terminal == 0 and spec.conversion is None
    if plain and not spec.below_one and spec.end == 0:
        return None
    sigmas = [shifted(shift, time) for time in _times(spec, train_steps, count)]
    if spec.terminal != 0:
        last = 1 - sigmas[-1]
        if last == 0:
            fail_value("inference_steps", "at least 2 with config.shift_terminal", count)
        scale = last / (1 - spec.terminal)
        sigmas = [1 - (1 - sigma) / scale for sigma in sigmas]
    if spec.ratios is not None and spec.conversion is not None:
        sigmas = [ratio / (1 + ratio) for ratio in converted_levels(spec.conversion, spec.ratios[0], spec.ratios[1], count)]
    elif spec.conversion is not None:
        high, low = sigmas[0] if spec.high is None else spec.high, sigmas[-1] if spec.low is None else spec.low
        sigmas = converted_levels(spec.conversion, high, low, count)
    elif spec.below_one and abs(sigmas[0] - 1) < 1e-6:
        sigmas[0] -= 1e-6
    return sigmas, sigmas[-1] if spec.end == "last" else spec.end


def _times(spec: FlowSpec, train_steps: int, count: int) -> Sequence[float]:
    lowest = 1 / train_steps
    if spec.base == "flow-match":
        return evenly(1, shifted(spec.low_shift, lowest), count)
    if spec.base == "linear-quadratic":
        return _linear_quadratic(count)
    if spec.base == "minimax":
        if count < 2:
            fail_value("inference_steps", "an integer >= 2 for a MiniMaxH3Scheduler", count)
        return [(count - 1 - i) / (count - 1) for i in range(count - 1)]
    at: Callable[[int], float] = {
        "uniform": lambda i: (count - i) / count,
        "unipc": lambda i: 1 + i / count * (lowest - 1),
        "dpm": lambda i: (1 - lowest) * ((count - i) / count),
    }[spec.base]
    return [at(i) for i in range(count)]


# The noise that the linear half of a linear-quadratic ladder covers.
_LINEAR_PART = 0.025


def _linear_quadratic(count: int) -> List[float]:
    """1 - x, where x rises evenly to 0.025 over the first half of the steps and from there on a parabola of the same slope to 1."""
    linear = count // 2
    if linear == 0:
        return [1.0]
    rest = count - linear
    slope = _LINEAR_PART / linear
    curvature = (1 - _LINEAR_PART - slope * rest) / rest**2
    return [1 - (i * slope + curvature * max(0, i - linear) ** 2) for i in range(count)]
