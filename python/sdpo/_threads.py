"""How many threads a call on the CPU takes: the processors of this process, shared with the other ranks of a distributed job on this host."""

from __future__ import annotations

import os
from typing import Tuple

import torch

from . import _library
from ._errors import SdpoRangeError

# Set by torchrun and torch.distributed.run; by MPI launchers; by Slurm (uniform jobs give one number).
_LOCAL_WORLD_SIZE = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")


def local_world_size() -> int:
    """Ranks of this job on this host, from what launchers put into the environment; 1 where nothing is known."""
    for name in _LOCAL_WORLD_SIZE:
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return 1


def limit() -> Tuple[int, bool]:
    """What does not change while a process runs: a number of threads, and whether the user named it."""
    threads = _library.library().sdpo_default_threads()
    if threads < 1:
        raise SdpoRangeError("ERR_SDPO_INVALID_ARG_VALUE", _library.library().sdpo_last_error().decode())
    return (threads, True) if os.environ.get("SDPO_NUM_THREADS") else (threads // local_world_size(), False)


def within(limit: Tuple[int, bool]) -> int:
    """The threads of a call: those of the limit, and where the user named none no more than PyTorch takes."""
    threads, named = limit
    return threads if named else max(1, min(threads, torch.get_num_threads()))


def default_threads() -> int:
    """SDPO_NUM_THREADS where it is set; else the processors that this process may use (affinity, control group) divided by the ranks on this host, and
    no more than ``torch.get_num_threads()``; at least 1.

    :raises SdpoRangeError: ERR_SDPO_INVALID_ARG_VALUE where SDPO_NUM_THREADS is set to something else than an integer from 1 to 4096
    """
    if not _library.available():  # plain PyTorch computes
        return torch.get_num_threads()
    return within(limit())
