"""Reads a diffusers scheduler config: which noise levels it means, and how its sampler goes down them.

The rules themselves are in tables.json, written from lib/schedule/classes.ts.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ._betas import PowerTable, cumulate, given_betas, named_betas, rescale_to_zero_terminal_snr, shift_snr
from ._errors import SdpoError
from ._ladder import FlowSpec
from ._live import live_betas, live_config
from ._shift import DynamicShift
from ._table_ladder import TableSpec
from ._tables import TABLES
from ._validate import check_above, check_integer, check_number, check_one_of, describe, fail_length, fail_type, fail_value

_TABLE = TABLES["schedules"]
_SCHEDULERS = _TABLE["schedulers"]
_WITHOUT_INFLUENCE = frozenset(_TABLE["withoutInfluence"])

# Bounds the tables, so that a mistyped number of timesteps is an error rather than gigabytes.
_MAX_TABLE = 10_000_000

Fields = Dict[str, Any]


class ReadConfig(NamedTuple):
    prediction_type: str
    variance: str  # the noise of the class's own transitions
    config: Dict[str, Any]  # the fields that were followed, defaults filled in: an equivalent config
    family: str
    powers: PowerTable = PowerTable([], [])  # variance preserving: alpha-bar, and its complement
    final: Tuple[float, float] = (1.0, 0.0)  # the same two numbers behind the last transition
    table: TableSpec = TableSpec()
    train_steps: int = 0  # flow
    shift: Optional[float] = None  # None where it depends on the resolution
    dynamic: Optional[DynamicShift] = None
    flow: FlowSpec = FlowSpec()
    uniform: bool = False  # steps of 1/n are the default
    inverted: bool = False
    set_shift: Optional[float] = None  # what a scheduler object holds in place of its config's


def read_diffusers(source: Any, ignore: Sequence[str], prediction_type: Optional[str]) -> ReadConfig:
    """Reads a scheduler or its config; fields in `ignore` count as absent, `prediction_type` takes the place of the config's."""
    live = live_config(source, _SCHEDULERS)
    read = _read(live.config, ignore, prediction_type)
    if read.family == "flow":
        return read._replace(set_shift=live.shift)
    fields = dict(read.config)
    plain = _betas_of(fields["_class_name"], _SCHEDULERS[fields["_class_name"]], fields, {})
    replaced = live_betas(source, read.powers, read.final[0], plain, fields)
    return read if replaced is None else _read({**live.config, **replaced}, ignore, prediction_type)


def _read(config: Mapping[str, Any], ignore: Sequence[str], prediction_type: Optional[str]) -> ReadConfig:
    class_name = config.get("_class_name")
    if not isinstance(class_name, str) or class_name not in _SCHEDULERS:
        other = "NoiseSchedule.flow and NoiseSchedule.variance_preserving take a schedule of any other class by its numbers"
        reason = _TABLE["refused"].get(class_name, other) if isinstance(class_name, str) else None
        raise _unsupported("config._class_name", f"one of {', '.join(_SCHEDULERS)}", class_name, reason)
    scheduler = _SCHEDULERS[class_name]
    given = _given_fields(class_name, scheduler, config, ignore)
    fields = {**scheduler["reads"], **given}
    as_flow = "flow" in scheduler and ("table" not in scheduler or _flag("use_flow_sigmas", fields))
    allowed = _TABLE["flowPredictions" if as_flow else "variancePreservingPredictions"]
    if prediction_type is not None:
        fields["prediction_type"] = check_one_of("prediction_type", prediction_type, allowed)
    else:
        _one_of(class_name, "prediction_type", fields["prediction_type"], scheduler.get("predictions", allowed))
    variance = _variance(class_name, scheduler, fields)
    if as_flow:
        read = _read_flow(class_name, scheduler, fields, given, variance == "fresh")
    else:
        powers, final, table = _read_betas(class_name, scheduler, fields, given)
        read = {"family": "variance-preserving", "powers": powers, "final": final, "table": table}
    return ReadConfig(fields["prediction_type"], variance, {"_class_name": class_name, **fields}, **read)


def _same(a: Any, b: Any) -> bool:
    """Equality as in JSON, where false is not 0."""
    return isinstance(a, bool) == isinstance(b, bool) and type(a) in (bool, int, float, str) and a == b


