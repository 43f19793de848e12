"""Preference losses for diffusion models on PyTorch: SDPO, DPO-C&M and Diffusion-DPO, with the gradient formed in one native pass.

    schedule = NoiseSchedule.from_diffusers(scheduler, inference_steps=50)
    loss_fn = PreferenceLoss(objective="sdpo", schedule=schedule, beta=500.0, clip_range=0.1)
    out = loss_fn(chosen=(policy, reference, target), rejected=(policy, reference, target), timesteps=t)
    out.loss.backward()

Guide: docs/pytorch.md. Options and statistics: docs/api.md (names in snake_case here).
"""

from ._errors import NonFiniteError, SdpoError, SdpoRangeError, SdpoTypeError
from ._threads import default_threads
from ._version import version
from .loss import PreferenceLoss
from .moments import Moments, combine_moments, reference_error
from .noise import noise
from .result import PreferenceOutput, denominator, log_entries
from .schedule import NoiseSchedule, Transition

__version__ = version()

__all__ = [
    "Moments",
    "NoiseSchedule",
    "NonFiniteError",
    "PreferenceLoss",
    "PreferenceOutput",
    "SdpoError",
    "SdpoRangeError",
    "SdpoTypeError",
    "Transition",
    "combine_moments",
    "default_threads",
    "denominator",
    "log_entries",
    "noise",
    "reference_error",
]
