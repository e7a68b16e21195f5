"""What is wrong with a checkpoint and what to do about it: the words in which `doctor` reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 3  # how many names a sentence lists


@dataclass(frozen=True)
class Finding:
    """One thing that keeps a checkpoint from opening, or that makes what opens wrong."""

    problem: str
    remedy: str


def some(names: Iterable[str]) -> str:
    """The first names of a list, and that there are more."""
    listed = list(names)
    more = f"; ... ({len(listed)} in all)" if len(listed) > SHOWN else ""
    return "; ".join(listed[:SHOWN]) + more