def _or_absent(values: Sequence[Any]) -> str:
    return " or ".join([*(describe(each) for each in values), "absent"])


def _given_fields(class_name: str, scheduler: Mapping, config: Mapping, ignore: Sequence[str]) -> Fields:
    """The fields that the class reads and that are set, after every other field has been found harmless."""
    given: Fields = {}
    for name, value in config.items():
        if name.startswith("_") or value is None or name in ignore:
            continue
        # What Python writes for no clipping; JSON says it by leaving the field out.
        if name == "lambda_min_clipped" and value == -math.inf:
            continue
        if name in scheduler["reads"]:
            given[name] = value
        elif name in scheduler.get("demands", ()):
            demand = _TABLE["demands"][name]
            if not any(_same(value, each) for each in demand["harmless"]):
                reason = f"{demand['effect']}; ignore=['{name}'] leaves it out"
                raise _unsupported(f"config.{name}", _or_absent(demand["harmless"]), value, reason)
        elif name in _TABLE["elsewhere"]:
            harmless = _TABLE["elsewhere"][name]
            named_flow = name == "use_flow_sigmas" and value is True and "table" not in scheduler
            if not named_flow and not any(_same(value, each) for each in harmless):
                raise _unsupported(
                    f"config.{name}",
                    _or_absent(harmless),
                    value,
                    f"a {class_name} does not read it, but it means another schedule: take the config of the class that the model was trained with, "
                    "or remove the field if it was trained without",
                )
        elif name not in _WITHOUT_INFLUENCE:
            raise SdpoError(
                "ERR_SDPO_UNSUPPORTED_CONFIG",
                f"Expected config to have only fields known to change nothing or to be supported, received {describe(name)} = "
                f"{describe(value)}, whose influence on {class_name} is not known (where it has none on the noise levels, ignore=['{name}'] "
                "leaves it out)",
            )
    return given


def _variance(class_name: str, scheduler: Mapping, fields: Fields) -> str:
    if _flag("stochastic_sampling", fields):
        return "fresh"
    kind = fields.get("variance_type")
    if kind in (None, "fixed_small", "fixed_small_log"):
        return scheduler.get("variance", "posterior")
    if kind == "fixed_large" and class_name != "UnCLIPScheduler":
        return "forward"
    known = "'fixed_small_log'" if class_name == "UnCLIPScheduler" else "'fixed_small' or 'fixed_small_log' or 'fixed_large'"
    if str(kind).startswith("learned"):
        reason = "the model predicts the variance of its transitions, which no schedule knows"
    else:
        reason = "the class takes the root of a negative number for it"
    raise _unsupported("config.variance_type", known, kind, f"{reason}; ignore=['variance_type'] takes that of the posterior")


def _read_flow(class_name: str, scheduler: Mapping, fields: Fields, given: Fields, fresh: bool) -> Dict[str, Any]:
    rule = scheduler["flow"]
    train_steps = rule.get("trainSteps") or check_integer("config.num_train_timesteps", fields["num_train_timesteps"], 1)
    dynamic = _read_dynamic(class_name, fields) if _flag("use_dynamic_shifting", fields) else None
    shift = check_above(f"config.{rule['shift']}", fields[rule["shift"]], 0) if dynamic is None else None
    conversion, terminal = _conversion(fields), _terminal(fields)
    inverted = rule.get("inverted", False) or _flag("invert_sigmas", fields)
    if inverted and fresh:
        reason = f"a {class_name} that noises afresh takes x_t - (1-σ) v for x_0, which it is not where the velocity points to the data"
        raise _unsupported(
            "config.invert_sigmas", "False", True, f"{reason}; NoiseSchedule.flow with omega given to each batch has the levels of timestep T - t"
        )
    low_shift = 1.0 if shift is None else shift
    spec = FlowSpec(rule["base"], low_shift, terminal, conversion, below_one=rule["base"] == "unipc")
    read = {"family": "flow", "train_steps": train_steps, "shift": shift, "dynamic": dynamic, "uniform": rule.get("uniform", False)}
    read["inverted"] = inverted
    if "table" not in scheduler:
        return {**read, "flow": spec._replace(high=_bound("sigma_max", fields, 1), low=_bound("sigma_min", fields, 1))}

    # Solvers for both families. Their conversions are of s/a; only UniPC turns the levels of one into those of a flow.
    unipc = rule["base"] == "unipc"
    if conversion is not None and not (unipc and conversion == "karras"):
        name = f"use_{conversion}_sigmas"
        reason = f"a {class_name} takes its levels for those of a flow, which they are not; ignore=['{name}'] leaves the plain ladder"
        raise _unsupported(f"config.{name}", "False with use_flow_sigmas", True, reason)
    held = rule.get("held", False) or _final_type(class_name, fields) == "sigma_min"
    end: Any = "last" if held else 0.0
    if conversion is None and (not held or unipc or rule.get("held")):
        return {**read, "flow": spec._replace(end=end)}
    # What is left needs the betas.
    powers, _, _ = _read_betas(class_name, scheduler, fields, given)

    def ratio(t: int) -> float:
        return math.sqrt(powers.noise[t] / powers.signal[t])

    if conversion is None:
        return {**read, "flow": spec._replace(end=ratio(0))}
    high, low = _bound("sigma_max", fields), _bound("sigma_min", fields)
    bounds = (ratio(-1) if high is None else high, ratio(0) if low is None else low)
    return {**read, "flow": spec._replace(ratios=bounds, end=end)}


