"""Noise by counter: any element of a stream can be made again from its seed and its position, the same in TypeScript and in Python."""

from __future__ import annotations

import torch

from . import _library, _native
from ._validate import check_integer, fail_type


def noise(seed: int, offset: int, out: torch.Tensor) -> torch.Tensor:
    """Fills `out` with standard normals: element i is element `offset + i` of the stream of `seed`.

    out: contiguous, any float dtype, on the CPU or on a CUDA device. Returned.

    Philox4x32-10 by counter (Salmon et al., SC 2011), Box-Muller in float64, rounded once.
    """
    check_integer("seed", seed, 0, 2**64 - 1)
    check_integer("offset", offset, 0, 2**53 - 1)
    if not isinstance(out, torch.Tensor) or out.dtype not in _native.DTYPES or not out.is_contiguous() or out.requires_grad:
        fail_type("out", "a contiguous tensor of float64, float32, float16 or bfloat16 without gradient", out)
    if out.device.type not in ("cpu", "cuda"):
        fail_type("out", "a tensor on the CPU or on a CUDA device", f"a tensor on {out.device}")
    # An operation of PyTorch, on no element: it counts the change, so that autograd refuses a backward pass that saved what was here.
    out.view(-1)[:0].zero_()
    with _native._on(out.device):
        status = _library.library().sdpo_noise(
            int(seed),
            int(offset),
            out.numel(),
            out.data_ptr(),
            _native.DTYPES[out.dtype],
            _native._location(out.device),
            _native._stream(out.device),
            _native._thread_count(0, out.device),
        )
    _library.check(status)
    return out
