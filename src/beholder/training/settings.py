"""A recipe in the words of transformers' Trainer, and how several processes share a model's state."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from beholder.core.errors import ConfigError, MissingExtraError
from beholder.training.stages import Recipe

log = logging.getLogger("beholder")


def arguments(recipe: Recipe, processes: int, layers: Sequence[str] = ()) -> TrainingArguments:
    """The recipe in the Trainer's words; `layers` are the classes that FSDP2 spreads one by one."""
    on_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(recipe.output),
        per_device_train_batch_size=recipe.rows_at_once(processes),
        gradient_accumulation_steps=recipe.accumulation(processes),
        num_train_epochs=recipe.epochs or 1,
        max_steps=recipe.steps or -1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine" if recipe.schedule == "plateau_cosine" else recipe.schedule,
        warmup_steps=recipe.warmup_ratio,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bf16",
        tf32=True if recipe.tf32 and has_tf32() else None,
        use_cpu=on_cpu,
        ddp_backend=("gloo" if on_cpu else "nccl") if processes > 1 else None,
        # A tower has layers that nothing reads; elsewhere every trained parameter takes part in each step.
        ddp_find_unused_parameters=any("vision_tower" in prefix for prefix in recipe.trainable) or None,
        save_steps=recipe.save_every,
        save_total_limit=recipe.keep,
        logging_steps=recipe.log_every,
        report_to=reporters(recipe),
        disable_tqdm=True,
        dataloader_num_workers=recipe.workers,
        dataloader_persistent_workers=recipe.workers > 0,
        dataloader_pin_memory=not on_cpu,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        seed=recipe.seed,
        data_seed=recipe.seed,
        label_names=["labels"],
        **sharding(recipe, processes, layers, on_cpu=on_cpu),
    )


def layers_of(model: nn.Module) -> list[str]:
    """The classes of whole layers in the model; its own list also names those of towers it might have."""
    there = {type(module).__name__ for module in model.modules()}
    return sorted(there & set(getattr(model, "_no_split_modules", None) or ()))


def has_tf32() -> bool:
    """Whether the GPU computes in TensorFloat-32."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8


def reporters(recipe: Recipe) -> list[str]:
    """Where the log goes besides `log.jsonl`: to TensorBoard always; what is asked for must be installed."""
    for name in recipe.report_to:
        if find_spec(name) is None:
            raise ConfigError(f"report_to asks for {name}, which is not installed: pip install {name}")
    return list(dict.fromkeys(("tensorboard", *recipe.report_to)))


def sharding(recipe: Recipe, processes: int, layers: Sequence[str] = (), *, on_cpu: bool) -> dict[str, Any]:
    """How the state of training is spread; a single process keeps all of it."""
    if recipe.sharding == "none":
        return {}
    if processes == 1:
        log.info("sharding %s: there is one process, so nothing is spread", recipe.sharding)
        return {}
    if on_cpu:
        raise ConfigError(
            f"recipe {recipe.name}: sharding {recipe.sharding} needs GPUs; set sharding=none for CPUs"
        )
    if recipe.sharding == "fsdp2":
        if recipe.objective == "patches":
            raise ConfigError(
                f"recipe {recipe.name}: objective patches needs the whole tower at once; set sharding=none"
            )
        return {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": [*layers]}}
    if find_spec("deepspeed") is None:
        raise MissingExtraError(f"sharding {recipe.sharding} needs DeepSpeed: pip install deepspeed")
    return {"deepspeed": zero(recipe)}


def zero(recipe: Recipe) -> dict[str, Any]:
    """DeepSpeed's configuration, as LLaVA's files have it; what is "auto" follows from the arguments."""
    stage = int(recipe.sharding.removeprefix("zero"))
    spread: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
    }
    if stage == 3:
        spread |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_max_live_parameters": 1e9,
            "stage3_max_reuse_distance": 1e9,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    told: dict[str, Any] = {
        "bf16": {"enabled": "auto"},
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "zero_optimization": spread,
        # Groups of parameters with rates of their own are ours, not DeepSpeed's.
        "zero_allow_untested_optimizer": True,
    }
    return told | ({"gradient_clipping": recipe.max_grad_norm} if recipe.max_grad_norm else {})
