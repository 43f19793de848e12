"""Argument checks with the one message shape of the package: which argument, what was expected, what was received."""

from __future__ import annotations

import json
import math
from typing import Any, Iterable, Mapping, NoReturn, Optional, Sequence

from ._errors import SdpoRangeError, SdpoTypeError


def describe(value: Any) -> str:
    """A short description of a value: the value where that is short, else its type and size."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "…", ensure_ascii=False)
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {list(shape)} and {value.dtype}"
    if callable(value) and hasattr(value, "__name__"):
        return f"function {value.__name__}"
    try:
        return f"{type(value).__name__} of length {len(value)}"
    except TypeError:
        return f"an instance of {type(value).__name__}"


def fail_type(argument: str, expected: str, received: Any) -> NoReturn:
    raise SdpoTypeError("ERR_SDPO_INVALID_ARG_TYPE", f"Expected {argument} to be {expected}, received {describe(received)}")


def fail_value(argument: str, expected: str, received: Any, code: str = "ERR_SDPO_INVALID_ARG_VALUE") -> NoReturn:
    raise SdpoRangeError(code, f"Expected {argument} to be {expected}, received {describe(received)}")


def fail_length(argument: str, expected: str, received: Any) -> NoReturn:
    fail_value(argument, expected, received, "ERR_SDPO_INVALID_LENGTH")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_number(argument: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within [low, high]."""
    if low == -math.inf and high == math.inf:
        expected = "a finite number"
    elif high == math.inf:
        expected = f"a finite number >= {low:g}"
    else:
        expected = f"a number in [{low:g}, {high:g}]"
    if not is_number(value):
        fail_type(argument, expected, value)
    if not math.isfinite(value) or not low <= value <= high:
        fail_value(argument, expected, value)
    return float(value)


def check_above(argument: str, value: Any, low: float) -> float:
    """A finite number greater than `low`."""
    expected = f"a finite number > {low:g}"
    if not is_number(value):
        fail_type(argument, expected, value)
    if not math.isfinite(value) or value <= low:
        fail_value(argument, expected, value)
    return float(value)


def check_between(argument: str, value: Any, low: float, high: float) -> float:
    """A number strictly between `low` and `high`."""
    expected = f"a number in ({low:g}, {high:g})"
    if not is_number(value):
        fail_type(argument, expected, value)
    if not low < value < high:
        fail_value(argument, expected, value)
    return float(value)


def check_integer(argument: str, value: Any, low: int, high: Optional[int] = None) -> int:
    """An integer within [low, high]; a float with an integer value counts as one, as in JSON."""
    expected = f"an integer >= {low}" if high is None else f"an integer between {low} and {high}"
    if not is_number(value):
        fail_type(argument, expected, value)
    if not math.isfinite(value) or value != int(value) or value < low or (high is not None and value > high):
        fail_value(argument, expected, value)
    return int(value)


def check_boolean(argument: str, value: Any) -> bool:
    if not isinstance(value, bool):
        fail_type(argument, "a boolean", value)
    return value


def check_one_of(argument: str, value: Any, allowed: Sequence[str]) -> str:
    expected = "one of " + ", ".join(f"'{name}'" for name in allowed)
    if not isinstance(value, str):
        fail_type(argument, expected, value)
    if value not in allowed:
        fail_value(argument, expected, value)
    return value


def check_fields(argument: str, value: Any, known: Sequence[str]) -> Mapping[str, Any]:
    """A mapping without names that nobody reads: a misspelt name must not be ignored silently."""
    if not isinstance(value, Mapping):
        fail_type(argument, f"a mapping with the fields {', '.join(known)}", value)
    refuse_unknown(argument, value, known)
    return value


def refuse_unknown(argument: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name in known:
            continue
        near = [other for other in known if other.replace("_", "") == str(name).lower().replace("_", "").replace("-", "")]
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise SdpoTypeError(
            "ERR_SDPO_UNKNOWN_OPTION",
            f"Expected {argument} to have only the fields {', '.join(known)}, received {describe(name)}{hint}",
        )
