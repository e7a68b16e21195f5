"""Drawing many pictures into a folder in shards, each whole or not there: a killed run goes on from there."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from beholder.core.errors import ConfigError

SHARD = 500  # pictures between two points from which a killed run can go on
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shards:
    """The pictures `numbers` of the folder `out`.

    `settings` say how they are drawn; a folder drawn in another way is refused. `before` has the values that
    settings had when folders did not name them yet.
    """

    out: Path
    numbers: range
    settings: Mapping[str, Any]
    before: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def spans(self) -> list[range]:
        """The numbers, shard by shard."""
        start, stop = self.numbers.start, self.numbers.stop
        return [range(at, min(at + SHARD, stop)) for at in range(start, stop, SHARD)]

    def manifest(self) -> dict[str, Any] | None:
        """What a finished folder says about itself; None where there is still something to draw."""
        for name in (MANIFEST, "shards/settings.json"):
            if not (self.out / name).exists():
                continue
            there = {**self.before, **json.loads((self.out / name).read_text(encoding="utf-8"))}
            if differing := sorted(key for key, value in self.settings.items() if there.get(key) != value):
                raise ConfigError(
                    f"{self.out} already holds pictures drawn with other settings ({', '.join(differing)}); "
                    "choose an empty folder or delete this one"
                )
            return there if name == MANIFEST else None
        return None

    def begun(self) -> bool:
        """Whether an earlier run began to draw and did not come to its end."""
        return (self.out / "shards").is_dir() and not (self.out / MANIFEST).exists()

    def left(self) -> list[range]:
        """The shards that are not there."""
        return [span for span in self.spans() if not _file(self.out / "shards", span).exists()]

    def draw(self, work: Callable[[range], Any], workers: int = 1) -> Iterator[int]:
        """Do the work for the shards that are not there; yields how many pictures each had.

        What `work` returns for its numbers is kept as JSON. In several processes it has to be picklable.
        """
        folder = self.out / "shards"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "settings.json", self.settings)
        keep = partial(_keep, work, folder)
        if workers <= 1:
            yield from map(keep, self.left())
            return
        # Spawned, not forked: a fork of a process with threads (torch, BLAS) may hang.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield from pool.map(keep, self.left())

    def read(self) -> Iterator[Any]:
        """What the work returned for each shard, in order."""
        for span in self.spans():
            yield json.loads(_file(self.out / "shards", span).read_text(encoding="utf-8"))

    def finish(self, **counts: Any) -> dict[str, Any]:
        """Write the manifest, once everything made of the shards is written, and drop them; returns it."""
        manifest = {**self.settings, **counts}
        write_json(self.out / MANIFEST, manifest)
        shutil.rmtree(self.out / "shards")
        return manifest


def _file(folder: Path, span: range) -> Path:
    return folder / f"{span.start}.json"


def _keep(work: Callable[[range], Any], folder: Path, span: range) -> int:
    write_json(_file(folder, span), work(span))
    return len(span)


def write_json(path: Path, value: object) -> None:
    """Write a file that is either whole or not there."""
    partial_path = path.with_suffix(".partial")
    partial_path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    os.replace(partial_path, path)