def _read_dynamic(class_name: str, fields: Fields) -> DynamicShift:
    base_length = check_number("config.base_image_seq_len", fields["base_image_seq_len"], 0)
    return DynamicShift(
        _one_of(class_name, "time_shift_type", fields["time_shift_type"], ("exponential", "linear")),
        check_number("config.base_shift", fields["base_shift"]),
        check_number("config.max_shift", fields["max_shift"]),
        base_length,
        check_above("config.max_image_seq_len", fields["max_image_seq_len"], base_length),
    )


def _terminal(fields: Fields) -> float:
    value = fields.get("shift_terminal")
    if value is None or value is False or value == 0:
        return 0.0
    check_above("config.shift_terminal", value, 0)
    if not value < 1:
        fail_value("config.shift_terminal", "a number in (0, 1)", value)
    return float(value)


def _conversion(fields: Fields) -> Optional[str]:
    named = [name for name in ("karras", "exponential", "beta") if _flag(f"use_{name}_sigmas", fields)]
    if len(named) > 1:
        raise _unsupported(f"config.use_{named[1]}_sigmas", f"False with use_{named[0]}_sigmas", True)
    if named:
        return named[0]
    # Lu's lambdas are laid evenly in log sigma, as those of the exponential ladder.
    return "exponential" if _flag("use_lu_lambdas", fields) else None


def _final_type(class_name: str, fields: Fields) -> str:
    return _one_of(class_name, "final_sigmas_type", fields.get("final_sigmas_type", "zero"), ("zero", "sigma_min"))


def _bound(name: str, fields: Fields, most: float = math.inf) -> Optional[float]:
    value = fields.get(name)
    if value is None:
        return None
    check_above(f"config.{name}", value, 0)
    return check_number(f"config.{name}", value, 0, most)


def _read_betas(class_name: str, scheduler: Mapping, fields: Fields, given: Mapping) -> Tuple[PowerTable, Tuple[float, float], TableSpec]:
    rule = scheduler["table"]
    powers = cumulate(_betas_of(class_name, scheduler, fields, given))
    # CogVideoX shifts first and rescales the shifted table.
    if "snr_shift_scale" in fields:
        powers = shift_snr(powers, check_above("config.snr_shift_scale", fields["snr_shift_scale"], 0))
    if _flag("rescale_betas_zero_snr", fields):
        if not powers.signal[0] > powers.signal[-1]:
            fail_value("config.rescale_betas_zero_snr", "False for a schedule whose noise does not grow", True)
        powers = rescale_to_zero_terminal_snr(powers)
        terminal = rule.get("terminalSignal")
        if terminal is not None:
            powers.signal[-1] = terminal
            powers.noise[-1] = 1 - terminal
    # Classes without the field end on clean data.
    ends_clean = "set_alpha_to_one" not in fields or _flag("set_alpha_to_one", fields)
    final = (1.0, 0.0) if ends_clean else (powers.signal[0], powers.noise[0])
    return powers, final, _table_spec(class_name, rule, fields, powers)


