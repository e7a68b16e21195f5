"""The benchmarks by name. A task's module is imported only when the task is asked for."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from beholder.core.errors import ConfigError
from beholder.evaluation.task import Task

TASKS = {
    "worlds": "beholder.evaluation.tasks.worlds:WORLDS",
    "worlds-redrawn": "beholder.evaluation.tasks.worlds:WORLDS_REDRAWN",
}


def find_task(name: str) -> Task:
    """The task of that name."""
    if name not in TASKS:
        near = get_close_matches(name, TASKS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TASKS)}"
        raise ConfigError(f"there is no benchmark {name!r}; {hint}")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(import_module(module), attribute)
