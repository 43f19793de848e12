"""Noise schedules: how much noise a timestep has, which transitions the sampler makes, and what the model should predict."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import torch

from . import _native
from ._betas import given_alphas
from ._build import Parts, config_parts, flow_parts, reshifted_parts, table_parts
from ._config_file import read_config_file
from ._ladder import SamplerLadder
from ._levels import read_list
from ._sampling import sample_timesteps
from ._tables import TABLES
from ._validate import check_above, check_integer, check_number, check_one_of, fail_type, is_number

_TABLE = TABLES["schedules"]

Timesteps = Union[torch.Tensor, Sequence[float]]


class Transition(NamedTuple):
    """One step of the sampler: the timestep it ends on (below 0 or 0 behind the last one), and its weight omega (inf: no density)."""

    previous: float
    omega: float


class NoiseSchedule:
    """x_t = a_t x_0 + s_t eps together with what the model predicts and which transitions its sampler makes. Immutable.

    All numbers are float64, also where diffusers rounds its tables to float32. Timesteps are integers 0 … T-1 ("variance-preserving")
    or real numbers in (0, T], after the shift ("flow"; [0, T) where it is `inverted`: 0 is noise and T data). A wrong timestep is an error
    that names the entry; on a CUDA device, where looking would synchronise, it gives NaN instead. Formulas and sources: docs/schedules.md.

    The makers share the options of the sampler, which decide the transitions and not the noise levels:

    inference_steps: steps n of the sampler; default 50, or T if that is less.
    ladder: the levels it goes down: "scheduler" (those that the scheduler's class makes for n steps, the default of most), "uniform" (steps of
        T // n timesteps, or of 1/n in the unshifted time of a flow), "linear-quadratic" (flows), or the timesteps themselves.
    variance: noise of the transitions: "posterior", "fresh" or "forward"; default what the scheduler's class draws.
    eta: stochasticity of "posterior" transitions in (0, 1]; default 1, the posterior of DDPM.

    Where the shift depends on the resolution (`use_dynamic_shifting`), one of `mu`, `image_seq_len` (tokens after patching), or `width`, `height`
    and `pixels_per_token` (edge of the square of pixels that a token stands for; presets know theirs) with the latent `frames` of a film.
    """

    # Names of the published models that `preset` knows.
    presets: ClassVar[Tuple[str, ...]] = tuple(_TABLE["presets"])

    def __init__(self, parts: Parts) -> None:
        """Not called directly: see `from_diffusers`, `preset`, `variance_preserving` and `flow`."""
        self._parts = parts
        self._levels = parts.levels
        self.family: str = parts.levels.family
        self.prediction_type = parts.prediction_type
        self.train_steps: int = parts.levels.train_steps
        self.inference_steps = parts.sampler.inference_steps
        self.ladder: Union[str, Tuple[float, ...]] = parts.sampler.ladder
        self.variance = parts.sampler.variance
        self.eta = parts.sampler.eta
        self.shift: float = parts.levels.shift
        self.inverted: bool = parts.levels.inverted

    # ---- Where schedules come from

    @classmethod
    def from_diffusers(
        cls,
        scheduler_or_config: Any,
        inference_steps: Optional[int] = None,
        prediction_type: Optional[str] = None,
        eta: Optional[float] = None,
        ignore: Sequence[str] = (),
        *,
        ladder: Optional[Union[str, Sequence[float]]] = None,
        variance: Optional[str] = None,
        mu: Optional[float] = None,
        image_seq_len: Optional[int] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        frames: Optional[int] = None,
        pixels_per_token: Optional[int] = None,
    ) -> NoiseSchedule:
        """The schedule of a diffusers scheduler, or of its config (`scheduler.config`, or a parsed scheduler_config.json).

        Of a scheduler object, what it holds wins over its config: a shift that was set, a table of alphas_cumprod that was put in its place.
        docs/schedules.md lists the classes and what is read of each.

        prediction_type: takes the place of the config's. ignore: names of config fields to treat as absent.

        Raises SdpoError ERR_SDPO_UNSUPPORTED_CONFIG for a field that would change the mathematics in an unsupported way, or is unknown.
        """
        options = {name: value for name, value in locals().items() if name not in ("cls", "scheduler_or_config")}
        return cls(config_parts(scheduler_or_config, options, {}))

    @classmethod
    def from_file(cls, path: Union[str, os.PathLike[str]], **options: Any) -> NoiseSchedule:
        """The schedule of a scheduler_config.json on disk; options as in `from_diffusers`.

        Raises SdpoError ERR_SDPO_CONFIG for a file that is no such thing, saying what it is.
        """
        return cls.from_diffusers(read_config_file(path), **options)

    @classmethod
    def preset(
        cls,
        name: str,
        inference_steps: Optional[int] = None,
        prediction_type: Optional[str] = None,
        eta: Optional[float] = None,
        *,
        ladder: Optional[Union[str, Sequence[float]]] = None,
        variance: Optional[str] = None,
        mu: Optional[float] = None,
        image_seq_len: Optional[int] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        frames: Optional[int] = None,
        pixels_per_token: Optional[int] = None,
    ) -> NoiseSchedule:
        """The schedule of a published model, by a name of `presets`; docs/schedules.md gives the source of each."""
        options = {key: value for key, value in locals().items() if key not in ("cls", "name")}
        check_one_of("name", name, cls.presets)
        preset = _TABLE["presets"][name]
        return cls(config_parts(preset["config"], options, {"preset": name}, preset))

    @classmethod
    def variance_preserving(
        cls,
        alphas_cumprod: Timesteps,
        prediction_type: str,
        final_alpha_cumprod: float = 1.0,
        inference_steps: Optional[int] = None,
        eta: Optional[float] = None,
        *,
        ladder: Optional[Union[str, Sequence[float]]] = None,
        variance: Optional[str] = None,
    ) -> NoiseSchedule:
        """A schedule from its own alpha-bar for t = 0 … T-1 (in [0, 1], non-increasing); `final_alpha_cumprod` lies behind the last transition."""
        options = {"inference_steps": inference_steps, "eta": eta, "ladder": ladder, "variance": variance}
        powers = given_alphas("alphas_cumprod", alphas_cumprod)
        check_one_of("prediction_type", prediction_type, _TABLE["variancePreservingPredictions"])
        final = check_number("final_alpha_cumprod", final_alpha_cumprod, powers.signal[0], 1)
        source = {"alphasCumprod": powers.signal, "finalAlphaCumprod": final}
        return cls(table_parts(powers, (final, 1 - final), prediction_type, options, source))

    @classmethod
    def flow(
        cls,
        train_steps: int = 1000,
        shift: float = 1.0,
        prediction_type: str = "flow_prediction",
        inference_steps: Optional[int] = None,
        eta: Optional[float] = None,
        *,
        ladder: Optional[Union[str, Sequence[float]]] = None,
        variance: Optional[str] = None,
    ) -> NoiseSchedule:
        """A rectified-flow schedule: a = 1 - sigma, s = sigma = t / T, with timesteps shifted by the factor `shift`."""
        options = {"inference_steps": inference_steps, "eta": eta, "ladder": ladder, "variance": variance}
        check_integer("train_steps", train_steps, 1)
        check_above("shift", shift, 0)
        check_one_of("prediction_type", prediction_type, _TABLE["flowPredictions"])
        return cls(flow_parts(int(train_steps), float(shift), prediction_type, options, {}))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> NoiseSchedule:
        """The schedule that a record of `to_json` describes; the TypeScript package writes and reads the same records."""
        if not isinstance(record, Mapping):
            fail_type("record", "a mapping that to_json returned", record)
        check_one_of("record.family", record.get("family"), ("variance-preserving", "flow"))
        options: Dict[str, Any] = {
            "inference_steps": record.get("inferenceSteps"),
            "prediction_type": record.get("predictionType"),
            "eta": record.get("eta"),
            "ladder": record.get("ladder"),
            "variance": record.get("variance"),
        }
        if "preset" in record:
            made = cls.preset(record["preset"], **options, mu=record.get("mu"))
        elif "config" in record:
            made = cls.from_diffusers(record["config"], **options, mu=record.get("mu"))
        elif record["family"] == "flow":
            return cls.flow(record["trainSteps"], record["shift"], **options)
        else:
            return cls.variance_preserving(record["alphasCumprod"], final_alpha_cumprod=record["finalAlphaCumprod"], **options)
        # A shift that was set after the config was read. One that comes from mu is as exact as the exponential of whoever wrote the record.
        shift = record.get("shift", made.shift)
        return made if "mu" in record or shift == made.shift else made.with_shift(shift=shift)

    def with_shift(
        self,
        shift: Optional[float] = None,
        *,
        mu: Optional[float] = None,
        image_seq_len: Optional[int] = None,
        width: Optional[int] = None,
        height: Optional[int] = None,
        frames: Optional[int] = None,
        pixels_per_token: Optional[int] = None,
    ) -> NoiseSchedule:
        """The same flow with another shift: `shift` itself, or where the config's shift depends on the resolution, what it is computed from.

        Noise levels at a timestep stay; transitions and drawn timesteps change. Cheap: one schedule for each resolution of a batch is what it is for.
        """
        options = {name: value for name, value in locals().items() if name != "self"}
        return NoiseSchedule(reshifted_parts(self._parts, options))

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

    def sampler_ladder(self) -> SamplerLadder:
        """The levels that the sampler visits: n timesteps at which it calls the model, and the one it ends on."""
        return self._levels.ladder()

    def omegas(self, timesteps: Timesteps, argument: str = "timesteps") -> torch.Tensor:
        """omega of every timestep, float64 [rows], on the device of `timesteps`; inf where the transition has no density."""
        return self._levels.omegas(read_list(argument, timesteps), argument)

    def add_noise(self, x0: torch.Tensor, noise: torch.Tensor, timesteps: Timesteps) -> torch.Tensor:
        """x_t = a_t x_0 + s_t eps, one timestep per row, computed in float64 and rounded once to the dtype of `x0`. Not differentiable."""
        t = read_list("timesteps", timesteps)
        return _native.combine(self._levels.signal(t, "timesteps"), x0, self._levels.sigma(t, "timesteps"), noise, ("x0", "noise"))

    def target(self, x0: torch.Tensor, noise: torch.Tensor, timesteps: Timesteps) -> torch.Tensor:
        """What the model should predict: eps, a eps - s x_0 ("v_prediction"), x_0 ("sample") or eps - x_0 ("flow_prediction"; x_0 - eps where inverted)."""
        t = read_list("timesteps", timesteps)
        signal, sigma = self._levels.signal(t, "timesteps"), self._levels.sigma(t, "timesteps")
        zero, one = torch.zeros_like(signal), torch.ones_like(signal)
        on_data, on_noise = {
            "epsilon": (zero, one),
            "v_prediction": (-sigma, signal),
            "sample": (one, zero),
            "flow_prediction": (one, -one) if self.inverted else (-one, one),
        }[self.prediction_type]
        return _native.combine(on_data, x0, on_noise, noise, ("x0", "noise"))

    def sample_timesteps(
        self,
        count: int,
        distribution: Optional[str] = None,
        range: Optional[Tuple[float, float]] = None,
        mean: Optional[float] = None,
        std: Optional[float] = None,
        generator: Optional[torch.Generator] = None,
        device: Optional[Union[str, torch.device]] = None,
        *,
        mode_scale: Optional[float] = None,
        steps: Optional[Timesteps] = None,
        order: Optional[str] = None,
        first: Optional[int] = None,
    ) -> torch.Tensor:
        """Draws training timesteps: int64 (variance preserving) or float64 in (0, T], drawn in the unshifted time and shifted (flow).

        distribution: "uniform", "logit-normal" (the logistic function of mean + std · z), "mode" (of scale mode_scale, default 1.29) or "cosmap"
            (arXiv 2403.03206, section 3.1); `range` stretches it over the range and does not cut it off.
        range: timesteps to draw from, both ends included; flow: an end without noise stays excluded.
        steps: a fixed list to draw from in place of a distribution, as few-step and distilled models are trained on; order "random", or
            "round-robin", where entry `first` modulo the length comes next.
        generator, device: as in torch.rand.
        """
        names = ("distribution", "range", "mean", "std", "mode_scale", "steps", "order", "first")
        given = locals()
        return sample_timesteps(self._levels, count, {name: given[name] for name in names}, generator, device)

    def to_json(self) -> Dict[str, Any]:
        """Everything that decides the schedule, as plain JSON under the names of the TypeScript package."""
        return {
            "family": self.family,
            "predictionType": self.prediction_type,
            "trainSteps": self.train_steps,
            "inferenceSteps": self.inference_steps,
            "ladder": self.ladder if isinstance(self.ladder, str) else list(self.ladder),
            "variance": self.variance,
            "eta": self.eta,
            "shift": self.shift,
            **self._parts.source,
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
        source = self._parts.source
        origin = source.get("preset") or source.get("config", {}).get("_class_name") or "custom"
        shift = "" if self.shift == 1 else f", shift {self.shift:g}"
        ladder = "" if self.ladder == "uniform" else f", ladder {self.ladder if isinstance(self.ladder, str) else 'given'}"
        noise = f"eta {self.eta:g}" if self.variance == "posterior" else f"variance {self.variance}"
        return (
            f"NoiseSchedule({origin}, {self.family}, {self.prediction_type}, T = {self.train_steps}{shift}; "
            f"{self.inference_steps} inference steps{ladder}, {noise})"
        )