def _table_spec(class_name: str, rule: Mapping, fields: Fields, powers: PowerTable) -> TableSpec:
    steps = len(powers.signal)
    if "timestep_type" in fields:
        kind = _one_of(class_name, "timestep_type", fields["timestep_type"], ("discrete", "continuous"))
        if kind == "continuous" and fields["prediction_type"] == "v_prediction":
            way = _TABLE["refused"]["EDMEulerScheduler"].split("; ")[1]
            raise _unsupported("config.timestep_type", "'discrete'", kind, f"with v_prediction the timesteps are ¼ ln σ and not indices; {way}")
    if _terminal(fields) != 0:
        raise _unsupported("config.shift_terminal", "absent without use_flow_sigmas", fields["shift_terminal"])
    unbounded = fields.get("use_lu_lambdas") or (rule.get("unboundedKarras") and fields.get("use_karras_sigmas"))
    low, high = (None, None) if unbounded else (_bound("sigma_min", fields), _bound("sigma_max", fields))
    interpolation = _one_of(class_name, "interpolation_type", fields.get("interpolation_type", "linear"), ("linear", "log_linear"))
    conversion, log_linear = _conversion(fields), interpolation == "log_linear"
    if (conversion is not None or log_linear) and powers.signal[-1] == 0:
        name = "interpolation_type" if log_linear else f"use_{conversion}_sigmas"
        reason = "the ladder would begin at an infinite σ, as the last ᾱ is 0"
        raise _unsupported(f"config.{name}", "'linear'" if log_linear else "False", fields.get(name), reason)
    if conversion is None:
        low = high = None
    elif log_linear:
        # A log-linear ladder goes over the whole table, and a conversion of it between the same ends.
        low = math.sqrt(powers.noise[0] / powers.signal[0]) if low is None else low
        high = math.sqrt(powers.noise[-1] / powers.signal[-1]) if high is None else high
    original = fields.get("original_inference_steps")
    return TableSpec(
        rule["kind"],
        _one_of(class_name, "timestep_spacing", fields.get("timestep_spacing", "linspace"), _TABLE["spacings"]),
        check_integer("config.steps_offset", fields.get("steps_offset", 0), 0),
        rule["rounded"],
        conversion or ("log_linear" if log_linear else None),
        high,
        low,
        rule.get("held", False) or _final_type(class_name, fields) == "sigma_min",
        _clip(fields),
        None if original is None else check_integer("config.original_inference_steps", original, 1, steps),
    )


def _clip(fields: Mapping[str, Any]) -> float:
    value = fields.get("lambda_min_clipped")
    return -math.inf if value is None else check_number("config.lambda_min_clipped", value)


def _betas_of(class_name: str, scheduler: Mapping, fields: Fields, given: Mapping) -> List[float]:
    if fields.get("trained_betas") is not None:
        betas = given_betas("config.trained_betas", fields["trained_betas"])
        steps = given.get("num_train_timesteps")
        if steps is not None and steps != len(betas):
            fail_length("config.num_train_timesteps", f"the length of config.trained_betas ({len(betas)})", steps)
        fields["trained_betas"] = betas
        fields["num_train_timesteps"] = len(betas)
        return betas
    known = scheduler.get("betas", _TABLE["defaultBetas"])
    schedule = _one_of(class_name, "beta_schedule", fields["beta_schedule"], known)
    steps = check_integer("config.num_train_timesteps", fields["num_train_timesteps"], 1, _MAX_TABLE)
    start = check_number("config.beta_start", fields.get("beta_start", 0), 0, 1)
    end = check_number("config.beta_end", fields.get("beta_end", 0), 0, 1)
    return named_betas(schedule, steps, start, end)


def _flag(name: str, fields: Mapping[str, Any]) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        fail_type(f"config.{name}", "a boolean", value)
    return value


def _one_of(class_name: str, name: str, value: Any, allowed: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        names = " or ".join(f"'{each}'" for each in allowed)
        raise _unsupported(f"config.{name} of a {class_name}", names, value)
    return value


def _unsupported(argument: str, expected: str, received: Any, reason: Optional[str] = None) -> SdpoError:
    because = "" if reason is None else f" ({reason})"
    return SdpoError("ERR_SDPO_UNSUPPORTED_CONFIG", f"Expected {argument} to be {expected}, received {describe(received)}{because}")
