"""Whether a model says the same with its language model in vLLM as with our own engine, token by token.

    BEHOLDER_VLLM_PYTHON=/opt/vllm/bin/python python benchmarks/vllm_tokens.py [--model PATH] [--vllm-arg ...]

Questions with and without the example picture, greedily, in float32, each a second time so that what vLLM
keeps of the first is used. Writes a record; fails where a token differs.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import beholder
from beholder.core.records import capture, hash_weights
from beholder.serving.vllm.server import load_on_vllm

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parent / "examples" / "shapes.png"
QUESTIONS = (
    "What shape is red?",
    "How many shapes are there?",
    "Describe the picture.",
    "Where is the star?",
)


def answers(vlm: beholder.VLM, tokens: int) -> tuple[list[list[int]], int, float]:
    """The ids of each answer, how many prompt tokens were found again, and the seconds of it all."""
    said: list[list[int]] = []
    found, start = 0, time.perf_counter()
    for picture in (PICTURE, None):
        for question in QUESTIONS * 2:
            answer = vlm.ask(picture, question, max_tokens=tokens, logprobs=0)
            said.append([score.token for score in answer.scores])
            found += answer.usage.cached_tokens
    return said, found, time.perf_counter() - start


def main() -> int:
    """Ask both and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder; left out, the built-in model")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--vllm-arg", action="append", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    start = time.perf_counter()
    ours = beholder.load(given.model, device="cpu", dtype="float32")
    wanted, _, our_seconds = answers(ours, given.tokens)
    name, family = ours.name, ours.family.name
    ours.close()
    opening = time.perf_counter()
    theirs = load_on_vllm(given.model, given.vllm_arg, device="cpu", dtype="float32")
    opening = time.perf_counter() - opening
    try:
        said, found, their_seconds = answers(theirs, given.tokens)
    finally:
        theirs.close()
    same = sum(one == other for one, other in zip(wanted, said, strict=True))
    values: dict[str, Any] = {
        "answers": len(wanted), "equal answers": same, "tokens": sum(map(len, wanted)),
        "prompt tokens found again": found, "seconds to open": opening,
        "seconds, ours": our_seconds, "seconds, vllm": their_seconds,
    }  # fmt: skip
    record = capture(
        subject=name, weights=hash_weights(beholder.api.checkpoint_folder(given.model)), values=values,
        measure="greedy tokens, vllm beside ours", samples=len(wanted), seconds=time.perf_counter() - start,
        settings={"tokens": given.tokens, "dtype": "float32", "family": family, "vllm": given.vllm_arg},
    )  # fmt: skip
    print(
        record.write(given.out or HERE / "results" / f"vllm-tokens-{family}-{date.today().isoformat()}.json")
    )
    print(json.dumps(values, indent=1))
    for one, other in zip(wanted, said, strict=True):
        if one != other:
            print("differs:", one, other)
    return 0 if same == len(wanted) else 1


if __name__ == "__main__":
    raise SystemExit(main())
