"""The timestep shift of a resolution: how large it is for a number of tokens, and how many tokens a picture or film has.

A port of lib/schedule/shift.ts.
"""

from __future__ import annotations

import math
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ._errors import SdpoError
from ._validate import check_above, check_integer, check_number, fail_value

# What a shift that depends on the resolution is computed from.
SHIFT_OPTIONS = ("mu", "image_seq_len", "width", "height", "frames", "pixels_per_token")


class DynamicShift(NamedTuple):
    """How mu depends on the number of tokens."""

    type: str
    base_shift: float
    max_shift: float
    base_length: float
    max_length: float
    pixels_per_token: Optional[int] = None  # of a preset
    empirical: bool = False  # of a preset: FLUX.2's fit in place of the line


def resolve_shift(options: Dict[str, Any], dynamic: DynamicShift, inference_steps: int) -> Tuple[float, float]:
    """The shift, and the mu it came from."""
    mu = _mu(options, dynamic, inference_steps)
    if dynamic.type == "linear":
        return check_above("mu", mu, 0), mu
    try:
        shift = math.exp(mu)
    except OverflowError:
        shift = math.inf
    if not 0 < shift < math.inf:
        fail_value("mu", "a number whose exponential is finite", mu)
    return shift, mu


def refuse_shift_options(options: Dict[str, Any]) -> None:
    """For schedules whose shift does not depend on the resolution."""
    for name in SHIFT_OPTIONS:
        if options.get(name) is not None:
            expected = "absent, since the shift of this schedule does not depend on the resolution (use_dynamic_shifting)"
            fail_value(name, expected, options[name], "ERR_SDPO_INVALID_OPTION")


def _mu(options: Dict[str, Any], dynamic: DynamicShift, inference_steps: int) -> float:
    given = {name: options[name] for name in SHIFT_OPTIONS if options.get(name) is not None}
    sized = "width" in given or "height" in given
    if ("mu" in given) + ("image_seq_len" in given) + sized > 1:
        name = "mu" if "mu" in given else "image_seq_len"
        fail_value(name, "the only size that is given", given[name], "ERR_SDPO_INVALID_OPTION")
    for name in ("frames", "pixels_per_token"):
        if name in given and not sized:
            fail_value(name, "absent without a width and height", given[name], "ERR_SDPO_INVALID_OPTION")
    if "mu" in given:
        return check_number("mu", given["mu"])
    if "image_seq_len" in given:
        return _mu_of_tokens(check_integer("image_seq_len", given["image_seq_len"], 1), dynamic, inference_steps)
    if sized:
        return _mu_of_tokens(_tokens(given, dynamic), dynamic, inference_steps)
    if dynamic.base_shift == dynamic.max_shift and not dynamic.empirical:
        return dynamic.base_shift
    raise SdpoError(
        "ERR_SDPO_UNSUPPORTED_CONFIG",
        "Expected config.use_dynamic_shifting to be False, or mu, image_seq_len, or width, height and pixels_per_token to be given "
        "(the shift of this model depends on the resolution), received True",
    )


def _tokens(given: Dict[str, Any], dynamic: DynamicShift) -> int:
    edge = check_integer("pixels_per_token", given.get("pixels_per_token", dynamic.pixels_per_token), 1)
    columns = check_integer("width", given.get("width"), edge) // edge
    rows = check_integer("height", given.get("height"), edge) // edge
    return columns * rows * check_integer("frames", given.get("frames", 1), 1)


def _mu_of_tokens(tokens: int, dynamic: DynamicShift, inference_steps: int) -> float:
    if dynamic.empirical:
        return _empirical_mu(tokens, inference_steps)
    slope = (dynamic.max_shift - dynamic.base_shift) / (dynamic.max_length - dynamic.base_length)
    return tokens * slope + (dynamic.base_shift - slope * dynamic.base_length)


def _empirical_mu(tokens: int, inference_steps: int) -> float:
    """FLUX.2's mu: lines over the tokens fitted at 10 and at 200 steps, linear in the steps; above 4300 tokens the one of 200 steps."""
    many = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return many
    few = 8.73809524e-5 * tokens + 1.89833333
    return many + (many - few) / 190 * (inference_steps - 200)
