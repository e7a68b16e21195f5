"""Peers in processes of their own, which answer lines of JSON with lines of JSON: for `native_*.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import torch

from beholder.core.records import RunRecord

HERE = Path(__file__).resolve().parent
# Our format -> llama.cpp's of as many bits.
LLAMA_CPP = {"bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}


class Asked:
    """A process that rests until it is asked; what it says of itself first is `about`."""

    def __init__(self, process: subprocess.Popen[str], called: str, log: Any) -> None:
        self.process, self.called, self._log = process, called, log
        self.about = self._line()

    def ask(self, question: Any) -> Any:
        """Its answer to one question."""
        if self.process.stdin:
            print(json.dumps(question), file=self.process.stdin, flush=True)
        return self._line()

    def milliseconds(self, rows: int, steps: int) -> float:
        """Median of some steps after one that is not counted."""
        return float(self.ask({"rows": rows, "steps": steps}))

    @contextmanager
    def still(self) -> Generator[None]:
        """Meanwhile neither it nor what it has started runs: some look for work all the time."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def _line(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if line:
            return json.loads(line)
        code = self.process.wait()
        self._log.seek(0)
        said = [line for line in self._log.read().splitlines() if line.strip()]
        raise SystemExit(f"{self.called} ended with {code}: {said[-1] if said else 'it said nothing'}")


def end_in_order() -> None:
    """When this process is told to end, peers end too, also those that stand still."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def report(record: RunRecord, kind: str, out: Path | None) -> None:
    """Print what was measured, and the file that it is written into: `out`, or one among the results."""
    print(json.dumps(record.values, indent=1))
    print(record.write(out or HERE / "results" / f"{kind}-{record.subject}-{date.today()}.json"))


@contextmanager
def asked(
    command: Sequence[str], called: str, environment: Mapping[str, str] | None = None
) -> Iterator[Asked]:
    """A peer as long as it is needed, with all that it starts."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=None if environment is None else dict(environment), start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield Asked(process, called, log)
        finally:
            with suppress(ProcessLookupError):  # it may have ended already
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def llama_cpp(
    python: str, kind: str, folder: str, geometry: Mapping[str, Any], *, rows: int, context: int
) -> Iterator[Asked]:
    """llama.cpp with a random model of a geometry: names of transformers' configurations, and `layers`."""
    given = {
        **geometry, "kind": kind, "file": f"{folder}/{kind}.gguf", "context": context, "rows": rows,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    with asked([python, str(HERE / "native_llama_cpp.py"), json.dumps(given)], "llama.cpp") as process:
        yield process
