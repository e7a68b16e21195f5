"""LoRA adapters as PEFT saves them: read, checked against the model, and added to its weights.

Merging follows PEFT: W + (B A) * alpha / r, in the number format of W.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from beholder.checkpoints.reader import read_file
from beholder.checkpoints.shards import TensorHeader
from beholder.core.errors import CheckpointError, ConfigError, MissingExtraError

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PART = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")
# Settings that change the arithmetic in a way that is not done here.
REFUSED = ("use_dora", "modules_to_save", "layer_replication", "megatron_config", "fan_in_fan_out")
SHOWN = 3


@dataclass(frozen=True)
class Pair:
    """The two halves of one module's adapter, and what their product is multiplied by."""

    down: TensorHeader  # A: (r, in)
    up: TensorHeader  # B: (out, r)
    scale: float


@dataclass(frozen=True)
class Adapter:
    """An adapter folder; `pairs` are by the stored names of the weights that they change."""

    folder: Path
    config: dict[str, Any]
    pairs: dict[str, Pair]


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter that is not merged."""
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in WEIGHTS)


def read_settings(folder: Path) -> dict[str, Any]:
    """The folder's `adapter_config.json`."""
    try:
        told = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} is not valid JSON ({error})") from error
    if not isinstance(told, dict):
        raise CheckpointError(f"{folder / CONFIG} holds a {type(told).__name__} and not a JSON object")
    return cast("dict[str, Any]", told)


def read_adapter(folder: Path, stored_name: Callable[[str], str]) -> Adapter:
    """The adapter in a folder; `stored_name` turns a name within PEFT's wrapping to the base model's."""
    config = read_settings(folder)
    if config.get("peft_type") != "LORA":
        raise ConfigError(
            f"{folder / CONFIG} is of type {config.get('peft_type')!r}; only LORA can be opened"
        )
    if refused := [key for key in REFUSED if config.get(key)]:
        raise ConfigError(f"{folder / CONFIG} sets {', '.join(refused)}, which cannot be merged here")
    file = next(folder / name for name in WEIGHTS if (folder / name).is_file())
    sides: dict[str, dict[str, TensorHeader]] = {}
    for name, header in read_file(file).items():
        found = PART.match(name)
        if found is None:
            raise CheckpointError(f"{file} holds {name}, which is no half of a LoRA pair")
        module = stored_name(found["module"])
        sides.setdefault(module, {})[found["side"]] = TensorHeader(
            header.shape, header.dtype, str(file.resolve()), header.begin, header.end, name
        )
    pairs = {f"{module}.weight": _pair(module, halves, config, file) for module, halves in sides.items()}
    return Adapter(folder, config, pairs)


def _pair(module: str, halves: Mapping[str, TensorHeader], config: Mapping[str, Any], file: Path) -> Pair:
    if set(halves) != {"A", "B"}:
        raise CheckpointError(f"{file} holds only lora_{next(iter(halves))} of {module}")
    rank = halves["A"].shape[0]
    if halves["B"].shape[1] != rank:
        raise CheckpointError(f"{file}: the halves for {module} have ranks {rank} and {halves['B'].shape[1]}")
    alpha = _of_module(config.get("alpha_pattern"), module, config.get("lora_alpha", rank))
    return Pair(halves["A"], halves["B"], alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _of_module(patterns: Mapping[str, Any] | None, module: str, usual: float) -> float:
    """A setting that may differ from module to module; a pattern is matched at the end of the name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return usual


def misfits(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What the adapter changes and the base model does not have, or has in another shape."""
    wrong: list[str] = []
    for name, pair in adapter.pairs.items():
        shape = (pair.up.shape[0], pair.down.shape[1])
        if name not in shapes:
            wrong.append(f"{name} is not there")
        elif shapes[name] != shape:
            wrong.append(f"{name} is {list(shapes[name])} and must be {list(shape)}")
    return wrong


def left_out(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Weights that should have a pair, as the same weight of other layers has one, and have none.

    An adapter that is for some of the layers only says so in its configuration.
    """
    if adapter.config.get("layers_to_transform"):
        return []
    roles = {role_of(name) for name in adapter.pairs}
    lacking = [name for name in shapes if role_of(name) in roles and name not in adapter.pairs]
    targets = adapter.config.get("target_modules")
    if isinstance(targets, list):
        ends = tuple(f".{target}.weight" for target in cast("list[str]", targets))
        lacking += [
            f"all of {end[1:]}" for end in ends if not any(f".{name}".endswith(end) for name in adapter.pairs)
        ]
    return sorted(lacking)


def role_of(name: str) -> str:
    """A tensor's name without the number of its layer."""
    return re.sub(r"\.\d+\.", ".{n}.", name)


def confirm(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a `CheckpointError` unless every pair has its weight in the base model and none is left out."""
    if wrong := misfits(adapter, shapes):
        raise CheckpointError(
            f"the adapter in {adapter.folder} does not fit its base model: {len(wrong)} weights, "
            f"{'; '.join(wrong[:SHOWN])}"
        )
    if lacking := left_out(adapter, shapes):
        raise CheckpointError(
            f"the adapter in {adapter.folder} is not complete: it has no pair for {len(lacking)} weights, "
            f"{'; '.join(lacking[:SHOWN])}"
        )


def merged(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """W + (B A) * scale in W's number format."""
    import torch

    # Half precision has no fast product on a CPU, and PEFT takes float32 there as well.
    wide = torch.float32 if weight.dtype in (torch.float16, torch.bfloat16) else weight.dtype
    return weight + ((up.to(wide) @ down.to(wide)) * scale).to(weight.dtype)


def attach(
    model: Any,
    adapter: Adapter,
    parameter_of: Callable[[str], str],
    read: Callable[[TensorHeader, str], torch.Tensor],
) -> None:
    """Put the adapter beside the model's weights, as PEFT does; `parameter_of` gives our name of a weight."""
    import torch

    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError.of("an adapter that is not merged", "train") from error
    pairs = {parameter_of(name).removesuffix(".weight"): pair for name, pair in adapter.pairs.items()}
    ranks = {module: pair.down.shape[0] for module, pair in pairs.items()}
    rank = next(iter(ranks.values()))
    # Named one by one: names like q_proj alone would be found in the vision tower as well.
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern={module: own for module, own in ranks.items() if own != rank},
        lora_dropout=adapter.config.get("lora_dropout", 0.0),
        target_modules=list(pairs),
    )
    was_training = model.training
    model.add_adapter(config)
    model.train(was_training)  # the new layers' dropout follows the model
    with torch.no_grad():
        for module, pair in pairs.items():
            layer = model.get_submodule(module)
            layer.lora_A["default"].weight.copy_(read(pair.down, pair.down.name))
            layer.lora_B["default"].weight.copy_(read(pair.up, pair.up.name))
            layer.scaling["default"] = pair.scale
        seconds = [model.get_submodule(module).lora_B["default"].weight for module in pairs]
    if not any(bool(second.any()) for second in seconds):
        raise CheckpointError(
            f"the adapter in {adapter.folder} changes nothing: all {len(seconds)} second halves (lora_B) are "
            "zero; it was saved before it was trained, or with the wrong tensors"
        )
