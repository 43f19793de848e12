"""Options of a preference loss: their checks, their defaults, and which objective uses which (docs/api.md says what they mean)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, List, NoReturn, Optional, Tuple

from ._errors import SdpoRangeError
from ._library import ENCODED_OPTIONS
from ._tables import LISTS, TABLES, snake
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

_TABLE = TABLES["options"]
_USED_BY = {snake(name): tuple(users) for name, users in _TABLE["usedBy"].items()}
_DEFAULTS = {snake(name): value for name, value in _TABLE["defaults"].items()}
_DEFAULTS["clip_range"] = tuple(_DEFAULTS["clip_range"])
OPTION_NAMES = tuple(snake(name) for name in _TABLE["names"])


@dataclasses.dataclass(frozen=True)
class ResolvedOptions:
    """Options with every default filled in."""

    objective: str
    schedule: Optional[NoiseSchedule]
    beta: float
    clip_range: Tuple[float, float]
    mask_threshold: float
    weight_sharpness: float
    weight_ratio: str
    pair_weight: str
    weight_gradient: bool
    timestep_weighting: str
    log_ratio_reduction: str
    link: str
    label_smoothing: float
    sft_weight: float
    sft_scope: str
    kl_weight: float
    kl_scope: str
    safeguard: Optional[float]
    dmpo_alpha: float
    mapo_scale: float
    mapo_steps: float
    non_finite: Optional[str]  # None: 'throw' on the CPU, 'propagate' on a CUDA device, where looking would synchronise
    threads: int  # 0: the default

    @property
    def has_mask(self) -> bool:
        return self.objective in _USED_BY["mask_threshold"]

    @property
    def elbo(self) -> bool:
        return self.timestep_weighting == "elbo"

    def reads_reference_for_gradient(self) -> bool:
        """False where the coefficient B of the gradient (2/D)(A d + B h) is known to be 0, so that the reference can be freed."""
        return self.kl_weight != 0 or self.objective not in ("diffusion-dpo", "dpo-cm", "sdpo", "dmpo", "mapo")

    @property
    def needs_reference(self) -> Optional[str]:
        """What reads the drift q, which only a reference tensor can give; None where a reference error is enough."""
        return "kl_weight" if self.kl_weight != 0 else "objective 'dspo'" if self.objective == "dspo" else None

    @property
    def is_reference_free(self) -> bool:
        return self.objective == "mapo"


def resolve(given: dict) -> ResolvedOptions:
    """Checks options and fills in the defaults; None means 'not given'."""
    refuse_unknown("the options", given, OPTION_NAMES)
    values = {**_DEFAULTS, **{name: value for name, value in given.items() if value is not None}}
    objective = check_one_of("objective", values.get("objective"), LISTS["objectives"])
    schedule = values.get("schedule")
    if given.get("mapo_steps") is None and isinstance(schedule, NoiseSchedule):
        values["mapo_steps"] = schedule.train_steps
    if schedule is not None and not isinstance(schedule, NoiseSchedule):
        fail_type("schedule", "a NoiseSchedule", schedule)
    resolved = ResolvedOptions(
        objective=objective,
        schedule=schedule,
        beta=check_above("beta", values.get("beta"), 0),
        clip_range=_clip_range("clip_range", values["clip_range"]),
        mask_threshold=check_number("mask_threshold", values["mask_threshold"], 0, 1),
        weight_sharpness=check_above("weight_sharpness", values["weight_sharpness"], 0),
        weight_ratio=check_one_of("weight_ratio", values["weight_ratio"], LISTS["weightRatios"]),
        pair_weight=check_one_of("pair_weight", values["pair_weight"], LISTS["pairWeights"]),
        weight_gradient=check_boolean("weight_gradient", values["weight_gradient"]),
        timestep_weighting=check_one_of("timestep_weighting", values["timestep_weighting"], _TABLE["timestepWeightings"]),
        log_ratio_reduction=check_one_of("log_ratio_reduction", values["log_ratio_reduction"], _TABLE["logRatioReductions"]),
        link=check_one_of("link", values["link"], LISTS["links"]),
        label_smoothing=check_number("label_smoothing", values["label_smoothing"], 0, 0.5),
        sft_weight=check_number("sft_weight", values["sft_weight"], 0),
        sft_scope=check_one_of("sft_scope", values["sft_scope"], LISTS["scopes"]),
        kl_weight=check_number("kl_weight", values["kl_weight"], 0),
        kl_scope=check_one_of("kl_scope", values["kl_scope"], LISTS["scopes"]),
        safeguard=None if values.get("safeguard") is None else check_number("safeguard", values["safeguard"], 0, 1),
        dmpo_alpha=check_between("dmpo_alpha", values["dmpo_alpha"], 0, 1),
        mapo_scale=check_above("mapo_scale", values["mapo_scale"], 0),
        mapo_steps=check_above("mapo_steps", values["mapo_steps"], 0),
        non_finite=None if given.get("non_finite") is None else check_one_of("non_finite", given["non_finite"], LISTS["nonFinite"]),
        threads=0 if given.get("threads") is None else check_integer("threads", given["threads"], 1, 4096),
    )
    _refuse_unused(given, resolved)
    return resolved


def _clip_range(argument: str, value: Any) -> Tuple[float, float]:
    if is_number(value):
        check_number(argument, value, 0)
        return (max(0.0, 1 - value), 1.0 + value)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        fail_type(argument, "a number or (low, high)", value)
    low = check_number(f"{argument}[0]", value[0], 0)
    high = check_number(f"{argument}[1]", value[1], 0)
    if low > high:
        fail_value(argument, "(low, high) with low <= high", f"({low}, {high})")
    return (low, high)


def _refuse_unused(given: dict, resolved: ResolvedOptions) -> None:
    """An option that the objective or the link does not use must not look as if it did something."""
    for name, users in _USED_BY.items():
        if resolved.objective in users or given.get(name) is None or getattr(resolved, name) == _DEFAULTS[name]:
            continue
        _refuse(name, f"objective '{resolved.objective}'", given[name])
    if resolved.link != "sigmoid" and resolved.label_smoothing != 0:
        _refuse("label_smoothing", f"link '{resolved.link}'", resolved.label_smoothing)


def _refuse(name: str, user: str, value: Any) -> NoReturn:
    raise SdpoRangeError(
        "ERR_SDPO_INVALID_OPTION",
        f"Expected {name} to be left at its default, since {user} does not use it, received {describe(value)}",
    )


def encode(options: ResolvedOptions, on_cuda: bool) -> List[float]:
    """The options as the native library takes them, in the order of ENCODED_OPTIONS: names as their positions in the shared lists."""
    total = options.log_ratio_reduction == "sum"
    values = {
        "objective": LISTS["objectives"].index(options.objective),
        "link": LISTS["links"].index(options.link),
        "pair_weight": LISTS["pairWeights"].index(options.pair_weight),
        "weight_ratio": LISTS["weightRatios"].index(options.weight_ratio),
        "sft_scope": LISTS["scopes"].index(options.sft_scope),
        "kl_scope": LISTS["scopes"].index(options.kl_scope),
        "non_finite": LISTS["nonFinite"].index(options.non_finite or ("propagate" if on_cuda else "throw")),
        "weight_gradient": options.weight_gradient,
        "sum_weight": total,
        "sum_psi": total and options.elbo,
        "beta": options.beta,
        "label_smoothing": options.label_smoothing,
        "sft_weight": options.sft_weight,
        "kl_weight": options.kl_weight,
        "safeguard": -1 if options.safeguard is None else options.safeguard,
        "dmpo_alpha": options.dmpo_alpha,
        "mapo_scale": options.mapo_scale,
        "mapo_steps": options.mapo_steps,
    }
    return [float(values[name]) for name in ENCODED_OPTIONS]


def log(value: float) -> float:
    """The natural logarithm with log(0) = -infinity, as the mask floor and the clip bounds need it."""
    return math.log(value) if value > 0 else -math.inf
