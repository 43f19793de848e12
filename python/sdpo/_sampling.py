"""Draws training timesteps: numbers in [0, 1], which a family of schedules maps to its timesteps, or entries of a fixed list."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, Optional, Tuple, Union

import torch

from ._levels import read_list
from ._tables import TABLES
from ._validate import check_above, check_integer, check_number, check_one_of, fail_length, fail_type, fail_value

_TABLE = TABLES["schedules"]
# The options that one distribution has and others do not.
_PARAMETERS = {"mean": "logit-normal", "std": "logit-normal", "mode_scale": "mode"}
# Beyond it the density of "mode" is negative somewhere.
_MAX_MODE_SCALE = 2 / (math.pi - 2)


def sample_timesteps(
    levels: Any,
    count: int,
    options: Dict[str, Any],
    generator: Optional[torch.Generator],
    device: Optional[Union[str, torch.device]],
) -> torch.Tensor:
    """`count` timesteps of the levels."""
    check_integer("count", count, 0)

    def uniform() -> torch.Tensor:
        return torch.rand(count, dtype=torch.float64, generator=generator, device=device)

    def normal() -> torch.Tensor:
        return torch.randn(count, dtype=torch.float64, generator=generator, device=device)

    if options.get("steps") is not None:
        return _from_steps(levels, count, options, uniform, device)
    for name in ("order", "first"):
        _refuse(name, options.get(name), "absent without steps")
    distribution = options.get("distribution") or "uniform"
    check_one_of("distribution", distribution, _TABLE["timestepDistributions"])
    bounds = None if options.get("range") is None else _check_range(options["range"])
    for name, owner in _PARAMETERS.items():
        if owner != distribution:
            _refuse(name, options.get(name), f"absent with distribution '{distribution}'")
    return levels.from_unit(_draws(distribution, options, uniform, normal), bounds)


def _draws(distribution: str, options: Dict[str, Any], uniform: Callable[[], torch.Tensor], normal: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Numbers in [0, 1] of a distribution."""

    def given(name: str, default: float) -> Any:
        return default if options.get(name) is None else options[name]

    if distribution == "logit-normal":
        center, spread = check_number("mean", given("mean", 0.0)), check_above("std", given("std", 1.0), 0)
        return torch.sigmoid(center + spread * normal())
    if distribution == "mode":
        scale = check_number("mode_scale", given("mode_scale", 1.29), -1, _MAX_MODE_SCALE)
        u = uniform()
        away = torch.sin(math.pi / 2 * u) ** 2  # 1 - cos², which keeps its digits near 0
        return (1 - u - scale * (u - away)).clamp(0, 1)
    if distribution == "cosmap":
        tangent = torch.tan(math.pi / 2 * uniform())
        return tangent / (tangent + 1)
    return uniform()


def _from_steps(
    levels: Any, count: int, options: Dict[str, Any], uniform: Callable[[], torch.Tensor], device: Optional[Union[str, torch.device]]
) -> torch.Tensor:
    if options.get("distribution") != "uniform":
        _refuse("distribution", options.get("distribution"), "absent with steps")
    for name in ("range", "mean", "std", "mode_scale"):
        _refuse(name, options.get(name), "absent with steps")
    steps = read_list("steps", options["steps"]).cpu()
    if steps.numel() == 0:
        fail_length("steps", "a list of at least one timestep", options["steps"])
    levels.signal(steps, "steps")
    if levels.family == "variance-preserving":
        steps = steps.to(torch.int64)
    order = check_one_of("order", options.get("order") or "random", _TABLE["stepOrders"])
    if order == "round-robin":
        first = check_integer("first", options.get("first") or 0, 0)
        places = (torch.arange(count, dtype=torch.int64) + first) % steps.numel()
        return steps[places].to(device) if device is not None else steps[places]
    _refuse("first", options.get("first"), "absent with order 'random'")
    places = (uniform() * steps.numel()).to(torch.int64)
    return steps.to(places.device)[places]


def _refuse(name: str, value: Any, expected: str) -> None:
    if value is not None:
        fail_value(name, expected, value, "ERR_SDPO_INVALID_OPTION")


def _check_range(range: Any) -> Tuple[float, float]:
    if not isinstance(range, (list, tuple)):
        fail_type("range", "two numbers (low, high)", range)
    if len(range) != 2:
        fail_length("range", "two numbers (low, high)", range)
    return check_number("range[0]", range[0]), check_number("range[1]", range[1])
