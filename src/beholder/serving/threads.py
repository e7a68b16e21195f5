"""The server's threads beside the engine's, which keep their kernels to themselves.

Every thread that runs a parallel kernel of PyTorch's gets helpers of its own from the OpenMP runtime, which
live as long as it does. With more of them in a process than there are cores, GNU's runtime lets threads sleep
instead of spin where they wait for each other, and a step of the engine takes up to twice as long.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

RUNTIMES = ("libgomp", "libomp", "libiomp")


def work_alone() -> None:
    """From now on the kernels that the calling thread runs use no other threads."""
    import torch

    torch.get_num_threads()  # PyTorch tells a thread its own number once, with this at the latest
    for runtime in _runtimes():
        runtime.omp_set_num_threads(1)


def cores() -> int:
    """How many threads of this process can run at the same time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Threads that work alone."""
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=work_alone)


@cache
def _runtimes() -> tuple[ctypes.CDLL, ...]:
    """The OpenMP runtimes of PyTorch's own package that are loaded; none where it brought none."""
    return tuple(_loaded())


def _loaded() -> Iterator[ctypes.CDLL]:
    import torch

    home = Path(torch.__file__).parent
    for folder in (home / "lib", home.parent / "torch.libs"):
        for file in sorted(folder.glob("lib*omp*")) if folder.is_dir() else ():
            if file.name.startswith(RUNTIMES) and hasattr(os, "RTLD_NOLOAD"):
                try:
                    yield ctypes.CDLL(str(file), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
                except OSError:  # it lies there, and another one is used
                    continue
