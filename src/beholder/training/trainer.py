"""Run one recipe: open the model, freeze, feed, let transformers' Trainer train, and write what came out.

A run lives in its output folder and can be killed at any time: the next call with the same recipe goes on
from the newest complete checkpoint there and ends with the same weights.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PrinterCallback, Trainer

from beholder.core.errors import BeholderError, ConfigError, InputError
from beholder.training import adapters
from beholder.training.checking import MANIFEST, confirm_manifest
from beholder.training.data import Conversations, row_name
from beholder.training.feeding import collator_for, prepared, sampler_for
from beholder.training.journal import Journal, Samples
from beholder.training.losses import answer_loss, is_finite
from beholder.training.optimizer import build_optimizer
from beholder.training.outcome import write_outcome
from beholder.training.patch_labels import PatchCollator, PictureLabels
from beholder.training.patches import reader_of
from beholder.training.processes import join, rank, wait_for_all, world
from beholder.training.resuming import SPREAD, begin, is_finished, newest_checkpoint
from beholder.training.schedules import plateau_cosine_schedule
from beholder.training.settings import arguments, layers_of
from beholder.training.sources import sources_of
from beholder.training.stages import Recipe, freeze

log = logging.getLogger("beholder")
TRAINED = "model.safetensors"


class StageTrainer(Trainer):
    """transformers' Trainer with the recipe's parameter groups, order of rows, loss and checkpoints."""

    recipe: Recipe
    journal: Journal

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Groups by learning rate and decay, in place of one rate for all."""
        subject = self.model if model is None else model
        assert isinstance(subject, nn.Module)
        if self.optimizer is None:
            self.optimizer = build_optimizer(subject, self.recipe)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The recipe's course of the learning rate."""
        if self.recipe.schedule != "plateau_cosine" or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        subject = self.optimizer if optimizer is None else optimizer
        assert subject is not None
        self.lr_scheduler = plateau_cosine_schedule(subject, num_training_steps, self.recipe.warmup_ratio)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Rows in the recipe's order; pictures that are only looked at are just shuffled."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(dataset, Conversations) and (order := sampler_for(self.recipe, dataset)) is not None:
            return order
        return super()._get_train_sampler(train_dataset)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The loss, with logits of trained positions alone; a loss that is no number names its rows."""
        rows = inputs.pop("rows", None)
        if "input_ids" in inputs:
            self.journal.tokens += int(inputs["input_ids"].numel())
        if self.recipe.objective == "answers" and not self.recipe.compile:
            items = kwargs.get("num_items_in_batch")
            head: Any = self.model.get_output_embeddings()  # type: ignore[union-attr, operator]
            loss, outputs = answer_loss(model, head, inputs, items)
            if items is not None and self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        else:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if not is_finite(loss):
            raise InputError(self.offence(loss, rows))
        return (loss, outputs) if return_outputs else loss

    def offence(self, loss: torch.Tensor, rows: torch.Tensor | None) -> str:
        """Which rows were in the batch whose loss is no number."""
        dataset: Any = self.train_dataset
        named = [] if rows is None else [row_name(dataset.row(number)[0]) for number in rows.tolist()]
        return (
            f"the loss is {float(loss.detach())} at step {self.state.global_step + 1}, in a batch of rows "
            f"{', '.join(named) or 'unknown'}; look at them with `beholder data show`, or lower learning_rate"
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """With adapters, what is trained alone; PEFT's own way would forget what is trained beside them."""
        if self.recipe.lora is None:
            super()._save(output_dir, state_dict)
            return
        if not self.args.should_save:  # with FSDP2 every process comes here, and the first has the tensors
            return
        subject: Any = self.model
        whole = state_dict or dict(subject.named_parameters())
        names = [name for name, p in subject.named_parameters() if p.requires_grad]
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        held = {name: whole[name].detach().cpu().contiguous() for name in names}
        save_file(held, folder / TRAINED, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.recipe.lora is None or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        subject: Any = self.model
        known = dict(subject.named_parameters())
        with torch.no_grad():
            for name, tensor in load_file(Path(resume_from_checkpoint) / TRAINED).items():
                known[name].copy_(tensor)

    def take(self, checkpoint: Path) -> None:
        """The weights of a checkpoint for a model that will not be trained further, and so is not spread."""
        subject: Any = self.model
        if (spread := checkpoint / SPREAD).is_file():
            subject.load_state_dict(torch.load(spread, map_location="cpu", weights_only=True))
        else:
            self._load_from_checkpoint(str(checkpoint))


def train(recipe: Recipe, model: Any, processor: Any, *, accept_changes: bool = False) -> Path:
    """Train the recipe's parts of `model` on its data; returns the folder of the trained model or adapter.

    `model` must hold fp32 weights: low precision is applied to the computation, not to the weights.
    `accept_changes`: see `resuming.begin`.
    """
    if low := [name for name, p in model.named_parameters() if p.dtype != torch.float32]:
        raise ConfigError(f"training needs float32 weights; {len(low)} are not, the first is {low[0]}")
    join()
    resume = begin(recipe, accept_changes=accept_changes) if rank() == 0 else None
    wait_for_all()
    if rank() > 0:
        resume = newest_checkpoint(recipe.output)
    prepare_model(model, recipe)
    processor = prepared(processor, recipe)
    sources = sources_of(recipe)
    confirm_manifest(sources, recipe.output / MANIFEST, recipe.limits())
    if recipe.objective == "patches":
        parts = [source.parts for source in recipe.data]
        reader = reader_of(model)
        dataset: Any = PictureLabels(sources, processor, reader.grids(model), parts)
        subject: nn.Module = reader(model, len(dataset.what), len(dataset.colour))
        collator: Any = PatchCollator()
    else:
        subject, dataset = model, Conversations(sources, processor)
        collator = collator_for(recipe, processor, model)
    refuse_less_than_a_batch(len(dataset), recipe)
    trainer = trainer_for(recipe, subject, dataset, collator, processor)
    if recipe.compile:
        # The check that slots and features agree reads one number; without this it would cut the graph.
        torch._dynamo.config.capture_scalar_outputs = True
        # Fixed shapes are much faster than dynamic ones on a CPU; pad_to_multiple keeps them few.
        subject.compile(dynamic=False)
    if resume and is_finished(resume, recipe):
        # Asked to resume at the last step, the Trainer would take one step more.
        trainer.take(resume)
    else:
        with plainly():
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return write_outcome(trainer, model, processor, recipe)


def refuse_less_than_a_batch(rows: int, recipe: Recipe) -> None:
    """`ConfigError` where an epoch holds no whole batch: what is left over of one is never seen."""
    at_once = recipe.rows_at_once(world())
    if rows < at_once * world():
        raise ConfigError(
            f"recipe {recipe.name}: {rows} rows are less than one batch of {at_once} x {world()} processes; "
            "lower device_batch and global_batch, or add rows"
        )


@contextmanager
def plainly() -> Generator[None]:
    """A process that reads rows tells an error of ours with its whole traceback; here the sentence stays."""
    try:
        yield
    except BeholderError as error:
        kind = type(error)
        _, found, sentence = str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")
        if not found:
            raise
        raise kind(sentence.strip()) from error


def prepare_model(model: Any, recipe: Recipe) -> None:
    """Adapters, what is trained, the number format of the rest, checkpointing of activations."""
    model.set_attn_implementation({"vision_config": recipe.attention, "text_config": recipe.attention})
    if recipe.lora is not None:
        torch.manual_seed(recipe.seed)
        adapters.add(model, recipe.lora)
    if recipe.gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    freeze(model, recipe)
    if recipe.frozen_precision == "bf16":
        if recipe.precision != "bf16":
            raise ConfigError(f"recipe {recipe.name}: frozen_precision bf16 needs precision bf16")
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.bfloat16)


def trainer_for(
    recipe: Recipe, subject: nn.Module, dataset: Any, collator: Any, processor: Any
) -> StageTrainer:
    """The Trainer with everything that watches it."""
    journal = Journal(recipe.output, recipe.global_batch)
    watchers: list[Any] = [journal]
    if recipe.sample_every is not None and recipe.objective == "answers":
        if recipe.sharding in ("fsdp2", "zero3"):
            raise ConfigError(f"recipe {recipe.name}: sample_every needs whole weights in a process")
        watchers.append(Samples(recipe.output, dataset, processor, recipe.sample_every, recipe.samples))
    trainer = StageTrainer(
        subject,
        arguments(recipe, world(), layers_of(subject)),
        data_collator=collator,
        train_dataset=dataset,
        callbacks=watchers,
    )
    trainer.remove_callback(PrinterCallback)  # it would print each line of the journal again, as a dict
    trainer.recipe, trainer.journal = recipe, journal
    return trainer
