"""How quickly a benchmark's rows are answered, beside transformers' `generate` in the same run.

    python benchmarks/evaluation_speed.py [--rows 2000] [--batch 32] [--turn 256] [--data FOLDER] [--out FILE]

Three ways answer the same rows of `worlds` with the built-in model, greedily, each from the pictures' files:
`beholder eval`'s own, `generate` row by row, and `generate` over padded batches, as lmms-eval and VLMEvalKit
call it. They take turns, `--turn` rows each (as many as `beholder eval` asks at once), so that what disturbs
the machine disturbs all. The rows are the first of the data. Unless their scores are the same there is no
record.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import beholder
from beholder.core.records import capture, hash_weights
from beholder.core.types import Box, Message
from beholder.evaluation.batches import answer_batch
from beholder.evaluation.cards import flatten
from beholder.evaluation.task import Reply, Row, open_row_picture
from beholder.evaluation.tasks.worlds import WORLDS
from beholder.mini import FOLDER
from beholder.mini.dataset import Plan, write
from beholder.mini.fonts import FontBook

HERE = Path(__file__).resolve().parent
FEWEST_ROWS_OF_A_SCENE = 8
ROWS = 256  # that `beholder eval` asks at once
Way = Callable[[Sequence[Row]], list[Reply]]


class Peer:
    """The same checkpoint through the Auto classes and `generate`. Boxes are read as ours are."""

    def __init__(self, data: Path, vlm: beholder.VLM) -> None:
        self.data = data
        self.read_boxes = vlm.boxes
        self.processor = AutoProcessor.from_pretrained(FOLDER)
        self.model = AutoModelForImageTextToText.from_pretrained(FOLDER, dtype=vlm.model.dtype).eval()
        self.ends = list(self.processor.terminators)

    def batch(self, rows: Sequence[Row]) -> list[Reply]:
        """All rows side by side, shorter prompts filled up on the left."""
        conversations = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": str(self.data / row["image"])},
                        {"type": "text", "text": WORLDS.style("").text(row)},
                    ],
                }
            ]
            for row in rows
        ]
        inputs = self.processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            padding=True,
        )  # fmt: skip
        said = self.model.generate(
            **inputs, max_new_tokens=WORLDS.max_tokens, do_sample=False, eos_token_id=self.ends,
            pad_token_id=self.ends[0],
        )[:, inputs["input_ids"].shape[1] :]  # fmt: skip
        return [self._reply(row, ids) for row, ids in zip(rows, said.tolist(), strict=True)]

    def one_by_one(self, rows: Sequence[Row]) -> list[Reply]:
        """A call for each row."""
        return [reply for row in rows for reply in self.batch([row])]

    def _reply(self, row: Row, ids: list[int]) -> Reply:
        length = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        text = self.processor.tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
        boxes: tuple[Box, ...] = ()
        if "[" in text:
            boxes = self.read_boxes(text, [Message.user(open_row_picture(self.data, row["image"]) or "")])
        return Reply(text, boxes, min(length + 1, len(ids)))


def ways(data: Path, vlm: beholder.VLM, batch: int = 32) -> dict[str, Way]:
    """Name -> what answers some rows; `batch` is how many stand side by side in one call of `generate`."""
    peer = Peer(data, vlm)

    def ours(rows: Sequence[Row]) -> list[Reply]:
        pictures = {name: open_row_picture(data, name) for name in {row["image"] for row in rows}}
        conversations = [WORLDS.conversation(row, pictures[row["image"]]) for row in rows]
        return answer_batch(vlm, conversations, WORLDS.max_tokens)

    def batched(rows: Sequence[Row]) -> list[Reply]:
        return [
            reply for start in range(0, len(rows), batch) for reply in peer.batch(rows[start : start + batch])
        ]

    return {"beholder": ours, "transformers_one_by_one": peer.one_by_one, "transformers_batched": batched}


def figures(rows: Sequence[Row], replies: Sequence[Reply]) -> dict[str, float]:
    """The score card."""
    return flatten(
        WORLDS.summarize([WORLDS.score(reply, row) for row, reply in zip(rows, replies, strict=True)])
    )


def measure(rows: Sequence[Row], turn: int, by_name: dict[str, Way]) -> tuple[dict[str, float], int]:
    """Rows per second of each way, and how many answers are not the same in all; their scores must be."""
    for way in by_name.values():
        way(rows[:2])  # what is only done once
    seconds, replies = dict.fromkeys(by_name, 0.0), {name: list[Reply]() for name in by_name}
    for start in range(0, len(rows), turn):
        for name, way in by_name.items():
            begun = time.perf_counter()
            replies[name] += way(rows[start : start + turn])
            seconds[name] += time.perf_counter() - begun
        print(f"{min(start + turn, len(rows))} of {len(rows)} rows", flush=True)
    scores = {name: figures(rows, said) for name, said in replies.items()}
    first, *others = scores.values()
    if any(other != first for other in others):
        told = {name: values["overall"] for name, values in scores.items()}
        raise SystemExit(f"the scores are not the same: {told}")
    texts = [{reply.text for reply in said} for said in zip(*replies.values(), strict=True)]
    rates = {f"{name}_rows_per_s": len(rows) / taken for name, taken in seconds.items()}
    times = {f"times_{name}": seconds[name] / seconds["beholder"] for name in by_name if name != "beholder"}
    return rates | times | {"overall": first["overall"]}, sum(len(one) > 1 for one in texts)


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32, help="rows of one call of `generate`")
    parser.add_argument("--turn", type=int, default=ROWS, help="rows of one turn")
    parser.add_argument("--data", type=Path, help="the data of worlds; drawn for this run if left out")
    parser.add_argument("--dtype", default="float32", help="in bfloat16 answers depend on who is beside them")
    parser.add_argument("--threads", type=int, help="torch's threads; torch's own choice if left out")
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / f"evaluation-speed-{date.today()}.json"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as drawn:
        data = options.data or Path(drawn) / "worlds"
        if options.data is None:
            scenes = max(2, options.rows // FEWEST_ROWS_OF_A_SCENE)
            write(data, Plan(scenes=scenes, seed=1, split="test"), FontBook())
        rows = WORLDS.load(data)[: options.rows]
        vlm = beholder.load(device="cpu", dtype=options.dtype)
        values, differing = measure(rows, options.turn, ways(data, vlm, options.batch))
    values["answers_that_differ"] = float(differing)
    for name, value in values.items():
        print(f"{name:>36}  {value:.3f}")
    record = capture(
        subject="beholder-mini",
        weights=hash_weights(FOLDER),
        measure="evaluation speed",
        values=values,
        samples=len(rows),
        settings={
            "task": WORLDS.measure,
            "batch": options.batch,
            "turn": options.turn,
            "threads": torch.get_num_threads(),
            "dtype": str(vlm.model.dtype),
            "sampling": "greedy",
            "peer": "transformers generate",
        },
        seconds=time.perf_counter() - begun,
    )
    print(record.write(options.out))


if __name__ == "__main__":
    main()
