"""Ladders of samplers of variance-preserving schedules: which level one step leads to from any timestep of the table.

A port of lib/schedule/table-ladder.ts.
"""

from __future__ import annotations

import math
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from ._betas import PowerTable
from ._ladder import converted_levels, spaced

# alpha-bar and its complement.
Power = Tuple[float, float]

# Logarithms of levels that are no farther apart are those of the same level.
_CLOSE = 1e-9


class TableSpec(NamedTuple):
    """How a class lays its ladder."""

    kind: str = "stride"
    spacing: str = "leading"
    offset: int = 0
    rounded: bool = True
    conversion: Optional[str] = None
    high: Optional[float] = None
    low: Optional[float] = None
    held: bool = False  # ends on the lowest level of the table, or of the conversion
    clip: float = -math.inf
    original: Optional[int] = None
    timesteps: Sequence[float] = ()


class TableLadder(NamedTuple):
    step: Callable[[int], Tuple[float, Power]]  # where a step from a timestep ends: the timestep (below 0: behind the table) and its level
    timesteps: List[float]  # visited, and the end
    powers: List[Power]


def table_ladder(table: PowerTable, final: Power, spec: TableSpec, count: int) -> TableLadder:
    """`final` is the level behind the last step, unless the spec holds the lowest one."""
    times = _timesteps(table, spec, count)
    if spec.conversion is not None:
        return _converted(table, final, spec, times, count)
    steps = len(table.signal)
    end = _power_at(table, 0) if spec.held else final
    last = len(times) - 1
    tail = times[last - 1] - times[last] if last > 0 else 1.0
    stride = steps // count

    def ending(previous: float) -> Tuple[float, Power]:
        return (0.0 if spec.held else min(previous, -1.0)), end

    def landing(previous: float) -> Tuple[float, Power]:
        at = float(math.floor(previous + 0.5)) if spec.rounded else previous
        return ending(at) if at < 0 else (at, _power_at(table, at))

    def step(timestep: int) -> Tuple[float, Power]:
        if spec.kind == "stride":
            return landing(timestep - stride)
        if last == 0:
            return ending(timestep - steps)
        if timestep <= times[last]:
            return ending(timestep - tail)
        above = timestep > times[0]
        i = 0 if above else _below(times, timestep)
        here = times[i] - times[i + 1]
        following = times[i + 1] - times[i + 2] if not above and i + 2 <= last else here
        # With equal steps the difference is exact; else a timestep between two points goes as far between the next two.
        if following == here:
            return landing(timestep - here)
        return landing(times[i + 1] - (times[i] - timestep) / here * following)

    return TableLadder(step, [*times, 0.0 if spec.held else -1.0], [*(_power_at(table, t) for t in times), end])


def _timesteps(table: PowerTable, spec: TableSpec, count: int) -> List[float]:
    steps = len(table.signal)
    if spec.kind == "listed":
        return [float(t) for t in spec.timesteps]
    if spec.kind == "consistency":
        assert spec.original is not None
        stride, place = steps // spec.original, spec.original / count
        return [float((spec.original - math.floor(i * place)) * stride - 1) for i in range(count)]
    if spec.kind == "unclip":
        spread = (steps - 1) / (count - 1) if count > 1 else 0.0
        return [float(round((count - 1 - i) * spread)) for i in range(count)]
    parts = count + 1 if spec.kind == "solver" and spec.spacing != "trailing" else count
    return spaced(spec.spacing, _kept(table, spec.clip), count, parts, steps / count, spec.offset, spec.rounded)


def _kept(table: PowerTable, clip: float) -> int:
    """How many timesteps have log(a/s) >= clip."""
    kept = len(table.signal)
    while clip != -math.inf and kept > 1 and 0.5 * math.log(table.signal[kept - 1] / table.noise[kept - 1]) < clip:
        kept -= 1
    return kept


def _below(values: Sequence[float], value: float) -> int:
    """The last index of a falling list whose value is at least `value`; not the last of all."""
    low, high = 0, len(values) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if values[middle] >= value:
            low = middle
        else:
            high = middle
    return low


def _ratio(power: Power) -> float:
    """s/a, the sigma of samplers that leave the data unscaled."""
    return math.sqrt(power[1] / power[0]) if power[0] > 0 else math.inf


def _power_of(ratio: float) -> Power:
    squared = ratio * ratio
    return 1 / (1 + squared), 1 / (1 + 1 / squared) if ratio > 1 else squared / (1 + squared)


def _power_at(table: PowerTable, timestep: float) -> Power:
    """The level of a timestep, between two of them interpolated linearly in s/a."""
    low = min(math.floor(timestep), len(table.signal) - 1)
    here = (table.signal[low], table.noise[low])
    if low == timestep:
        return here
    weight = timestep - low
    return _power_of((1 - weight) * _ratio(here) + weight * _ratio((table.signal[low + 1], table.noise[low + 1])))


def _time_of(ratios: Sequence[float], ratio: float) -> float:
    """The timestep at which a table of rising s/a has a value, by its logarithm; 0 or T-1 beyond the ends."""
    last = len(ratios) - 1
    if not ratio > ratios[0]:
        return 0.0
    if ratio >= ratios[last]:
        return float(last)
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        if ratios[middle] <= ratio:
            low = middle
        else:
            high = middle
    first, second = math.log(ratios[low]), math.log(ratios[high])
    return low + (math.log(ratio) - first) / (second - first)


def _converted(table: PowerTable, final: Power, spec: TableSpec, times: Sequence[float], count: int) -> TableLadder:
    """Levels laid between two values of s/a; between two of its points a step goes on evenly in the logarithm."""
    ratios = [_ratio(power) for power in zip(table.signal, table.noise)]
    solver, log_linear = spec.kind == "solver", spec.conversion == "log_linear"
    whole = solver or log_linear
    high = spec.high if spec.high is not None else ratios[-1] if whole else _ratio(_power_at(table, times[0]))
    low = spec.low if spec.low is not None else ratios[0] if whole else _ratio(_power_at(table, times[-1]))
    # A log-linear ladder ends on the last of n + 1 points; the class's final level comes behind that.
    levels = converted_levels("exponential" if log_linear else str(spec.conversion), high, low, count + 1 if log_linear else count)
    points, last = levels[:count], count - 1
    lowest = levels[count] if log_linear else (points[last] if solver else ratios[0]) if spec.held else 0.0
    end = _power_of(lowest) if lowest > 0 else final
    end_time = _time_of(ratios, lowest) if lowest > 0 else -1.0
    logs = [math.log(point) for point in points]

    def at(ratio: float) -> Tuple[float, Power]:
        return _time_of(ratios, ratio), _power_of(ratio)

    def step(timestep: int) -> Tuple[float, Power]:
        ratio = ratios[timestep]
        log = -math.inf if ratio == 0 else math.log(ratio)
        # Powers and logarithms of the ladder's lowest level round.
        if last == 0 or log <= logs[last] + _CLOSE:
            return end_time, end
        if log > logs[0]:
            return at(math.exp(log - (logs[0] - logs[1])))
        i = _below(logs, log)
        rest = (logs[i] - log) / (logs[i] - logs[i + 1])
        if i + 1 == last:
            return at(points[last] + rest * (lowest - points[last]))
        return at(math.exp(logs[i + 1] - rest * (logs[i + 1] - logs[i + 2])))

    return TableLadder(step, [*(_time_of(ratios, point) for point in points), end_time], [*(_power_of(point) for point in points), end])
