"""What a run tells while it runs and when it ends: its log, its complete checkpoints, samples, a plot."""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from beholder.training.processes import wait_for_all
from beholder.training.resuming import COMPLETE

log = logging.getLogger("beholder")
GIB = 2**30
LOG, SAMPLES, PLOT = "log.jsonl", "samples.jsonl", "loss.png"
LONGEST_ANSWER = 64


def memory_gib() -> float:
    """The most memory this process has used: of its GPU, or else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / GIB if sys.platform == "darwin" else used * 1024 / GIB


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 49:05:09."""
    whole = round(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


class Journal(TrainerCallback):
    """Writes each log record to `log.jsonl`, prints progress and time left, marks complete checkpoints."""

    def __init__(self, output: Path, samples_per_step: int) -> None:
        self.output, self.samples_per_step = output, samples_per_step
        self.started, self.first_step = 0.0, 0
        self.tokens = 0  # positions that this process computed

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note where this process began, for the speed; a resumed state brings old intervals along."""
        state.save_steps, state.logging_steps = args.save_steps, args.logging_steps
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """One JSON line to the file, one line to the log."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        seconds = time.monotonic() - self.started
        pace = seconds / max(1, state.global_step - self.first_step)
        left = pace * (state.max_steps - state.global_step)
        record = {
            "step": state.global_step,
            **logs,
            "samples_per_second": round(self.samples_per_step / pace, 2),
            "tokens_per_second": round(self.tokens * max(1, args.world_size) / seconds, 1),
            "memory_gib": round(memory_gib(), 2),
        }
        with (self.output / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        log.info(
            "step %d/%d  loss %.4f  lr %.2e  %.1f samples/s  %.0f tokens/s  %.1f GiB  %s left",
            state.global_step, state.max_steps, logs["loss"], logs.get("learning_rate", 0.0),
            self.samples_per_step / pace, record["tokens_per_second"], record["memory_gib"],
            clock(left),
        )  # fmt: skip

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer has written everything of this checkpoint, in every process."""
        wait_for_all()
        if not state.is_world_process_zero:
            return
        (self.output / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the losses."""
        if state.is_world_process_zero:
            draw_losses(self.output)


class Samples(TrainerCallback):
    """Answers some rows every so many steps, so that one can read what the model has learned."""

    def __init__(self, output: Path, dataset: Any, processor: Any, every: int, count: int) -> None:
        self.output, self.dataset, self.processor = output, dataset, processor
        self.every, self.count = every, count

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Every process looks whether it is time; the first one answers."""
        if state.global_step % self.every or not state.is_world_process_zero:
            return
        was_training = model.training
        model.eval()
        try:
            told = [self.answered(model, number) for number in range(min(self.count, len(self.dataset)))]
        finally:
            model.train(was_training)
        with (self.output / SAMPLES).open("a", encoding="utf-8") as file:
            file.writelines(
                json.dumps({"step": state.global_step, **one}, ensure_ascii=False) + "\n" for one in told
            )

    @torch.no_grad()
    def answered(self, model: Any, number: int) -> dict[str, Any]:
        """The row's first question, its answer in the data, and the model's."""
        from beholder.training.data import row_messages, row_name

        row, pictures = self.dataset.row(number)
        messages = row_messages(row, pictures)
        first = next(at for at, message in enumerate(messages) if message.role == "assistant")
        inputs = self.processor.encode(messages[:first]).to(model.device)
        ends = list(self.processor.terminators)
        ids = model.generate(
            **inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
        )
        new = ids[0, inputs["input_ids"].shape[1] :]
        return {
            "row": row_name(row),
            "question": messages[first - 1].text,
            "wanted": messages[first].text,
            "answer": self.processor.tokenizer.decode(new, skip_special_tokens=True).strip(),
        }


def draw_losses(output: Path) -> Path | None:
    """Draw `log.jsonl` as a picture beside it; None (and a line in the log) where nothing can draw."""
    if not (output / LOG).is_file():
        return None
    if find_spec("matplotlib") is None:
        log.info("no plot of the loss: pip install 'beholder[train]' brings matplotlib")
        return None
    from matplotlib.figure import Figure

    lines = (output / LOG).read_text(encoding="utf-8").splitlines()
    records = {record["step"]: record for record in map(json.loads, lines)}  # a resumed step counts once
    steps = sorted(records)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, [records[step]["loss"] for step in steps], linewidth=1)
    axes.set(xlabel="step", ylabel="loss", title=str(output))
    axes.grid(alpha=0.3)
    figure.savefig(output / PLOT, dpi=120)
    return output / PLOT
