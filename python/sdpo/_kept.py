"""Memory of large results on the host: kept between calls, and used again once nothing refers to it.

The C library gives what is larger than 32 MiB back to the system when it is freed, so that a new tensor pays for page faults and zeros: several
times the work of the call that writes it. Smaller blocks it keeps itself.
"""

import os
import sys
import threading
from typing import List, Optional

import torch

# glibc: DEFAULT_MMAP_THRESHOLD_MAX.
KEPT_FROM = 32 << 20
# Tensors of torch begin at a line of the cache.
_LINE = 64
# Memory that nobody used in so many results is freed: the shapes of a program change less often.
_RESULTS = 16


class _Kept:
    def __init__(self, memory: bytearray, used: int) -> None:
        self.memory = memory
        self.used = used


def _references(kept: _Kept) -> int:
    return sys.getrefcount(kept.memory)


# Of memory that only its entry refers to; a tensor in it is one more, until the last of those that share its storage is gone. What this is depends
# on the version of Python. Without its lock (free threading) a count may be wrong, and nothing is kept.
_FREE = _references(_Kept(bytearray(1), 0))
_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()


def _bound() -> int:
    setting = os.environ.get("SDPO_RESULT_POOL", "")
    if setting.isdecimal() and len(setting) < 10:
        return int(setting) << 20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


class Results:
    """Memory for results. `bound`: bytes that are kept at most."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._kept: List[_Kept] = []
        self._lock = threading.Lock()
        self._count = 0

    def forget(self) -> None:
        self._kept, self._lock = [], threading.Lock()

    def held(self) -> int:
        return sum(len(kept.memory) for kept in self._kept)

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor like a new one of which no element was written, in memory of an earlier result; the new one itself where it is not worth keeping."""
        size = tensor.numel() * tensor.element_size()
        if not _COUNTS or type(tensor) is not torch.Tensor or tensor.device.type != "cpu" or size <= KEPT_FROM:
            return tensor
        with self._lock:
            memory = self._take(size + _LINE)
            if memory is None:
                return tensor
            misplaced = torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % _LINE
            flat = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=-misplaced % _LINE)
        # Detached, or it would be a view to autograd.
        return flat.as_strided(tensor.shape, tensor.stride()).detach()

    def _take(self, size: int) -> Optional[bytearray]:
        self._count += 1
        free = [kept for kept in self._kept if _references(kept) == _FREE]
        fits = next((kept for kept in free if len(kept.memory) == size), None)
        full = fits is None and self.held() + size > self._bound
        for kept in free:
            if kept is not fits and (full or self._count - kept.used > _RESULTS):
                self._kept.remove(kept)
        if fits is None:
            if self.held() + size > self._bound:
                return None
            try:
                fits = _Kept(bytearray(size), 0)
            except MemoryError:
                return None
            self._kept.append(fits)
        fits.used = self._count
        return fits.memory


RESULTS = Results(_bound())
if hasattr(os, "register_at_fork"):
    # The child's copies are its own, but nobody there may hold the lock.
    os.register_at_fork(after_in_child=RESULTS.forget)
