"""Training beside TRL's SFTTrainer: samples a second, peak memory, and how long a step waits for its data.

    BEHOLDER_TRL_PYTHON=PYTHON python benchmarks/training_speed.py [--model mini|llava-1.1b]

Same weights, same rows, same batch, same trained parameters, AdamW and precision; each epoch in a process of
its own, which alternate. The rows are mixed: half have a picture (a JPEG of 640 x 480), answers are of very
different length. Beholder groups rows and packs them, as its recipes can. TRL gets the rows as our processor
prepares them, in the order and with the padding that it has by itself. PYTHON needs trl beside what this
needs (`pip install trl`). The first step of each epoch is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import TrainerCallback

from beholder.core.records import capture, hash_weights
from beholder.training.collate import Collator
from beholder.training.data import Conversations
from beholder.training.feeding import collator_for, padding_id
from beholder.training.run import open_start
from beholder.training.sources import sources_of
from beholder.training.stages import Recipe, freeze
from beholder.training.trainer import prepare_model, trainer_for

HERE = Path(__file__).resolve().parent
WORDS = "red green blue circle square star large small above below left right of the a there is".split()
PHOTO = (640, 480)
TRAINED = {
    "mini": ("model.corner_abstractor", "model.whole_abstractor", "model.language_model", "lm_head"),
    "llava-1.1b": ("model.multi_modal_projector", "model.language_model.layers"),
}
LONGEST = {"mini": 512, "llava-1.1b": 1280}


def write_rows(folder: Path, count: int) -> None:
    """Rows with pictures and without, with answers of 2 to 160 words."""
    rng, noise = random.Random(0), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        words = int(2 * 80 ** rng.random())
        answer = " ".join(rng.choice(WORDS) for _ in range(words))
        row: dict[str, Any] = {"id": str(number)}
        marked = "What is there?"
        if number % 2:
            photograph(noise).save(folder / f"{number}.jpg", quality=90)
            row["image"], marked = f"{number}.jpg", f"<image>\n{marked}"
        row["conversations"] = [{"from": "human", "value": marked}, {"from": "gpt", "value": answer}]
        rows.append(row)
    (folder / "rows.json").write_text(json.dumps(rows), "utf-8")


def photograph(noise: np.random.Generator) -> Image.Image:
    """Smooth colours under a little grain: as much work for a decoder as a photograph."""
    small = Image.fromarray(noise.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(PHOTO, Image.Resampling.BICUBIC), dtype=np.float32)
    return Image.fromarray((smooth + noise.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8))


def start_of(model: str, folder: Path, layers: int) -> Path:
    """The folder of the weights: the built-in model's, or random ones of the size."""
    if model == "mini":
        from beholder.mini import FOLDER

        return FOLDER
    from beholder.families.random_weights import write_random

    write_random(model, folder / "model", layers=layers, dtype="float32")
    return folder / "model"


def recipe_of(options: argparse.Namespace, work: Path) -> Recipe:
    """One epoch of the rows."""
    return Recipe(
        name=f"speed/{options.model}",
        model=str(options.start),
        output=work / f"out-{options.side}-{os.getpid()}",
        data=[{"rows": work / "rows.json", "pictures": work}],  # type: ignore[arg-type]
        trainable=TRAINED[options.model],
        learning_rate=1e-5,
        warmup_ratio=0.0,
        epochs=1,
        global_batch=options.batch,
        device_batch=options.batch,
        max_length=LONGEST[options.model],
        packing=options.side == "beholder",
        grouping="length" if options.side == "beholder" else "none",
        precision="bf16",
        attention="eager" if options.model == "mini" else "sdpa",
        workers=options.workers,
        save_every=10**6,
        log_every=10**6,
        report_to=(),
    )


