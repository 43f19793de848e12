"""Which implementation of the passes serves a device: the native library, or plain PyTorch where there is none for it."""

from __future__ import annotations

import os
import warnings
from typing import Any, Optional

import torch

from . import _library, _native, _torch
from ._errors import SdpoError
from ._validate import check_one_of

NAMES = ("native", "torch")
_warned = set()


def check_backend(value: Optional[str]) -> Optional[str]:
    if value is None:
        return None
    check_one_of("backend", value, NAMES)
    if value == "native":
        _library.library()  # its error says where it was looked for
    return value


def backend_for(device: torch.device, choice: Optional[str]) -> Any:
    """The module with evaluate, moments, objective and gradients. Without a choice: native where it serves the device."""
    if choice == "torch":
        return _torch
    reason = _obstacle(device)
    if reason is None:
        return _native
    if choice == "native":
        raise SdpoError("ERR_SDPO_DEVICE", f"Expected the native backend to serve tensors on {device}, received a library for which {reason}")
    if device.type not in _warned:
        _warned.add(device.type)
        warnings.warn(f"sdpo: plain PyTorch computes the loss of tensors on {device.type}, since {reason}", RuntimeWarning, stacklevel=4)
    return _torch


def _obstacle(device: torch.device) -> Optional[str]:
    """Why the library does not serve a device, or None."""
    if not _library.available():
        if os.environ.get("SDPO_LIBRARY"):
            _library.library()  # asked for by name: its absence is an error
        return _library.why_not()
    if device.type in ("cpu", "meta"):  # on meta nothing is computed
        return None
    if device.type != "cuda" or torch.version.hip is not None:
        return "it has no code for such devices"
    return None if _library.library().has_cuda else "it was built without CUDA"
