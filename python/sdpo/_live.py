"""What a scheduler object holds where that differs from its config: a shift that was set, a table that a training script put in its place."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from ._betas import PowerTable, cumulate, given_alphas, given_betas
from ._validate import fail_type, fail_value, is_number


class Live(NamedTuple):
    config: Dict[str, Any]
    shift: Optional[float]  # set after the config was made


def live_config(source: Any, schedulers: Mapping[str, Any]) -> Live:
    """The config of a scheduler object or a config as it is. An object's class decides what its fields mean, so it names the config."""
    if isinstance(source, Mapping):
        return Live(_with_attributes(source), None)
    held = getattr(source, "config", None)
    if not isinstance(held, Mapping):
        fail_type("scheduler_or_config", "a scheduler with a config, or a mapping as json.load gives it", source)
    config = _with_attributes(held)
    name = type(source).__name__
    if name.endswith("Scheduler") or "_class_name" not in config:
        config["_class_name"] = name
    reads = schedulers.get(config["_class_name"], {}).get("reads", {})
    kind = getattr(source, "variance_type", None)
    if "variance_type" in reads and isinstance(kind, str):
        config["variance_type"] = kind
    shift: Any = getattr(source, "shift", getattr(source, "_shift", None))
    if "shift" not in reads or not is_number(shift) or config.get("use_dynamic_shifting"):
        return Live(config, None)
    stated = config.get("shift", reads["shift"])
    return Live(config, None if shift == stated else float(shift))


def _with_attributes(config: Mapping[str, Any]) -> Dict[str, Any]:
    """diffusers' configs hold their fields as attributes too, and set_timesteps(mu=…) of solvers changes only those."""
    attributes = getattr(config, "__dict__", {})
    fields = {name: attributes.get(name, value) for name, value in config.items()}
    if fields.get("use_dynamic_shifting") and fields.get("flow_shift") != config.get("flow_shift"):
        fields["use_dynamic_shifting"] = False
    return fields


def live_betas(source: Any, table: PowerTable, final: float, plain: Sequence[float], fields: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Fields that describe the table an object holds, where it is not that of its config; None where it is.

    table, final: alpha-bar of the config, and behind its last transition. plain: the betas of the config, before they are shifted or rescaled.
    """
    if isinstance(source, Mapping):
        return None
    held, betas = _list(source, "alphas_cumprod"), _list(source, "betas")
    changed: Dict[str, Any] = {}
    if held is None and betas is not None:
        held = cumulate(given_betas("scheduler.betas", betas)).signal
    elif held is not None and betas is not None and _alike(held, table.signal):
        # The last entry is left out: classes put 2^-24 for the 0 there.
        product = cumulate(given_betas("scheduler.betas", betas)).signal[:-1]
        if not _alike(product, table.signal[:-1]) and not _alike(product, cumulate(list(plain)).signal[:-1]):
            expected = "those of its alphas_cumprod, which is what diffusers reads: set alphas_cumprod to the product of 1 - betas too"
            fail_value("scheduler.betas", expected, source.betas)
    if held is not None and not _alike(held, table.signal):
        signal = given_alphas("scheduler.alphas_cumprod", held).signal
        changed["trained_betas"] = [1 - b / a if a > 0 else 1.0 for a, b in zip([1.0, *signal], signal)]
        changed["num_train_timesteps"] = len(signal)
        # The table has been shifted and rescaled already.
        changed.update({"rescale_betas_zero_snr": False, "snr_shift_scale": 1})
    end = getattr(source, "final_alpha_cumprod", None)
    if end is None or "set_alpha_to_one" not in fields:
        return {name: value for name, value in changed.items() if name in fields} or None
    end = float(end)
    first = held[0] if held is not None else table.signal[0]
    if changed or abs(end - final) > _TOLERANCE:
        if not (abs(end - 1) <= _TOLERANCE or abs(end - first) <= _TOLERANCE):
            fail_value("scheduler.final_alpha_cumprod", f"1 or the first of alphas_cumprod ({first:g})", end)
        changed["set_alpha_to_one"] = abs(end - 1) <= abs(end - first)
    return {name: value for name, value in changed.items() if name in fields} or None


def _list(source: Any, name: str) -> Optional[List[float]]:
    values = getattr(source, name, None)
    if hasattr(values, "tolist"):
        values = values.tolist()  # a tensor, on any device, or an array
    return [float(value) for value in values] if isinstance(values, (list, tuple)) else None


# What the float32 of diffusers' tables leaves of a and s; what a script does to a schedule is larger.
_TOLERANCE = 1e-5


def _alike(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two lists of alpha-bar are the same up to float32 rounding of their products, in a and in s."""
    if len(a) != len(b):
        return False
    bound = _TOLERANCE + len(a) * 2.0**-24
    for x, y in zip(a, b):
        if not 0 <= x <= 1:
            return False
        if abs(math.sqrt(x) - math.sqrt(y)) > bound or abs(math.sqrt(1 - x) - math.sqrt(1 - y)) > bound:
            return False
    return True
