"""Lets the cyclic garbage collector rest while `beholder.api` is imported.

That brings torch and transformers, whose modules make a million objects that stay. The collector would look
at them again and again and find nothing; `benchmarks/startup.py` measures what is saved.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

HEAVY = "beholder.api"


@contextmanager
def collector_at_rest() -> Generator[None]:
    """Nothing is collected inside; afterwards the collector runs again if it ran before."""
    ran = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ran:
            gc.enable()


class RestingImport(MetaPathFinder):
    """Finds the one heavy module as the other finders do, and runs it while the collector rests.

    `forgets`: it is never again looked for cycles among what was there by the end of the import. That is for
    a process of our own; in another's, cycles of theirs would stay with it.
    """

    def __init__(self, *, forgets: bool) -> None:
        self.forgets = forgets

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of `beholder.api`; None for all else."""
        if fullname != HEAVY:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_resting(module: ModuleType) -> None:
            with collector_at_rest():
                run(module)
                if self.forgets:
                    gc.freeze()

        spec.loader.exec_module = run_resting
        return spec


def install(*, forgets: bool = False) -> None:
    """Watch for that import. A second call sets whether it `forgets`."""
    for finder in sys.meta_path:
        if isinstance(finder, RestingImport):
            finder.forgets = forgets
            return
    sys.meta_path.insert(0, RestingImport(forgets=forgets))