class Stopwatch(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step has ended."""
        self.ends.append(time.perf_counter())


def watch_waiting(trainer: Any) -> list[float]:
    """Seconds that each step waits for its rows, in a list that fills while the trainer runs."""
    waits: list[float] = []
    fetch = trainer.get_batch_samples

    def timed(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        found = fetch(*arguments, **options)
        waits.append(time.perf_counter() - begun)
        return found

    trainer.get_batch_samples = timed
    return waits


def our_trainer(recipe: Recipe) -> Any:
    """Ours, as `beholder train` makes it."""
    model, processor = open_start(recipe)
    prepare_model(model, recipe)
    rows = Conversations(sources_of(recipe), processor)
    recipe.output.mkdir(parents=True)
    return trainer_for(recipe, model, rows, collator_for(recipe, processor, model), processor)


def their_trainer(recipe: Recipe) -> Any:
    """TRL's, on the rows that our processor makes, padded to the longest of a batch."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, processor = open_start(recipe)
    model.set_attn_implementation({"vision_config": recipe.attention, "text_config": recipe.attention})
    freeze(model, recipe)
    rows = Conversations(sources_of(recipe), processor)
    plain = Collator(padding_id(processor, recipe))

    def collate(samples: list[dict[str, int]]) -> dict[str, Any]:
        batch: dict[str, Any] = plain([rows[sample["number"]] for sample in samples])
        batch.pop("rows", None)
        return batch

    settings = SFTConfig(
        output_dir=str(recipe.output), per_device_train_batch_size=recipe.device_batch, num_train_epochs=1,
        learning_rate=recipe.learning_rate, bf16=True, use_cpu=True, report_to="none", disable_tqdm=True,
        save_strategy="no", logging_steps=10**6, gradient_checkpointing=False, max_length=None,
        remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_num_workers=recipe.workers, dataloader_drop_last=True, dataloader_pin_memory=False,
    )  # fmt: skip
    return SFTTrainer(
        model,
        args=settings,
        train_dataset=Dataset.from_dict({"number": list(range(len(rows)))}),
        data_collator=collate,
        processing_class=processor.tokenizer,
    )


def child(options: argparse.Namespace) -> None:
    """One epoch in this process; its figures are the last line."""
    torch.set_num_threads(options.threads)
    recipe = recipe_of(options, options.work)
    trainer = (our_trainer if options.side == "beholder" else their_trainer)(recipe)
    watch, waits = Stopwatch(), watch_waiting(trainer)
    trainer.add_callback(watch)
    trainer.train()
    steps = len(watch.ends) - 1
    seconds = watch.ends[-1] - watch.ends[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    told = {
        "samples_per_s": steps * options.batch / seconds, "peak_gib": peak, "seconds": seconds,
        "waiting_share": sum(waits[1 : steps + 1]) / seconds, "steps": steps + 1,
    }  # fmt: skip
    sys.stdout.write("\n" + json.dumps(told) + "\n")


def epoch(side: str, options: argparse.Namespace, work: Path, start: Path) -> dict[str, float]:
    """The figures of a fresh process."""
    python = sys.executable if side == "beholder" else options.trl_python
    command = [
        python, __file__, "--side", side, "--work", str(work), "--start", str(start),
        "--model", options.model, "--batch", str(options.batch), "--workers", str(options.workers),
        "--threads", str(options.threads),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure, print, record."""
    options = read_options()
    if options.side:
        child(options)
        return
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        write_rows(work, options.rows)
        start = start_of(options.model, work, options.layers)
        sides = ["beholder", "trl"] if options.trl_python else ["beholder"]
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(options.repeats):
            for side in sides:
                runs[side].append(epoch(side, options, work, start))
                sys.stderr.write(f"{side}: {runs[side][-1]}\n")
        weights = hash_weights(start)
    values = {
        f"{side}_{name}": statistics.median(run[name] for run in found)
        for side, found in runs.items()
        for name in ("samples_per_s", "peak_gib", "waiting_share")
    }
    if "trl" in sides:
        values["speed_ratio"] = values["beholder_samples_per_s"] / values["trl_samples_per_s"]
        values["memory_ratio"] = values["beholder_peak_gib"] / values["trl_peak_gib"]
    record = capture(
        subject="beholder-mini" if options.model == "mini" else options.model,
        weights=weights,
        measure="training speed",
        values=values,
        samples=options.rows,
        settings={
            "model": options.model, "layers": None if options.model == "mini" else options.layers,
            "batch": options.batch, "rows": options.rows, "repeats": options.repeats,
            "threads": options.threads, "workers": options.workers, "precision": "bf16",
            "trained": list(TRAINED[options.model]), "pictures": "640 x 480 JPEG", "statistic": "median",
            "peer": peer_version(options.trl_python),
        },
        seconds=round(time.perf_counter() - begun, 1),
    )  # fmt: skip
    record.write(options.out or HERE / "results" / f"training-{record.subject}-{date.today()}.json")
    for name, value in values.items():
        sys.stdout.write(f"{name:28} {value:.3f}\n")


def peer_version(python: str | None) -> str:
    """TRL's name and version; empty without it."""
    if not python:
        return ""
    asked = "from importlib.metadata import version; print(version('trl'))"
    return "trl " + subprocess.run([python, "-c", asked], capture_output=True, text=True).stdout.strip()


def read_options() -> argparse.Namespace:
    """The command line; --side, --work and --start are this script's own, for its children."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(TRAINED), default="mini")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=2, help="of llava-1.1b")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=("beholder", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.trl_python = os.environ.get("BEHOLDER_TRL_PYTHON")
    return options


if __name__ == "__main__":
    main()
