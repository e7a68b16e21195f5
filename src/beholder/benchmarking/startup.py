"""From nothing to the first token, in a new process, part by part."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from beholder.core.errors import BeholderError

# The parts of one process, as JSON; its arguments are the model (empty: the built-in one) and how to load it.
PROGRAM = """
import json, sys, time
begun = time.perf_counter()
from beholder.benchmarking.material import QUESTION, picture
import beholder
name, settings = sys.argv[1], json.loads(sys.argv[2])
imported = time.perf_counter()
vlm = beholder.load(name or None, **settings)
loaded = time.perf_counter()
stream = vlm.stream([beholder.Message.user(picture(1), QUESTION)], max_tokens=1)
ready = time.perf_counter()
stream.read()
done = time.perf_counter()
print(json.dumps({"import_s": imported - begun, "load_s": loaded - imported, "prepare_s": ready - loaded,
                  "answer_s": done - ready}))
"""


def cold_start(model: str, settings: dict[str, Any], repeats: int) -> dict[str, float]:
    """Median seconds of `repeats` new processes after one that warms the disk: each part, and all together.

    `cold_first_token_s` is the wall time of the process: the start of Python and its end are in it.
    """
    command = [sys.executable, "-c", PROGRAM, model, json.dumps(settings)]
    runs: list[dict[str, float]] = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            raise BeholderError(f"a new process could not answer: {said[-1] if said else done.returncode}")
        parts = json.loads(done.stdout.strip().splitlines()[-1])
        runs.append({"cold_first_token_s": time.perf_counter() - begun, **parts})
    return {name: statistics.median(run[name] for run in runs[1:]) for name in runs[0]}
