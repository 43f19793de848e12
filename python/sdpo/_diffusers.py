"""Reads a diffusers scheduler or its config: which fields it reads, which have no influence, and which would change the mathematics.

The rules themselves are in tables.json, written from lib/schedule/diffusers.ts.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ._betas import PowerTable, cumulate, given_betas, named_betas, rescale_to_zero_terminal_snr, shift_snr
from ._errors import SdpoError
from ._tables import TABLES
from ._validate import check_above, check_integer, check_number, check_one_of, describe, fail_length, fail_type, fail_value

_TABLE = TABLES["schedules"]
_SCHEDULERS = _TABLE["schedulers"]
_WITHOUT_INFLUENCE = frozenset(_TABLE["withoutInfluence"])
_DEMANDS = _TABLE["demands"]

# Bounds the tables, so that a mistyped number of timesteps is an error rather than gigabytes.
_MAX_TABLE = 10_000_000


class ReadConfig(NamedTuple):
    prediction_type: str
    config: Dict[str, Any]  # the fields that were followed, defaults filled in: an equivalent config
    family: str
    powers: Optional[PowerTable] = None  # variance preserving: alpha-bar, and its complement
    final: Tuple[float, float] = (1.0, 0.0)  # the same two numbers behind the last transition
    train_steps: int = 0  # flow
    shift: float = 1.0  # flow


def config_of(source: Any) -> Mapping[str, Any]:
    """The config of a scheduler object or a config as it is. An object's class decides what its fields mean, so it names the config."""
    if isinstance(source, Mapping):
        return source
    config = getattr(source, "config", None)
    if not isinstance(config, Mapping):
        fail_type("scheduler_or_config", "a scheduler with a config, or a mapping as json.load gives it", source)
    name = type(source).__name__
    return {**config, "_class_name": name} if name.endswith("Scheduler") or "_class_name" not in config else config


def read_diffusers(source: Any, ignore: Sequence[str], prediction_type: Optional[str]) -> ReadConfig:
    """Reads a config; fields in `ignore` count as absent, `prediction_type` takes the place of the config's."""
    config = config_of(source)
    class_name = config.get("_class_name")
    if not isinstance(class_name, str) or class_name not in _SCHEDULERS:
        raise _unsupported("config._class_name", f"one of {', '.join(_SCHEDULERS)}", class_name)
    scheduler = _SCHEDULERS[class_name]
    given = _given_fields(class_name, scheduler, config, ignore)
    fields = {**scheduler["reads"], **given}
    flow = scheduler["family"] == "flow"
    allowed = _TABLE["flowPredictions" if flow else "variancePreservingPredictions"]
    if prediction_type is not None:
        fields["prediction_type"] = check_one_of("prediction_type", prediction_type, allowed)
    else:
        # The flow matching sampler takes the prediction for a velocity whatever the config says.
        followed = ["flow_prediction"] if class_name == "FlowMatchEulerDiscreteScheduler" else allowed
        _one_of(class_name, "prediction_type", fields["prediction_type"], followed)
    if flow:
        train_steps, shift = _read_flow(class_name, fields)
        return ReadConfig(fields["prediction_type"], {"_class_name": class_name, **fields}, "flow", train_steps=train_steps, shift=shift)
    powers, final = _read_betas(scheduler, class_name, fields, given)
    return ReadConfig(fields["prediction_type"], {"_class_name": class_name, **fields}, "variance-preserving", powers, final)


def _same(a: Any, b: Any) -> bool:
    """Equality as in JSON, where false is not 0."""
    return isinstance(a, bool) == isinstance(b, bool) and type(a) in (bool, int, float, str) and a == b


def _given_fields(class_name: str, scheduler: Mapping, config: Mapping, ignore: Sequence[str]) -> Dict[str, Any]:
    """The fields that the class reads and that are set, after every other field has been found harmless."""
    given: Dict[str, Any] = {}
    for name, value in config.items():
        if name.startswith("_") or name in ignore:
            continue
        if name in scheduler["reads"]:
            if value is not None:
                given[name] = value
            continue
        if name in _WITHOUT_INFLUENCE or name in scheduler.get("idle", ()):
            continue
        if name not in _DEMANDS:
            raise SdpoError(
                "ERR_SDPO_UNSUPPORTED_CONFIG",
                f"Expected config to have only fields known to change nothing or to be supported, received {describe(name)} = "
                f"{describe(value)}, whose influence on {class_name} is not known (ignore=['{name}'] leaves it out)",
            )
        harmless, effect = _DEMANDS[name]["harmless"], _DEMANDS[name]["effect"]
        if value is None or any(_same(value, each) for each in harmless):
            continue
        expected = " or ".join([*(describe(each) for each in harmless), "absent"])
        raise _unsupported(f"config.{name}", expected, value, f"{effect}; ignore=['{name}'] leaves it out")
    return given


def _read_flow(class_name: str, fields: Mapping[str, Any]) -> Tuple[int, float]:
    unipc = class_name == "UniPCMultistepScheduler"
    if unipc and fields["use_flow_sigmas"] is not True:
        raise _unsupported(f"config.use_flow_sigmas of a {class_name}", "True", fields["use_flow_sigmas"])
    name = "flow_shift" if unipc else "shift"
    return (
        check_integer("config.num_train_timesteps", fields["num_train_timesteps"], 1),
        check_above(f"config.{name}", fields[name], 0),
    )


def _read_betas(scheduler: Mapping, class_name: str, fields: Dict[str, Any], given: Mapping) -> Tuple[PowerTable, Tuple[float, float]]:
    powers = cumulate(_betas_of(class_name, fields, given))
    # CogVideoX shifts first and rescales the shifted table.
    if "snr_shift_scale" in fields:
        powers = shift_snr(powers, check_above("config.snr_shift_scale", fields["snr_shift_scale"], 0))
    if _flag("rescale_betas_zero_snr", fields):
        if not powers.signal[0] > powers.signal[-1]:
            fail_value("config.rescale_betas_zero_snr", "False for a schedule whose noise does not grow", True)
        powers = rescale_to_zero_terminal_snr(powers)
        terminal = scheduler.get("terminalSignal")
        if terminal is not None:
            powers.signal[-1] = terminal
            powers.noise[-1] = 1 - terminal
    # Classes without the field end on clean data.
    ends_clean = "set_alpha_to_one" not in fields or _flag("set_alpha_to_one", fields)
    return powers, (1.0, 0.0) if ends_clean else (powers.signal[0], powers.noise[0])


def _betas_of(class_name: str, fields: Dict[str, Any], given: Mapping) -> List[float]:
    if fields["trained_betas"] is not None:
        betas = given_betas("config.trained_betas", fields["trained_betas"])
        steps = given.get("num_train_timesteps")
        if steps is not None and steps != len(betas):
            fail_length("config.num_train_timesteps", f"the length of config.trained_betas ({len(betas)})", steps)
        fields["trained_betas"] = betas
        fields["num_train_timesteps"] = len(betas)
        return betas
    schedule = _one_of(class_name, "beta_schedule", fields["beta_schedule"], _TABLE["betaSchedules"])
    steps = check_integer("config.num_train_timesteps", fields["num_train_timesteps"], 1, _MAX_TABLE)
    start = check_number("config.beta_start", fields["beta_start"], 0, 1)
    end = check_number("config.beta_end", fields["beta_end"], 0, 1)
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
