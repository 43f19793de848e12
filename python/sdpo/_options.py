"""Options of a preference loss: checks, defaults and users, all driven by the table of options (docs/api.md says what they mean)."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Dict, Mapping, NoReturn, Optional, Sequence, Tuple

from ._errors import SdpoRangeError
from ._tables import LISTS, OPTIONS, TRAITS, snake
from ._validate import (
    check_above,
    check_between,
    check_boolean,
    check_integer,
    check_number,
    check_one_of,
    describe,
    fail_type,
    fail_value,
    is_number,
    refuse_unknown,
)
from .schedule import NoiseSchedule

OPTION_NAMES = ("schedule", *OPTIONS)


class _Answers:
    """What the rest of the package asks of resolved options."""

    __slots__ = ()

    @property
    def traits(self) -> Mapping[str, Any]:
        return TRAITS[self.objective]

    @property
    def reads_omega(self) -> bool:
        return self.traits["weights"] > 0 or self.timestep_weighting == "elbo"

    @property
    def needs_drift(self) -> Optional[str]:
        """What reads the drift q, which only a reference tensor can give; None where a reference error is enough."""
        return "kl_weight" if self.kl_weight != 0 else f"objective '{self.objective}'" if self.traits["drift"] else None


# One field per option, in the order of the table. `non_finite` is None for 'throw' on the CPU and 'propagate' elsewhere.
ResolvedOptions = dataclasses.make_dataclass("ResolvedOptions", OPTION_NAMES, bases=(_Answers,), frozen=True, eq=False)
ResolvedOptions.__module__ = __name__  # for pickle
ResolvedOptions.__doc__ = "Options with every default filled in, and ranges as their two bounds; what is off is None."


def resolve(given: Mapping[str, Any]) -> Any:
    """Checks options and fills in the defaults; None means 'not given'."""
    refuse_unknown("the options", given, OPTION_NAMES)
    schedule = given.get("schedule")
    if schedule is not None and not isinstance(schedule, NoiseSchedule):
        fail_type("schedule", "a NoiseSchedule", schedule)
    resolved: Dict[str, Any] = {"schedule": schedule}
    for name, row in OPTIONS.items():
        value = given.get(name)
        resolved[name] = _check(name, value) if value is not None or row.get("required") else _default(name, resolved)
    options = ResolvedOptions(**resolved)
    _refuse_unused(given, options)
    return options


def _default(name: str, resolved: Mapping[str, Any]) -> Any:
    if name == "non_finite":
        return None
    if name == "pair_weight" and TRAITS[resolved["objective"]]["weights"] == 2:
        return None  # a weight per branch
    if name == "mapo_steps" and resolved["schedule"] is not None:
        return float(resolved["schedule"].train_steps)
    value = OPTIONS[name].get("default")
    return None if value is None else _check(name, value)


def _check(name: str, value: Any) -> Any:
    row = OPTIONS[name]
    kind, low, high = row["type"], row.get("minimum", -math.inf), row.get("maximum", math.inf)
    above, below = row.get("exclusiveMinimum"), row.get("exclusiveMaximum")
    if kind == "enum":
        return check_one_of(name, value, row["values"])
    if kind == "boolean":
        return check_boolean(name, value)
    if kind == "integer":
        return check_integer(name, value, low, high)
    if kind == "range":
        return _range(name, value)
    if kind == "interval":
        return _interval(name, value, "(low, high) of finite numbers", -math.inf)
    if above is not None and below is not None:
        return check_between(name, value, above, below)
    if above is not None:
        return check_above(name, value, above)
    if below is not None:
        return check_below(name, value, low, below)
    return check_number(name, value, low, high)


def check_below(name: str, value: Any, low: float, high: float) -> float:
    """A number in [low, high)."""
    expected = f"a number in [{low:g}, {high:g})"
    if not is_number(value):
        fail_type(name, expected, value)
    if not low <= value < high:
        fail_value(name, expected, value)
    return float(value)


def _range(name: str, value: Any) -> Tuple[float, float]:
    if not is_number(value):
        return _interval(name, value, "a number or (low, high)", 0)
    check_number(name, value, 0)
    return (max(0.0, 1 - value), 1.0 + value)


def _interval(name: str, value: Any, expected: str, minimum: float) -> Tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        fail_type(name, expected, value)
    low, high = (check_number(f"{name}[{i}]", value[i], minimum) for i in range(2))
    if low > high:
        fail_value(name, "(low, high) with low <= high", f"({low}, {high})")
    return (low, high)


def _refuse_unused(given: Mapping[str, Any], options: Any) -> None:
    """An option that the objective or the link does not use must not look as if it did something."""
    for name, row in OPTIONS.items():
        value = given.get(name)
        if value is None:
            continue
        user = None
        if options.objective not in row.get("users", (options.objective,)):
            user = f"objective '{options.objective}'"
        elif row.get("link", options.link) != options.link:
            user = f"link '{options.link}'"
        usual = row.get("default")
        if user is not None and (usual is None or _check(name, value) != _check(name, usual)):
            _refuse(name, user, value)


def _refuse(name: str, user: str, value: Any) -> NoReturn:
    raise SdpoRangeError(
        "ERR_SDPO_INVALID_OPTION",
        f"Expected {name} to be left at its default, since {user} does not use it, received {describe(value)}",
    )


# ---- How options cross


def encode(options: Any, looking: bool) -> Tuple[float, ...]:
    """The options as the native library takes them, in the order of the list "options": names as their positions in their own lists.

    looking: whether a look at a result costs nothing, so that 'throw' is the default.
    """
    numbers: Dict[str, float] = {}
    for name, row in OPTIONS.items():
        if "crosses" in row:
            continue
        value = getattr(options, name)
        if name == "non_finite" and value is None:
            value = "throw" if looking else "propagate"
        fields = row.get("fields", [row["name"]])
        numbers.update(zip(fields, _numbers(row, value)))
    return tuple(numbers[name] for name in LISTS["options"])


def _numbers(row: Mapping[str, Any], value: Any) -> Sequence[float]:
    if value is None:
        return [float(number) for number in row["off"]]
    if row["type"] in ("range", "interval"):
        return value
    if row["type"] == "enum":  # the native list of an enumeration that can be off starts with what that is
        return [float(row["values"].index(value) + len(row.get("off", ())))]
    return [float(value)]


class Encoded:
    """The numbers of `encode` under their names again; choices as their names in the native lists."""

    def __init__(self, numbers: Tuple[float, ...]) -> None:
        for name, number in zip(LISTS["options"], numbers):
            list_ = LISTS.get(name if name in LISTS else f"{name}s") or _SHARED_LISTS.get(name)
            setattr(self, snake(name), number if list_ is None else list_[int(number)])


# Choices whose list is shared with others.
_SHARED_LISTS = dict.fromkeys(("sftScope", "klScope"), LISTS["scopes"])


@functools.lru_cache(maxsize=64)
def decode(numbers: Tuple[float, ...]) -> Encoded:
    return Encoded(numbers)
