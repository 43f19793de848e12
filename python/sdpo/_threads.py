"""How many threads a call on the CPU takes: all cores, shared with the other ranks of a distributed job on this host."""

from __future__ import annotations

import os

import torch

from . import _library

# Set by torchrun and torch.distributed.run; by MPI launchers; by Slurm (uniform jobs give one number).
_LOCAL_WORLD_SIZE = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")


def local_world_size() -> int:
    """Ranks of this job on this host, from what launchers put into the environment; 1 where nothing is known."""
    for name in _LOCAL_WORLD_SIZE:
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return 1


def default_threads() -> int:
    """SDPO_NUM_THREADS where it is set; else the cores of this host divided by the ranks on it, at least 1."""
    if not _library.available():  # plain PyTorch computes
        return torch.get_num_threads()
    cores = _library.library().sdpo_default_threads()
    return cores if os.environ.get("SDPO_NUM_THREADS") else max(1, cores // local_world_size())
