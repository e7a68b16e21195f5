"""From SAT folders of CogVLM to the published layout, back, and from some ranks to others.

Every way tells what each tensor was made of and the checksum of the parameters, which is that of every other
layout; a step that cannot be undone is refused unless it is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beholder.checkpoints.beside import copy_tokenizer
from beholder.checkpoints.loader import check
from beholder.checkpoints.new_folder import new_folder
from beholder.checkpoints.planning import Plan
from beholder.checkpoints.reader import Contents, read_contents
from beholder.checkpoints.sat import (
    Hold,
    adapted_layers,
    as_is,
    merged,
    open_sat,
    unknown_names,
    write_sat,
)
from beholder.checkpoints.scratch import Scratch
from beholder.checkpoints.splits import apart, targets, whole_shape, with_rows
from beholder.checkpoints.streams import digest_of, fingerprint, tensor_of
from beholder.checkpoints.writer import Conversion, renamed
from beholder.core.errors import CheckpointError, ConfigError
from beholder.families import family
from beholder.families.cogvlm.config import CogVLMConfig, TemplateName
from beholder.families.cogvlm.layout import PUBLISHED
from beholder.families.cogvlm.sat import SAT, config_from_sat, config_to_sat, cuts_of, template_of

SHARD = "2GB"  # a file of the published layout is put together in memory
# Settings of a configuration that say nothing about the model.
ABOUT_SAVING = {
    "_name_or_path", "architectures", "dtype", "initializer_range", "transformers_version", "use_cache",
}  # fmt: skip


def published_tensors(folder: Path, hold: Hold = as_is) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration of a SAT folder, and its tensors whole, folded, and under their published names."""
    opened = open_sat(folder)
    tensors: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in merged(opened, cuts_of(opened.config.get("vocab_size", 0)), hold).items():
        try:
            published = SAT.ours(name)
        except KeyError:
            unknown.append(name)
            continue
        if published is not None:
            tensors[published] = tensor
    if unknown:
        raise unknown_names(unknown)
    return opened.config, tensors


