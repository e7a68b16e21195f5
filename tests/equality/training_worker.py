"""One of two processes that train together, started by test_training_processes.py as by torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tests.equality.training_cases import opened, recipe
from torch import distributed

from beholder.training.collate import Collator, blank_sample
from beholder.training.data import Conversations, read_rows
from beholder.training.losses import answer_loss
from beholder.training.run import run


def together(name: str, folder: Path, output: Path) -> None:
    """A whole stage with DDP."""
    run(recipe(name, folder, output, grouping="length", steps=4, global_batch=4, device_batch=2))


def sharded(name: str, folder: Path, output: Path) -> None:
    """One pass under FSDP2, where this process has pictures or has none, beside the same pass alone."""
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo")
    model, processor = opened(folder)
    model.set_attn_implementation("eager")
    rows = Conversations([(read_rows(folder.parent / "rows.json"), folder.parent)], processor)
    texts = [n for n in range(len(rows)) if rows.row(n)[0].get("image") is None][:2]
    shown = [n for n in range(len(rows)) if n not in texts][:2]
    collate = Collator(processor.padding_id, blank=blank_sample(processor))
    mine = collate([rows[number] for number in (shown, texts)[distributed.get_rank()]])
    whole = collate([rows[number] for number in (*shown, *texts)])
    items = int((whole["labels"][:, 1:] != -100).sum())
    alone = passed(model, whole, items)
    model.zero_grad()
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module)
    fully_shard(model)
    loss, norms = passed(model, mine, items)
    total = torch.tensor(loss)
    distributed.all_reduce(total)
    # FSDP averages gradients over the processes, the loss is divided by the trained tokens of all.
    norms = {key: value * distributed.get_world_size() for key, value in norms.items()}
    if distributed.get_rank() == 0:
        told = {"alone": alone, "sharded": [float(total), norms]}
        (output / "sharded.json").write_text(json.dumps(told))
    distributed.destroy_process_group()


def passed(model: Any, batch: dict[str, torch.Tensor], items: int) -> tuple[float, dict[str, float]]:
    """Loss and gradient norms of a forward and a backward pass."""
    batch = {key: value for key, value in batch.items() if key != "rows"}
    loss, _ = answer_loss(model, model.get_output_embeddings(), batch, items)
    loss.backward()
    norms: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradient = parameter.grad
            gradient = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            norms[name] = float(gradient.norm())
    return float(loss.detach()), norms


if __name__ == "__main__":
    {"together": together, "sharded": sharded}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
