"""Noise schedules: how much noise a timestep has, which transitions the sampler makes, and what the model should predict."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import torch

from . import _native
from ._betas import given_alphas
from ._diffusers import read_diffusers
from ._levels import FlowLevels, VariancePreservingLevels, read_list
from ._tables import TABLES
from ._validate import (
    check_above,
    check_integer,
    check_number,
    check_one_of,
    fail_length,
    fail_type,
    fail_value,
    is_number,
)

_TABLE = TABLES["schedules"]
_DEFAULT_STEPS = 50
# Beyond this many steps a step of 1/n comes too close to the rounding of the time.
_MAX_FLOW_STEPS = 1_000_000

Timesteps = Union[torch.Tensor, Sequence[float]]


class Transition(NamedTuple):
    """One step of the sampler: the timestep it ends on (below 0 or 0 behind the last one), and its weight omega (inf: no density)."""

    previous: float
    omega: float


class NoiseSchedule:
    """x_t = a_t x_0 + s_t eps together with what the model predicts and which transitions its sampler makes. Immutable.

    All numbers are float64, also where diffusers rounds its tables to float32. Timesteps are integers 0 … T-1 ("variance-preserving")
    or real numbers in (0, T], after the shift ("flow"). A wrong timestep is an error that names the entry; on a CUDA device, where
    looking would synchronise, it gives NaN instead. Formulas and sources: docs/schedules.md.
    """

    def __init__(self, levels: Any, prediction_type: str, inference_steps: int, eta: float, source: Mapping[str, Any]) -> None:
        """Not called directly: see `from_diffusers`, `preset`, `variance_preserving` and `flow`."""
        self._levels = levels
        self._source = dict(source)
        self.family: str = levels.family
        self.prediction_type = prediction_type
        self.train_steps: int = levels.train_steps
        self.inference_steps = inference_steps
        self.eta = eta
        self.shift: float = levels.shift

    # ---- Where schedules come from

    @classmethod
    def from_diffusers(
        cls,
        scheduler_or_config: Any,
        inference_steps: Optional[int] = None,
        prediction_type: Optional[str] = None,
        eta: float = 1.0,
        ignore: Sequence[str] = (),
    ) -> "NoiseSchedule":
        """The schedule of a diffusers scheduler, or of its config (`scheduler.config`, or a parsed scheduler_config.json).

        DDPM, DDIM, PNDM, CogVideoXDDIM, CogVideoXDPM, EulerDiscrete, FlowMatchEulerDiscrete and UniPCMultistep with `use_flow_sigmas`.

        inference_steps: steps n of the sampler whose transitions the weight belongs to; default 50, or T if that is less.
        prediction_type: takes the place of the config's.
        eta: stochasticity of the transitions in (0, 1]; 1 is the posterior of DDPM.
        ignore: names of config fields to treat as absent.

        Raises SdpoError ERR_SDPO_UNSUPPORTED_CONFIG for a field that would change the mathematics in an unsupported way, or is unknown.
        """
        return cls._from_config(scheduler_or_config, inference_steps, prediction_type, eta, _check_ignore(ignore), {})

    @classmethod
    def preset(
        cls, name: str, inference_steps: Optional[int] = None, prediction_type: Optional[str] = None, eta: float = 1.0
    ) -> "NoiseSchedule":
        """The schedule of a published model, by name; lib/schedule/presets.ts and docs/schedules.md give the source of each."""
        check_one_of("name", name, tuple(_TABLE["presets"]))
        return cls._from_config(_TABLE["presets"][name], inference_steps, prediction_type, eta, (), {"preset": name})

    @classmethod
    def variance_preserving(
        cls,
        alphas_cumprod: Timesteps,
        prediction_type: str,
        final_alpha_cumprod: float = 1.0,
        inference_steps: Optional[int] = None,
        eta: float = 1.0,
    ) -> "NoiseSchedule":
        """A schedule from its own alpha-bar for t = 0 … T-1 (in [0, 1], non-increasing); `final_alpha_cumprod` lies behind the last transition."""
        powers = given_alphas("alphas_cumprod", alphas_cumprod)
        check_one_of("prediction_type", prediction_type, _TABLE["variancePreservingPredictions"])
        final = check_number("final_alpha_cumprod", final_alpha_cumprod, powers.signal[0], 1)
        steps, eta = _check_sampler(inference_steps, eta, len(powers.signal))
        levels = VariancePreservingLevels(powers, (final, 1 - final), prediction_type, steps, eta)
        return cls(levels, prediction_type, steps, eta, {"alphasCumprod": powers.signal, "finalAlphaCumprod": final})

    @classmethod
    def flow(
        cls,
        train_steps: int = 1000,
        shift: float = 1.0,
        prediction_type: str = "flow_prediction",
        inference_steps: Optional[int] = None,
        eta: float = 1.0,
    ) -> "NoiseSchedule":
        """A rectified-flow schedule: a = 1 - sigma, s = sigma = t / T, with timesteps shifted by the factor `shift`."""
        check_integer("train_steps", train_steps, 1)
        check_above("shift", shift, 0)
        check_one_of("prediction_type", prediction_type, _TABLE["flowPredictions"])
        steps, eta = _check_sampler(inference_steps, eta, _MAX_FLOW_STEPS)
        return cls(FlowLevels(int(train_steps), float(shift), prediction_type, steps, eta), prediction_type, steps, eta, {})

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "NoiseSchedule":
        """The schedule that a record of `to_json` describes; the TypeScript package writes and reads the same records."""
        if not isinstance(record, Mapping):
            fail_type("record", "a mapping that to_json returned", record)
        check_one_of("record.family", record.get("family"), ("variance-preserving", "flow"))
        steps, prediction, eta = record.get("inferenceSteps"), record.get("predictionType"), record.get("eta", 1.0)
        if "preset" in record:
            return cls.preset(record["preset"], steps, prediction, eta)
        if "config" in record:
            return cls.from_diffusers(record["config"], steps, prediction, eta)
        if record["family"] == "flow":
            return cls.flow(record["trainSteps"], record["shift"], prediction, steps, eta)
        return cls.variance_preserving(record["alphasCumprod"], prediction, record["finalAlphaCumprod"], steps, eta)

    @classmethod
    def _from_config(
        cls, config: Any, inference_steps: Any, prediction_type: Any, eta: Any, ignore: Sequence[str], origin: Mapping[str, Any]
    ) -> "NoiseSchedule":
        if prediction_type is not None:
            check_one_of("prediction_type", prediction_type, _TABLE["predictionTypes"])
        read = read_diffusers(config, ignore, prediction_type)
        source = {**origin, "config": read.config}
        if read.family == "flow":
            steps, eta = _check_sampler(inference_steps, eta, _MAX_FLOW_STEPS)
            levels: Any = FlowLevels(read.train_steps, read.shift, read.prediction_type, steps, eta)
        else:
            steps, eta = _check_sampler(inference_steps, eta, len(read.powers.signal))
            levels = VariancePreservingLevels(read.powers, read.final, read.prediction_type, steps, eta)
        return cls(levels, read.prediction_type, steps, eta, source)

    # ---- What they answer

    def signal(self, t: Union[float, torch.Tensor]) -> Union[float, torch.Tensor]:
        """a_t of x_t = a_t x_0 + s_t eps: a number for a number, a float64 tensor for a tensor."""
        return self._at(self._levels.signal, t)

    def sigma(self, t: Union[float, torch.Tensor]) -> Union[float, torch.Tensor]:
        """s_t of x_t = a_t x_0 + s_t eps: a number for a number, a float64 tensor for a tensor."""
        return self._at(self._levels.sigma, t)

    def transition(self, t: float) -> Transition:
        """The sampler's transition from timestep `t`."""
        omega = self._at(self._levels.omegas, t)
        return Transition(self._levels.previous(t), omega)

    def omegas(self, timesteps: Timesteps, argument: str = "timesteps") -> torch.Tensor:
        """omega of every timestep, float64 [rows], on the device of `timesteps`; inf where the transition has no density."""
        return self._levels.omegas(read_list(argument, timesteps), argument)

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, timesteps: Timesteps) -> torch.Tensor:
        """x_t = a_t x_0 + s_t eps, one timestep per row, computed in float64 and rounded once to the dtype of `x0`. Not differentiable."""
        t = read_list("timesteps", timesteps)
        return _native.combine(self._levels.signal(t, "timesteps"), x0, self._levels.sigma(t, "timesteps"), noise, ("x0", "noise"))

    def target(self, x0: torch.Tensor, noise: torch.Tensor, timesteps: Timesteps) -> torch.Tensor:
        """What the model should predict: eps, a eps - s x_0 ("v_prediction"), x_0 ("sample") or eps - x_0 ("flow_prediction")."""
        t = read_list("timesteps", timesteps)
        signal, sigma = self._levels.signal(t, "timesteps"), self._levels.sigma(t, "timesteps")
        zero, one = torch.zeros_like(signal), torch.ones_like(signal)
        on_data, on_noise = {
            "epsilon": (zero, one),
            "v_prediction": (-sigma, signal),
            "sample": (one, zero),
            "flow_prediction": (-one, one),
        }[self.prediction_type]
        return _native.combine(on_data, x0, on_noise, noise, ("x0", "noise"))

    def sample_timesteps(
        self,
        count: int,
        distribution: str = "uniform",
        range: Optional[Tuple[float, float]] = None,
        mean: Optional[float] = None,
        std: Optional[float] = None,
        generator: Optional[torch.Generator] = None,
        device: Optional[Union[str, torch.device]] = None,
    ) -> torch.Tensor:
        """Draws training timesteps: int64 (variance preserving) or float64 in (0, T], drawn in the unshifted time and shifted (flow).

        distribution: "uniform", or "logit-normal": the logistic function of mean + std · z (arXiv 2403.03206, section 3.1), which
            `range` stretches over the range and does not cut off.
        range: timesteps to draw from, both ends included; flow: an end of 0 stays excluded.
        generator, device: as in torch.rand.
        """
        check_integer("count", count, 0)
        check_one_of("distribution", distribution, _TABLE["timestepDistributions"])
        bounds = None if range is None else _check_range(range)
        if distribution == "uniform":
            for name, value in (("mean", mean), ("std", std)):
                if value is not None:
                    fail_value(name, "absent with distribution 'uniform'", value, "ERR_SDPO_INVALID_OPTION")
            draws = torch.rand(count, dtype=torch.float64, generator=generator, device=device)
        else:
            center = check_number("mean", 0.0 if mean is None else mean)
            spread = check_above("std", 1.0 if std is None else std, 0)
            draws = torch.sigmoid(center + spread * torch.randn(count, dtype=torch.float64, generator=generator, device=device))
        return self._levels.from_unit(draws, bounds)

    def to_json(self) -> Dict[str, Any]:
        """Everything that decides the schedule, as plain JSON under the names of the TypeScript package."""
        return {
            "family": self.family,
            "predictionType": self.prediction_type,
            "trainSteps": self.train_steps,
            "inferenceSteps": self.inference_steps,
            "eta": self.eta,
            "shift": self.shift,
            **self._source,
        }

    def _at(self, levels: Any, t: Any) -> Any:
        if isinstance(t, torch.Tensor):
            return levels(read_list("t", t.reshape(-1)), "t", t.dim() == 0).reshape(t.shape)
        if not is_number(t):
            fail_type("t", "a number or a tensor", t)
        return levels(torch.tensor([t], dtype=torch.float64, device="cpu"), "t", True).item()

    def __reduce__(self) -> Tuple[Any, Tuple[Any]]:
        return (NoiseSchedule.from_json, (self.to_json(),))

    def __repr__(self) -> str:
        origin = self._source.get("preset") or self._source.get("config", {}).get("_class_name") or "custom"
        shift = "" if self.shift == 1 else f", shift {self.shift:g}"
        return (
            f"NoiseSchedule({origin}, {self.family}, {self.prediction_type}, T = {self.train_steps}{shift}; "
            f"{self.inference_steps} inference steps, eta {self.eta:g})"
        )


def _check_sampler(inference_steps: Any, eta: Any, most_steps: int) -> Tuple[int, float]:
    steps = min(_DEFAULT_STEPS, most_steps) if inference_steps is None else inference_steps
    steps = check_integer("inference_steps", steps, 1, most_steps)
    expected = "a number in (0, 1] (at 0 transitions are deterministic and have no density)"
    if not is_number(eta):
        fail_type("eta", expected, eta)
    if not 0 < eta <= 1:
        fail_value("eta", expected, eta)
    return steps, float(eta)


def _check_ignore(ignore: Any) -> Sequence[str]:
    if isinstance(ignore, str) or not isinstance(ignore, (list, tuple, set, frozenset)):
        fail_type("ignore", "a list of field names", ignore)
    for i, name in enumerate(ignore):
        if not isinstance(name, str):
            fail_type(f"ignore[{i}]", "a field name", name)
    return tuple(ignore)


def _check_range(range: Any) -> Tuple[float, float]:
    if not isinstance(range, (list, tuple)):
        fail_type("range", "two numbers (low, high)", range)
    if len(range) != 2:
        fail_length("range", "two numbers (low, high)", range)
    return check_number("range[0]", range[0]), check_number("range[1]", range[1])
