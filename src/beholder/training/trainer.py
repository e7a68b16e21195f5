"""Run one recipe: open the model, freeze, feed, let transformers' Trainer train, and write what came out.

A run lives in its output folder and can be killed at any time: the next call with the same recipe goes on
from the newest complete checkpoint there and ends with the same weights.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from beholder.core.errors import ConfigError
from beholder.training.collate import Collator
from beholder.training.data import Conversations
from beholder.training.easing import rows_of
from beholder.training.optimizer import build_optimizer
from beholder.training.patches import PatchCollator, PatchReader, PictureLabels
from beholder.training.resuming import COMPLETE, begin, is_finished
from beholder.training.sampler import LengthGroupedSampler
from beholder.training.stages import Recipe, freeze

log = logging.getLogger("beholder")


class StageTrainer(Trainer):
    """transformers' Trainer with the recipe's parameter groups."""

    recipe: Recipe

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Groups by learning rate and decay, in place of one rate for all."""
        subject = self.model if model is None else model
        assert isinstance(subject, nn.Module)
        if self.optimizer is None:
            self.optimizer = build_optimizer(subject, self.recipe)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Rows of similar length together; pictures that are only looked at are just shuffled."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(dataset, Conversations):
            return LengthGroupedSampler(dataset.lengths(), self.recipe.device_batch, self.recipe.seed)
        return super()._get_train_sampler(train_dataset)


class Journal(TrainerCallback):
    """Writes each log record to `log.jsonl`, prints progress and time left, marks complete checkpoints."""

    def __init__(self, output: Path, samples_per_step: int) -> None:
        self.output, self.samples_per_step = output, samples_per_step
        self.started, self.first_step = 0.0, 0

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
        }
        with (self.output / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        log.info(
            "step %d/%d  loss %.4f  lr %.2e  %.1f samples/s  %s left",
            state.global_step, state.max_steps, logs["loss"], logs.get("learning_rate", 0.0),
            self.samples_per_step / pace, time.strftime("%H:%M:%S", time.gmtime(left)),
        )  # fmt: skip

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer has written everything of this checkpoint."""
        (self.output / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def arguments(recipe: Recipe, processes: int) -> TrainingArguments:
    """The recipe in the Trainer's words."""
    on_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(recipe.output),
        per_device_train_batch_size=recipe.device_batch,
        gradient_accumulation_steps=recipe.accumulation(processes),
        num_train_epochs=recipe.epochs or 1,
        max_steps=recipe.steps or -1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_ratio,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bf16",
        use_cpu=on_cpu,
        save_steps=recipe.save_every,
        save_total_limit=recipe.keep,
        logging_steps=recipe.log_every,
        report_to=["tensorboard"],
        disable_tqdm=True,
        dataloader_num_workers=recipe.workers,
        dataloader_persistent_workers=recipe.workers > 0,
        dataloader_pin_memory=not on_cpu,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        seed=recipe.seed,
        data_seed=recipe.seed,
        label_names=["labels"],
    )


def train(recipe: Recipe, model: Any, processor: Any, *, accept_changes: bool = False) -> Path:
    """Train the recipe's parts of `model` on its data; returns the folder of the trained model.

    `model` must hold fp32 weights: low precision is applied to the computation, not to the weights.
    `accept_changes`: see `resuming.begin`.
    """
    if low := [name for name, p in model.named_parameters() if p.dtype != torch.float32]:
        raise ConfigError(f"training needs float32 weights; {len(low)} are not, the first is {low[0]}")
    resume = begin(recipe, accept_changes=accept_changes)
    model.set_attn_implementation({"vision_config": recipe.attention, "text_config": recipe.attention})
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    freeze(model, recipe)
    sources = [(rows_of(source), source.pictures) for source in recipe.data]
    padding = processor.tokenizer.pad_token_id
    if padding is None:
        raise ConfigError(
            f"the tokenizer of {recipe.model} has no padding token; set pad_token in tokenizer_config.json"
        )
    if recipe.objective == "patches":
        dataset: Any = PictureLabels(sources, processor, PatchReader.grids(model))
        subject: nn.Module = PatchReader(model, len(dataset.what), len(dataset.colour))
        collator: Any = PatchCollator()
    else:
        subject, dataset = model, Conversations(sources, processor)
        collator = Collator(padding, recipe.pad_to_multiple, recipe.max_length)
    options = arguments(
        recipe, torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    )
    journal = Journal(recipe.output, recipe.global_batch)
    trainer = StageTrainer(
        subject, options, data_collator=collator, train_dataset=dataset, callbacks=[journal]
    )
    trainer.recipe = recipe
    if recipe.compile:
        # The check that slots and features agree reads one number; without this it would cut the graph.
        torch._dynamo.config.capture_scalar_outputs = True
        # Fixed shapes are much faster than dynamic ones on a CPU; pad_to_multiple keeps them few.
        subject.compile(dynamic=False)
    if resume and is_finished(resume, recipe):
        # Asked to resume at the last step, the Trainer would take one step more.
        trainer._load_from_checkpoint(str(resume))
    else:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    final = recipe.output / "model"
    if trainer.is_world_process_zero():
        model.save_pretrained(final)
        processor.save_pretrained(final)
    return final