def from_sat(
    source: Path, target: Path, *, template: TemplateName | None = None, allow_loss: bool = False
) -> Conversion:
    """Write a SAT checkpoint, of any number of ranks, as a published one; nothing is left where it fails.

    `template` is what the checkpoint was trained for where its model_config.json does not say it: chat, vqa,
    or base (also for grounding).
    """
    from huggingface_hub import save_torch_state_dict

    dropped = _confirm_folding(source, allow_loss)
    with new_folder(target) as partial, Scratch(partial) as scratch:
        stored, tensors = published_tensors(source, scratch.hold)
        config = config_from_sat(stored, template_of(stored, template))
        _compare(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
        config.dtype = tensors["lm_head.weight"].dtype
        text = json.dumps(config.to_published(), indent=2, ensure_ascii=False) + "\n"
        (partial / "config.json").write_text(text, encoding="utf-8")
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_torch_state_dict(whole, partial, max_shard_size=SHARD)
        copy_tokenizer(source, partial)
        plan, written = check(partial, family("cogvlm"))
        checksum = fingerprint(written, plan)
        if checksum != digest_of(_parameters(tensors)):
            raise CheckpointError(f"{target} would not hold the numbers of {source}; nothing was written")
    return Conversion(
        target=target, layout="published", tensors=len(tensors), files=read_contents(target).files,
        dropped=dropped, is_identical=False, map={name: (SAT.theirs(name),) for name in tensors},
        checksum=checksum,
    )  # fmt: skip


def to_sat(source: Path, target: Path, *, ranks: int = 1, allow_loss: bool = False) -> Conversion:
    """Write a checkpoint of the published or our layout as SAT's, for `ranks` processes."""
    plan, contents = check(source, family("cogvlm"))
    config: Any = plan.config
    _confirm_settings(config, source, allow_loss)
    checksum = fingerprint(contents, plan)
    pieces = _pieces(contents, plan)
    tensors = ((SAT.theirs(name), tensor_of(contents, made_of, name)) for name, made_of in pieces.items())
    files = _write(source, target, config, config_to_sat(config), tensors, ranks, checksum)
    return Conversion(
        target=target, layout="sat", tensors=len(pieces), files=files,
        dropped=tuple(sorted(name for name in contents.tensors if not targets(plan.names, name))),
        is_identical=False, checksum=checksum,
        map={SAT.theirs(name): tuple(one.stored for one in made_of) for name, made_of in pieces.items()},
    )  # fmt: skip


def reshare(source: Path, target: Path, *, ranks: int = 1, allow_loss: bool = False) -> Conversion:
    """Write a SAT checkpoint for another number of processes."""
    dropped = _confirm_folding(source, allow_loss)
    target.parent.mkdir(parents=True, exist_ok=True)
    with Scratch(target.parent) as scratch:
        stored, tensors = published_tensors(source, scratch.hold)
        config = config_from_sat(stored, "chat")
        _compare(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
        checksum = digest_of(_parameters(tensors))
        whole = ((SAT.theirs(name), tensor) for name, tensor in tensors.items())
        files = _write(source, target, config, stored, whole, ranks, checksum)
    return Conversion(
        target=target, layout="sat", tensors=len(tensors), files=files, dropped=dropped, is_identical=False,
        map={name: (name,) for name in map(SAT.theirs, tensors)}, checksum=checksum,
    )  # fmt: skip


def _write(
    source: Path,
    target: Path,
    config: CogVLMConfig,
    stored: Mapping[str, Any],
    tensors: Iterable[tuple[str, Tensor]],
    ranks: int,
    checksum: str,
) -> tuple[str, ...]:
    """The rank files, read again to see that they hold what they should."""
    heads = (config.text_config.num_attention_heads, config.vision_config.num_attention_heads)
    if ranks < 1 or any(count % ranks for count in heads):
        raise ConfigError(f"{heads[0]} and {heads[1]} heads cannot be shared among {ranks} ranks evenly")
    with new_folder(target) as partial:
        files = write_sat(partial, stored, tensors, cuts_of(config.text_config.vocab_size), ranks=ranks)
        copy_tokenizer(source, partial)
        with Scratch(partial) as scratch:
            _, written = published_tensors(partial, scratch.hold)
            if digest_of(_parameters(written)) != checksum:
                raise CheckpointError(f"{target} would not hold the numbers of {source}; nothing was written")
    return files


def _confirm_folding(source: Path, allow_loss: bool) -> tuple[str, ...]:
    """Adapters can be folded in and not taken out again; the tensors that no other layout has."""
    rank = open_sat(source).ranks[0]
    if (adapted := adapted_layers(rank)) and not allow_loss:
        raise ConfigError(
            f"{source} would lose something: the adapters of {len(adapted)} layers are folded in, "
            "which rounds and cannot be undone; allow it with --allow-loss"
        )
    return tuple(name for name in rank if name.endswith("inv_freq"))


def _confirm_settings(config: Any, source: Path, allow_loss: bool) -> None:
    """Every setting must come back from a `model_config.json`, or it would be lost."""
    again = config_from_sat(config_to_sat(config), config.template)
    lost = sorted(set(_differences(config.to_dict(), again.to_dict())))
    if lost and not allow_loss:
        raise ConfigError(
            f"{source} cannot be written in the sat layout without a loss: model_config.json has no place "
            f"for {', '.join(lost)}; allow it with --allow-loss"
        )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], within: str = "") -> Iterator[str]:
    for key in (one.keys() | other.keys()) - ABOUT_SAVING:
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(mine, theirs, f"{within}{key}.")  # pyright: ignore[reportUnknownArgumentType]
        elif mine != theirs:
            yield within + key


def _parameters(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Published tensors as the parameters of our model, by name."""
    found: dict[str, tuple[Tensor, int, int]] = {}
    for name, tensor in tensors.items():
        parts = targets(PUBLISHED, name)
        found |= {part: (tensor, number, len(parts)) for number, part in enumerate(parts)}
    for part in sorted(found):
        tensor, number, count = found[part]
        yield part, tensor if count == 1 else tensor.chunk(count)[number]


def _pieces(contents: Contents, plan: Plan) -> Mapping[str, Any]:
    """The model's tensors under their published names, and what they are made of."""
    held = {stored: targets(plan.names, stored) for stored in contents.tensors}
    parameters = with_rows(apart(held), contents.tensors, plan.padded)
    return renamed(parameters, PUBLISHED)


def _compare(config: CogVLMConfig, have: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """The tensors must be those of the model that the configuration describes."""
    with torch.device("meta"):
        model = family("cogvlm").model_class()(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = dict.fromkeys(PUBLISHED.theirs(name) for name in wanted)
    shapes = {name: whole_shape([wanted[part] for part in targets(PUBLISHED, name)]) for name in names}
    wrong = sorted(name for name in shapes.keys() | have.keys() if shapes.get(name) != have.get(name))
    if wrong:
        first = wrong[0]
        raise CheckpointError(
            f"{source} does not fit its model_config.json: {len(wrong)} tensors, first {first} "
            f"(stored {have.get(first)}, wanted {shapes.get(first)})"
        )
