"""vLLM decoding for `native_vllm.py`, in vLLM's own Python.

    PYTHON native_vllm_process.py '{"model": "FOLDER", ...}'      # what vllm.LLM is given

Opens the model, says so, and for each line that comes (`prompts`, lists of ids; `steps`) answers all prompts
at once and says how long one of so many steps took, in milliseconds, in which each got a token.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

SPARE = 16  # steps in which those that were read first answer alone, at the beginning and at the end


def main() -> None:
    """Open the model, say so, and answer line by line."""
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    import vllm  # pyright: ignore[reportMissingImports]  # it is not in our environment

    engine = vllm.LLM(**json.loads(sys.argv[1])).llm_engine
    print(json.dumps({"version": vllm.__version__}), file=told)
    for number, line in enumerate(sys.stdin):
        asked = json.loads(line)
        settings = vllm.SamplingParams(
            temperature=0.0, max_tokens=asked["steps"] + SPARE, ignore_eos=True, detokenize=False
        )
        for row, ids in enumerate(asked["prompts"]):
            engine.add_request(f"{number}-{row}", {"prompt_token_ids": ids}, settings)
        print(json.dumps(milliseconds(engine, len(asked["prompts"]), asked["steps"])), file=told)


def milliseconds(engine: Any, rows: int, steps: int) -> float:
    """Of one of the first steps in which every row got a token; the rest is run to its end."""
    moments: list[float] = []
    while engine.has_unfinished_requests():
        if len(engine.step()) == rows:
            moments.append(time.perf_counter())
    if len(moments) <= steps:
        raise SystemExit(f"all {rows} prompts were answered together in {len(moments)} steps, not in {steps}")
    return 1000 * (moments[steps] - moments[0]) / steps


if __name__ == "__main__":
    main()
