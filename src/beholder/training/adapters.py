"""Low-rank adapters of a stage: put beside the model's layers, saved so that they say what they belong to.

How the folder is read again: `checkpoints.adapter_folder`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from beholder.checkpoints.adapter_folder import (
    ADAPTER,
    BESIDE,
    CONFIG,
    STORY,
    WEIGHTS,
    is_adapter_parameter,
    load,
    refuse_idle,
)
from beholder.core.errors import ConfigError, MissingExtraError
from beholder.training.sections import Adapters, begins
from beholder.training.stages import Recipe

log = logging.getLogger("beholder")
ALL = "all"
NF4_BLOCK = 64  # weights that share a scale

__all__ = [
    "WEIGHTS",
    "adapter_tensors",
    "add",
    "beside",
    "load",
    "peft_config",
    "quantize",
    "save",
    "targets_of",
]


def targets_of(model: nn.Module, adapters: Adapters) -> list[str]:
    """Names of the linear layers that get an adapter; an entry that finds none is an error."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found: dict[str, None] = {}
    for part, ends in adapters.targets.items():
        inside = [name for name in linear if begins(name + ".", (part.rstrip(".") + ".",))]
        for end in ends:
            chosen = [name for name in inside if end == ALL or f".{name}".endswith(f".{end}")]
            if not chosen:
                raise ConfigError(
                    f"no linear layer under {part!r} ends with {end!r}; there are "
                    f"{', '.join(sorted({name.rpartition('.')[2] for name in inside})) or 'none'}"
                )
            found |= dict.fromkeys(chosen)
    return list(found)


def peft_config(model: nn.Module, adapters: Adapters) -> Any:
    """PEFT's description of the adapters."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError.of("training adapters", "train") from error
    return LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,  # type: ignore[arg-type]  # PEFT only divides it by the rank
        lora_dropout=adapters.dropout,
        use_dora=adapters.dora,
        target_modules=targets_of(model, adapters),
    )


def add(model: Any, adapters: Adapters) -> None:
    """Put untrained adapters beside the model's layers: they change nothing yet."""
    config = peft_config(model, adapters)
    if adapters.quantize == "4bit":
        quantize(model, config.target_modules, twice=adapters.quantize_twice)
    model.add_adapter(config, adapter_name=ADAPTER)


def quantize(model: Any, names: Iterable[str], *, twice: bool) -> None:
    """Keep the named layers in nf4; the numbers are rounded when the model moves to its device.

    ConfigError: a layer reads a number of values that is no multiple of nf4's block; bitsandbytes trains such
    layers but cannot answer with them.
    """
    try:
        bnb: Any = import_module("bitsandbytes")
    except ImportError as error:
        raise MissingExtraError.of("QLoRA", "quant") from error
    for name in names:
        linear = model.get_submodule(name)
        if linear.in_features % NF4_BLOCK:
            raise ConfigError(
                f"lora.quantize 4bit needs layers that read a multiple of {NF4_BLOCK} values; {name} reads "
                f"{linear.in_features}: leave it out of lora.targets or set lora.quantize to none"
            )
        small = bnb.nn.Linear4bit(
            linear.in_features, linear.out_features, bias=linear.bias is not None,
            compute_dtype=torch.bfloat16, compress_statistics=twice, quant_type="nf4",
        )  # fmt: skip
        small.weight = bnb.nn.Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=twice, quant_type="nf4"
        )
        small.bias = linear.bias
        model.set_submodule(name, small)
    model.is_loaded_in_4bit = True


def adapter_tensors(model: nn.Module, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The adapters' tensors by the names PEFT saves them under; `state`: gathered from all processes."""
    from peft.utils import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, state_dict=state, adapter_name=ADAPTER)
    return {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in found.items()}


def beside(model: nn.Module, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What is trained in full beside the adapters, by our names."""
    return {
        name.replace(".base_layer.", "."): (state or {}).get(name, parameter).detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not is_adapter_parameter(name)
    }


def save(
    model: Any,
    recipe: Recipe,
    folder: Path,
    base_hash: str | None,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write the adapter folder; `base_hash` is that of the weights that it changes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = adapter_tensors(model, state)
    refuse_idle(tensors, folder)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config[ADAPTER].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    config["base_model_name_or_path"] = recipe.model
    config["inference_mode"] = True
    (folder / CONFIG).write_text(json.dumps(config, indent=2, default=str) + "\n", "utf-8")
    if full := beside(model, state):
        save_file(full, folder / BESIDE, metadata={"format": "pt"})
    story = {
        "base": recipe.model,
        "base_sha256": base_hash,
        "recipe": recipe.model_dump(mode="json"),
        "trained_beside": sorted(full),
    }
    (folder / STORY).write_text(json.dumps(story, indent=1) + "\n", "utf-8")
