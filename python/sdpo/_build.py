"""Builds noise levels with their transitions from what a caller or a config says; a port of lib/schedule/build.ts."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from ._betas import PowerTable
from ._diffusers import ReadConfig, read_diffusers
from ._ladder import FlowSpec
from ._levels import FlowLevels, TransitionRule, VariancePreservingLevels
from ._shift import DynamicShift, refuse_shift_options, resolve_shift
from ._table_ladder import TableSpec, table_ladder
from ._tables import TABLES
from ._validate import check_above, check_integer, check_one_of, fail_length, fail_type, fail_value, is_number

_TABLE = TABLES["schedules"]
_DEFAULT_STEPS = 50
# Beyond this many steps a step of 1/n comes too close to the rounding of the time.
_MAX_FLOW_STEPS = 1_000_000


class Sampler(NamedTuple):
    """Sampler options with their defaults."""

    inference_steps: int
    ladder: Union[str, Tuple[float, ...]]
    variance: str
    eta: float


class Parts(NamedTuple):
    """Everything of a schedule."""

    levels: Any
    prediction_type: str
    sampler: Sampler
    source: Dict[str, Any]
    dynamic: Optional[DynamicShift] = None


class _Defaults(NamedTuple):
    flow: bool
    train_steps: int
    scheduler: bool  # whether its class is known
    ladder: str
    variance: str
    inverted: bool = False
    most_steps: float = math.inf


def _check_sampler(options: Mapping[str, Any], defaults: _Defaults) -> Sampler:
    ladder: Any = options.get("ladder")
    if ladder is None or isinstance(ladder, str):
        known = {"scheduler": defaults.scheduler, "linear-quadratic": defaults.flow}
        allowed = [name for name in _TABLE["ladders"] if known.get(name, True)]
        ladder = check_one_of("ladder", defaults.ladder if ladder is None else ladder, allowed)
    else:
        ladder = _check_list(ladder, defaults)
    bound = defaults.most_steps if ladder == "scheduler" else math.inf
    most = int(min(bound, _MAX_FLOW_STEPS if defaults.flow else defaults.train_steps))
    steps = options.get("inference_steps")
    if isinstance(ladder, str):
        steps = check_integer("inference_steps", min(_DEFAULT_STEPS, most) if steps is None else steps, 1, most)
    else:
        steps = check_integer("inference_steps", len(ladder) if steps is None else steps, 1)
        if steps != len(ladder):
            fail_value("inference_steps", f"the length of ladder ({len(ladder)}) or absent", steps)
    variance = check_one_of("variance", options.get("variance") or defaults.variance, _TABLE["variances"])
    eta: Any = 1.0 if options.get("eta") is None else options["eta"]
    if variance != "posterior" and eta != 1:
        fail_value("eta", f"1 or absent with variance '{variance}'", eta, "ERR_SDPO_INVALID_OPTION")
    expected = "a number in (0, 1] (at 0 transitions are deterministic and have no density)"
    if not is_number(eta):
        fail_type("eta", expected, eta)
    if not 0 < eta <= 1:
        fail_value("eta", expected, eta)
    return Sampler(steps, ladder, variance, float(eta))


def _check_list(value: Any, defaults: _Defaults) -> Tuple[float, ...]:
    """Timesteps a sampler visits, from noise to data."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        fail_type("ladder", "a name or a list of timesteps", value)
    if len(value) == 0:
        fail_length("ladder", "a list of at least one timestep", value)
    steps, inverted = defaults.train_steps, defaults.inverted
    shown = (f"[0, {steps})" if inverted else f"(0, {steps}]") if defaults.flow else f"[0, {steps - 1}]"
    for i, entry in enumerate(value):
        if not is_number(entry):
            fail_type(f"ladder[{i}]", "a number", entry)
        if defaults.flow:
            inside = 0 <= entry < steps if inverted else 0 < entry <= steps
        else:
            inside = 0 <= entry <= steps - 1
        if not inside or (i > 0 and not (entry > value[i - 1] if inverted else entry < value[i - 1])):
            order = "" if i == 0 else f" {'above' if inverted else 'below'} {value[i - 1]}, the one before it"
            fail_value(f"ladder[{i}]", f"a number in {shown}{order}", entry)
    return tuple(value)


