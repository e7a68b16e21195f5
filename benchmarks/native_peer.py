"""llama.cpp in a process of its own, for `native_decode.py` and `native_whole.py`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
# Our format -> theirs of as many bits.
LLAMA_CPP = {"bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}


class LlamaCpp:
    """A process that rests until it is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.about = self._line()

    def _line(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit(f"llama.cpp ended with {self.process.wait()}")
        return json.loads(line)

    def milliseconds(self, rows: int, steps: int) -> float:
        """Median of some steps after one that is not counted."""
        if self.process.stdin:
            print(json.dumps({"rows": rows, "steps": steps}), file=self.process.stdin, flush=True)
        return float(self._line())


@contextmanager
def llama_cpp(
    python: str, kind: str, folder: str, geometry: Mapping[str, Any], *, rows: int, context: int
) -> Iterator[LlamaCpp]:
    """With a random model of a geometry (names as in transformers' configurations, and `layers`)."""
    given = {
        **geometry, "kind": kind, "file": f"{folder}/{kind}.gguf", "context": context, "rows": rows,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    command = [python, str(HERE / "native_llama_cpp.py"), json.dumps(given)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield LlamaCpp(process)
        finally:
            process.kill()
