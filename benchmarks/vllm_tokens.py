"""Whether a model says the same with its language model in vLLM as with our own engine, token by token.

    BEHOLDER_VLLM_PYTHON=/opt/vllm/bin/python python benchmarks/vllm_tokens.py [--model PATH] [--vllm-arg ...]
    ... python benchmarks/vllm_tokens.py --family 360vl [--family llava] ...

Questions with and without the example picture, greedily, in float32, each a second time so that what vLLM
keeps of the first is used: of a model, the built-in one if none is given, or of a small random one of each
`--family`. Of a family the goldens as well, whose tokens the original said. Writes a record for each; fails
where a token differs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

from vllm_models import FAMILIES, cases, golden, write_small

import beholder
from beholder.core.records import capture, hash_weights
from beholder.core.types import Sampling
from beholder.families.random_tokenizer import write_tokenizer
from beholder.generation.engine import Engine
from beholder.serving.vllm.engine import VLLMEngine
from beholder.serving.vllm.server import SERVED, load_on_vllm, start_server

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


def compare(model: str | Path | None, tokens: int, arguments: list[str]) -> dict[str, Any]:
    """A model's answers in both engines, and how many are equal."""
    ours = beholder.load(model, device="cpu", dtype="float32")
    try:
        wanted, _, our_seconds = answers(ours, tokens)
    finally:
        ours.close()
    begun = time.perf_counter()
    theirs = load_on_vllm(model and str(model), arguments, device="cpu", dtype="float32")
    opening = time.perf_counter() - begun
    try:
        said, found, their_seconds = answers(theirs, tokens)
    finally:
        theirs.close()
    for one, other in zip(wanted, said, strict=True):
        if one != other:
            print("differs:", one, other)
    return {
        "answers": len(wanted), "equal answers": sum(map(list.__eq__, wanted, said)),
        "tokens": sum(map(len, wanted)), "prompt tokens found again": found, "seconds to open": opening,
        "seconds, ours": our_seconds, "seconds, vllm": their_seconds,
    }  # fmt: skip


def compare_golden(name: str, arguments: list[str]) -> dict[str, Any]:
    """The goldens' tokens beside those of both engines."""
    _, folder, model = golden(name)
    recorded = list(cases(name, model))
    with closing(Engine(model)) as engine:
        ours = [ids_of(engine, case.inputs, len(case.tokens)) for case in recorded]
    with tempfile.TemporaryDirectory(prefix="beholder-golden-") as made:
        # vLLM wants a tokenizer, which tiny models do not all have; no text is made with it here.
        whole = Path(made)
        for file in folder.iterdir():
            if file.is_file() and not file.name.startswith("tokenizer"):
                (whole / file.name).symlink_to(file)
        write_tokenizer(whole, "llama", 512, 2048)
        server = start_server(model, whole, arguments)
        try:
            server.wait()
            with closing(VLLMEngine(model, address=server.address, served=SERVED)) as engine:
                theirs = [ids_of(engine, case.inputs, len(case.tokens)) for case in recorded]
        finally:
            server.stop()
    for case, mine, other in zip(recorded, ours, theirs, strict=True):
        if not mine == other == case.tokens:
            print(f"{case.name} differs: original {case.tokens}, ours {mine}, vllm {other}")
    wanted = [case.tokens for case in recorded]
    return {
        "goldens": len(wanted), "golden tokens": sum(map(len, wanted)),
        "goldens, ours equal": sum(map(list.__eq__, wanted, ours)),
        "goldens, vllm equal": sum(map(list.__eq__, wanted, theirs)),
    }  # fmt: skip


def ids_of(engine: Any, inputs: dict[str, Any], tokens: int) -> list[int]:
    """So many likeliest tokens, whatever they are."""
    request = engine.submit(inputs, Sampling(max_tokens=tokens, temperature=0.0))
    return list(request)


def write(
    values: dict[str, Any], subject: str, weights: str, given: argparse.Namespace, begun: float
) -> bool:
    """Write the record; whether everything in it is equal."""
    record = capture(
        subject=subject, weights=weights, values=values, measure="greedy tokens, vllm beside ours",
        samples=values["answers"] + values.get("goldens", 0), seconds=time.perf_counter() - begun,
        settings={"tokens": given.tokens, "dtype": "float32", "vllm": given.vllm_arg},
    )  # fmt: skip
    out = given.out or HERE / "results" / f"vllm-tokens-{subject}-{date.today().isoformat()}.json"
    print(record.write(out))
    print(json.dumps(values, indent=1))
    pairs = [("answers", "equal answers"), ("goldens", "goldens, vllm equal")]
    return all(values.get(one) == values.get(other) for one, other in pairs)


def main() -> int:
    """Ask both and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder; left out, the built-in model")
    parser.add_argument(
        "--family", action="append", choices=FAMILIES, help="goldens and a small random model"
    )
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--vllm-arg", action="append", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not given.family:
        begun = time.perf_counter()
        folder = beholder.api.checkpoint_folder(given.model)
        values = compare(given.model, given.tokens, given.vllm_arg)
        name = "beholder-mini" if given.model is None else folder.name
        return 0 if write(values, name, hash_weights(folder), given, begun) else 1
    equal = True
    for name in given.family:
        begun = time.perf_counter()
        values = compare_golden(name, given.vllm_arg)
        with tempfile.TemporaryDirectory(prefix="beholder-random-") as made:
            folder = write_small(name, Path(made) / name)
            values |= compare(folder, given.tokens, given.vllm_arg)
            equal = write(values, name, hash_weights(folder), given, begun) and equal
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
