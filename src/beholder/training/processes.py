"""The processes that train together, as torchrun starts them. One process alone is the usual case."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta

import torch

# How long a process waits for the others: the first one may have a model to fetch and to put together.
PATIENCE = timedelta(hours=3)


def world() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def join() -> None:
    """Meet the others, if there are any, until the process ends: with gloo on CPUs, NCCL on GPUs."""
    if world() > 1 and not torch.distributed.is_initialized():
        from accelerate import PartialState

        atexit.register(_part)
        on_cpu = not torch.cuda.is_available()
        PartialState(cpu=on_cpu, backend="gloo" if on_cpu else "nccl", timeout=PATIENCE)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if world() > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _part() -> None:
    """Take leave of the others. Threads that still wait for them would abort the process at its end."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
