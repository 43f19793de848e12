"""`python -m sdpo`: what is installed, and what would compute a loss here."""

from __future__ import annotations

import sys

import torch

from . import __version__, _library, default_threads
from ._backends import _obstacle


def main() -> int:
    """Prints versions, library, instruction set, CUDA and threads; the exit code is 1 where plain PyTorch has to do."""
    print(f"sdpo {__version__}, Python {sys.version.split()[0]}, torch {torch.__version__}")
    if not _library.available():
        print(f"library: none; plain PyTorch computes the loss\n{_library.why_not()}")
        return 1
    library = _library.library()
    print(f"library: {library._name} ({library.sdpo_version().decode()}, ABI {library.sdpo_abi_version()})")
    print(f"CPU: {library.sdpo_instruction_set().decode()} instructions, {default_threads()} threads")
    print(f"CUDA: {'built in' if library.has_cuda else 'not built in'}; torch {'sees' if torch.cuda.is_available() else 'sees no'} device")
    for device in ("cuda", "mps", "xpu"):
        if _is_available(device):
            reason = _obstacle(torch.device(device))
            print(f"tensors on {device}: {'the library' if reason is None else f'plain PyTorch, since {reason}'}")
    return 0


def _is_available(device: str) -> bool:
    module = getattr(torch.backends, device, None) if device == "mps" else getattr(torch, device, None)
    return module is not None and module.is_available()


if __name__ == "__main__":
    sys.exit(main())
