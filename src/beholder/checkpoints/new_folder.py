"""A folder that gets its name when all of it is written, and of which nothing is left where that fails."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from beholder.core.errors import ConfigError


def confirm_new(target: Path) -> None:
    """ConfigError where there is something already; an empty folder is nothing."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not an empty folder; give a new one")


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """A folder beside the target to write to, which then gets its name.

    Where it fails, is interrupted or told to end it is removed. ConfigError as `confirm_new`.
    """
    confirm_new(target)
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        with _ended_by_an_error():
            yield partial
            if target.is_dir():
                target.rmdir()
            os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _ended_by_an_error() -> Generator[None]:
    """Let SIGTERM, which would end the process where it stands, come as a SystemExit that can be cleaned up
    after. Not where somebody else handles it, and not in other threads than the main one."""
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not is_ours:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
