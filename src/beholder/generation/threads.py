"""How many threads PyTorch's kernels use while the engine runs a step."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch

from beholder.core.errors import ConfigError


class Threads:
    """A bound on the threads of whoever runs a step; None leaves PyTorch's own number.

    ConfigError if it is more than this process may run at once: more only wait for each other.
    """

    def __init__(self, count: int | None) -> None:
        most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if count is not None and not 1 <= count <= most:
            raise ConfigError(f"threads is {count}; this process may use 1 to {most}")
        self.count = count

    @contextmanager
    def bound(self) -> Generator[None]:
        """Meanwhile the calling thread's kernels use so many threads."""
        before = torch.get_num_threads()
        if self.count is None or self.count == before:
            yield
            return
        torch.set_num_threads(self.count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
