"""How quickly the built-in model answers, beside transformers' `generate` in the same run.

    python benchmarks/mini_speed.py [--repeats 20] [--threads N] [--out FILE]

Both start from the picture's file and the question, so opening the picture and preparing it count for both,
and both choose greedily until the model ends its answer. Nothing is kept from one request to the next: with
its caches on, ours would not look at the picture again. Requests alternate, so that what disturbs the machine
disturbs both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import date
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.generation.streamers import BaseStreamer

import beholder
from beholder.core.records import capture, hash_weights
from beholder.mini import FOLDER

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parent / "examples" / "shapes.png"
QUESTION = "Describe the picture."


class Clock(BaseStreamer):
    """Notes when each token came; the first call brings the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """A token, or at first the prompt, has come."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to do."""


def ask_beholder(vlm: beholder.VLM) -> tuple[float, float, int]:
    """Seconds to the first token, seconds in all, tokens."""
    answer = vlm.ask(PICTURE, QUESTION)
    return answer.timings.first_token, answer.timings.total, answer.usage.completion_tokens


class Peer:
    """The same checkpoint through the Auto classes and `generate`."""

    def __init__(self) -> None:
        self.processor = AutoProcessor.from_pretrained(FOLDER)
        self.model = AutoModelForImageTextToText.from_pretrained(FOLDER).eval()

    def ask(self) -> tuple[float, float, int]:
        """Seconds to the first token, seconds in all, tokens."""
        begun, clock = time.perf_counter(), Clock()
        content = [{"type": "image", "image": str(PICTURE)}, {"type": "text", "text": QUESTION}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        ends = list(self.processor.terminators)
        self.model.generate(**inputs, max_new_tokens=512, do_sample=False, eos_token_id=ends, streamer=clock)
        return clock.times[1] - begun, clock.times[-1] - begun, len(clock.times) - 1


def summary(name: str, runs: list[tuple[float, float, int]]) -> dict[str, float]:
    """Medians; the rate counts the tokens after the first, over the time after the first."""
    return {
        f"{name}_first_token_ms": 1000 * statistics.median(first for first, _, _ in runs),
        f"{name}_tokens_per_s": statistics.median((n - 1) / (total - first) for first, total, n in runs),
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, help="torch's threads; torch's own choice if left out")
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"mini_speed-{date.today()}.json")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    begun, vlm, peer = time.perf_counter(), beholder.load(prefix_cache=False, picture_memory=0), Peer()
    ours, theirs = [], []
    for _ in range(options.repeats + 1):
        ours.append(ask_beholder(vlm))
        theirs.append(peer.ask())
    if {n for _, _, n in ours} != {n for _, _, n in theirs}:
        raise SystemExit(f"the two do not give equally many tokens: {ours[0][2]} and {theirs[0][2]}")
    values = (
        summary("beholder", ours[1:]) | summary("transformers", theirs[1:]) | {"tokens": float(ours[0][2])}
    )

    record = capture(
        subject="beholder-mini",
        weights=hash_weights(FOLDER),
        measure="mini speed",
        values=values,
        samples=options.repeats,
        settings={
            "question": QUESTION,
            "picture": PICTURE.name,
            "threads": torch.get_num_threads(),
            "batch": 1,
            "dtype": str(peer.model.dtype),
            "sampling": "greedy",
            "statistic": "median",
            "peer": "transformers generate",
        },
        seconds=time.perf_counter() - begun,
    )
    for name, value in values.items():
        print(f"{name:>28}  {value:.1f}")
    print(record.write(options.out))


if __name__ == "__main__":
    main()