def table_parts(
    powers: PowerTable,
    final: Tuple[float, float],
    prediction_type: str,
    options: Mapping[str, Any],
    source: Dict[str, Any],
    read: Optional[ReadConfig] = None,
) -> Parts:
    """Parts of a schedule of a table of alpha-bar; `read` is what a config says of its sampler."""
    own = TableSpec() if read is None else read.table
    sampler = _check_sampler(
        options,
        _Defaults(
            False,
            len(powers.signal),
            read is not None,
            "uniform" if read is None else "scheduler",
            "posterior" if read is None else read.variance,
            most_steps=math.inf if own.original is None else own.original,
        ),
    )
    if not isinstance(sampler.ladder, str):
        rounded = all(t == math.floor(t) for t in sampler.ladder)
        own = own._replace(kind="listed", conversion=None, timesteps=sampler.ladder, rounded=rounded)
    elif sampler.ladder == "uniform":
        own = TableSpec()
    ladder = table_ladder(powers, final, own, sampler.inference_steps)
    levels = VariancePreservingLevels(powers, ladder, prediction_type, TransitionRule(sampler.variance, sampler.eta))
    return Parts(levels, prediction_type, sampler, source)


def flow_parts(
    train_steps: int,
    shift: float,
    prediction_type: str,
    options: Mapping[str, Any],
    source: Dict[str, Any],
    read: Optional[ReadConfig] = None,
    preset: Optional[Mapping[str, Any]] = None,
) -> Parts:
    """Parts of a rectified flow; `read` is what a config says of one, which may be a preset's."""
    inverted = read is not None and read.inverted
    named = (preset or {}).get("ladder")
    sampler = _check_sampler(
        options,
        _Defaults(
            True,
            train_steps,
            read is not None,
            named or ("uniform" if read is None or read.uniform else "scheduler"),
            "posterior" if read is None else read.variance,
            inverted,
        ),
    )
    steps, name = sampler.inference_steps, sampler.ladder
    own = FlowSpec() if read is None else read.flow
    if name == "scheduler" and own.base == "flow-match" and train_steps == 1 and steps > 1:
        expected = "'uniform' or a list of timesteps, since the class's own ladder is one level where config.num_train_timesteps is 1"
        fail_value("ladder", expected, name)
    ladder: Union[FlowSpec, Sequence[float]] = own if name == "scheduler" else own._replace(base=name) if isinstance(name, str) else name
    dynamic = None if read is None else read.dynamic
    if dynamic is None:
        refuse_shift_options(dict(options))
    else:
        preset = preset or {}
        dynamic = dynamic._replace(pixels_per_token=preset.get("pixelsPerToken"), empirical=preset.get("empirical", False))
        shift, mu = resolve_shift(dict(options), dynamic, steps)
        source = {**source, "mu": mu}
    levels = FlowLevels(train_steps, shift, prediction_type, steps, TransitionRule(sampler.variance, sampler.eta), ladder, inverted)
    return Parts(levels, prediction_type, sampler, source, dynamic)


def config_parts(config: Any, options: Mapping[str, Any], origin: Dict[str, Any], preset: Optional[Mapping[str, Any]] = None) -> Parts:
    """Parts of the schedule that a scheduler or its config means; `preset` is the one that the config comes from."""
    prediction_type = options.get("prediction_type")
    if prediction_type is not None:
        check_one_of("prediction_type", prediction_type, _TABLE["predictionTypes"])
    read = read_diffusers(config, _check_ignore(options.get("ignore", ())), prediction_type)
    source = {**origin, "config": read.config}
    if read.family == "variance-preserving":
        refuse_shift_options(dict(options))
        return table_parts(read.powers, read.final, read.prediction_type, options, source, read)
    shift = 1.0 if read.shift is None else read.shift
    parts = flow_parts(read.train_steps, shift, read.prediction_type, options, source, read, preset)
    return parts if read.set_shift is None else reshifted_parts(parts, {"shift": read.set_shift})


def reshifted_parts(parts: Parts, options: Dict[str, Any]) -> Parts:
    """The same flow with another shift."""
    levels, dynamic = parts.levels, parts.dynamic
    if not isinstance(levels, FlowLevels):
        fail_value("the schedule of with_shift", "a flow", "variance-preserving", "ERR_SDPO_INVALID_OPTION")
    if dynamic is None:
        refuse_shift_options(options)
        return parts._replace(levels=levels.with_shift(check_above("shift", options.get("shift"), 0)))
    if options.get("shift") is not None:
        expected = "absent, since the shift comes from the resolution (give one of mu, image_seq_len, width, height)"
        fail_value("shift", expected, options["shift"], "ERR_SDPO_INVALID_OPTION")
    shift, mu = resolve_shift(options, dynamic, parts.sampler.inference_steps)
    return parts._replace(levels=levels.with_shift(shift), source={**parts.source, "mu": mu})


def _check_ignore(ignore: Any) -> List[str]:
    if isinstance(ignore, str) or not isinstance(ignore, (list, tuple, set, frozenset)):
        fail_type("ignore", "a list of field names", ignore)
    for i, name in enumerate(ignore):
        if not isinstance(name, str):
            fail_type(f"ignore[{i}]", "a field name", name)
    return list(ignore)
