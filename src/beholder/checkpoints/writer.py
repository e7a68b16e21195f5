"""Rewrites a checkpoint from one layout to the other, bit for bit, one tensor at a time.

Going to our layout, the published `config.json` and the headers of the published files are kept beside the
weights; going back they are used again, so that the files come out as they were, byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from beholder.checkpoints.beside import copy_other_files, take_from_base, write_other_files
from beholder.checkpoints.kept import (
    COMPUTED,
    KEPT_CONFIG,
    KEPT_LAYOUT,
    KEPT_TENSORS,
    as_written,
    describe_files,
    describe_pickled,
    keep_dropped,
    kept_layout,
    kept_pickles,
    published_config,
)
from beholder.checkpoints.loader import check
from beholder.checkpoints.narrow import Choice
from beholder.checkpoints.narrow_writer import write_narrow
from beholder.checkpoints.new_folder import confirm_new, new_folder
from beholder.checkpoints.planning import ModelFamily, Plan, SameNames
from beholder.checkpoints.reader import Contents, has_weights
from beholder.checkpoints.splits import (
    Pieces,
    Stretch,
    TableWithSplits,
    apart,
    targets,
    with_rows,
)
from beholder.checkpoints.streams import fingerprint
from beholder.checkpoints.weight_files import write_kept, write_like_source, write_pickles
from beholder.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from beholder.checkpoints.calibrated import Stored

LAYOUTS = ("published", "ours")


class PublishedFamily(ModelFamily, Protocol):
    """A family that can also write its published configuration."""

    @property
    def config_to_published(self) -> Callable[[Any], dict[str, Any]]:
        """From our configuration to the published config.json."""
        ...


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    target: Path
    layout: str
    tensors: int
    files: tuple[str, ...]
    dropped: tuple[str, ...]
    is_identical: bool  # published files made from kept headers: byte for byte those of the original
    map: dict[str, tuple[str, ...]]  # every tensor that was written, and the stored ones that it is made of
    checksum: str  # of the parameters: the same in every layout


def convert(
    source: Path,
    target: Path,
    family: PublishedFamily,
    to: str,
    *,
    base: str | Path | None = None,
    allow_loss: bool = False,
    quantize: Choice | None = None,
    fitted: Mapping[str, Stored] | None = None,
) -> Conversion:
    """Write `source` to the new folder `target` in the layout `to`; nothing is left behind if it fails.

    An adapter is merged with its `base`, and a tower that lies elsewhere comes along, unless the published
    layout is written: there it stays where it is. What cannot be undone, as merging, needs `allow_loss`.
    With `quantize` our layout is written with the language model's linears in that form; `fitted` are codes
    and scales of some of them that `calibrated` has found.
    """
    plan, contents = confirm_convertible(
        source, target, family, to, base=base, allow_loss=allow_loss, quantize=quantize
    )
    others, may_differ = _other_layouts(family), quantize is not None or bool(_losses(contents, plan))
    with new_folder(target) as partial:
        if to == "published":
            done = _to_published(contents, plan, family, partial)
        else:
            names = others[to](plan.config) if to in others else SameNames()
            done = _to_ours(contents, plan, family, partial, names, to, quantize, fitted or {})
        copy_other_files(source, partial)
        if contents.base is not None:
            take_from_base(contents.base, partial)
        write_other_files(source, partial, plan, family, to, base)
        wanted, written = check(partial, family)
        done["checksum"] = fingerprint(written, wanted)
        if not may_differ and done["checksum"] != fingerprint(contents, plan):
            raise CheckpointError(f"{target} would not hold the numbers of {source}; nothing was written")
    return Conversion(target=target, **done)


def confirm_convertible(
    source: Path,
    target: Path,
    family: PublishedFamily,
    to: str,
    *,
    base: str | Path | None = None,
    allow_loss: bool = False,
    quantize: Choice | None = None,
) -> tuple[Plan, Contents]:
    """What `convert` would write from, by its headers; ConfigError or CheckpointError where it could not."""
    others = _other_layouts(family)
    if to not in (*LAYOUTS, *others):
        raise ConfigError(f"layout {to!r} is unknown; known: {', '.join((*LAYOUTS, *others))}")
    confirm_new(target)
    if quantize is not None and to != "ours":
        raise ConfigError(f"weights are quantized in our own layout alone, not in {to}; use --to ours")
    plan, contents = check(source, family, base=base)
    if plan.narrow is not None:
        raise ConfigError(
            f"{source} holds weights as {plan.narrow.choice}, which no other layout has; convert the dense "
            "model"
        )
    if plan.layout == to and contents.adapter is None and has_weights(source) and quantize is None:
        raise ConfigError(f"{source} is in the {to} layout already")
    if (losses := _losses(contents, plan)) and not allow_loss:
        raise ConfigError(
            f"{source} cannot be written in the {to} layout without a loss: {'; '.join(losses)}; "
            "allow it with --allow-loss"
        )
    return plan, contents


def _other_layouts(family: PublishedFamily) -> Mapping[str, Callable[[Any], TableWithSplits]]:
    return getattr(family, "other_layouts", {})


def _to_ours(
    contents: Contents, plan: Plan, family: PublishedFamily, folder: Path, names: TableWithSplits, to: str,
    quantize: Choice | None, fitted: Mapping[str, Stored],
) -> dict[str, Any]:  # fmt: skip
    held = {theirs: targets(plan.names, theirs) for theirs in contents.tensors}
    parameters = with_rows(
        apart(held), contents.tensors, {name: plan.wanted[name][0] for name in plan.padded}
    )
    pieces = renamed(parameters, names)
    if quantize is None:
        files = write_like_source(contents, pieces, folder)
    else:
        files, pieces = write_narrow(
            contents, pieces, plan.config, family.model_class(), quantize, folder, fitted
        )
    plan.config.architectures = [family.model_class().__name__]
    plan.config.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
    if quantize is not None:
        pass  # the published files cannot be made again from this
    elif plan.layout == "published" and contents.adapter is None and has_weights(contents.folder):
        shutil.copyfile(contents.folder / "config.json", folder / KEPT_CONFIG)
        own = sorted(name for name, tensor in contents.tensors.items() if not Path(tensor.file).is_absolute())
        kept = (describe_files(contents) if contents.is_safetensors else describe_pickled(contents)) | {
            "config": as_written(plan.config),
            "names": own,
        }
        (folder / KEPT_LAYOUT).write_text(json.dumps(kept), encoding="utf-8")
        if not contents.is_safetensors:
            keep_dropped(contents, [theirs for theirs, parts in held.items() if not parts], folder)
    else:
        for name in (KEPT_CONFIG, KEPT_LAYOUT, KEPT_TENSORS):
            if (contents.folder / name).is_file():
                shutil.copyfile(contents.folder / name, folder / name)
    dropped = tuple(sorted(theirs for theirs, parts in held.items() if not parts))
    return {
        "layout": to,
        "tensors": len(pieces),
        "files": files,
        "dropped": dropped,
        "is_identical": False,
        "map": _map(pieces),
    }


def _losses(contents: Contents, plan: Plan) -> list[str]:
    """What going to another layout would lose for good."""
    losses: list[str] = []
    if contents.adapter is not None:
        losses.append(
            f"the adapter in {contents.adapter.folder} is merged, which rounds and cannot be undone"
        )
    dropped = [name for name in contents.tensors if not targets(plan.names, name)]
    if gone := [name for name in dropped if not name.endswith(COMPUTED)]:
        losses.append(f"{len(gone)} tensors have no place there: {', '.join(gone[:3])}")
    return losses


def _map(pieces: Pieces) -> dict[str, tuple[str, ...]]:
    return {name: tuple(stretch.stored for stretch in made_of) for name, made_of in pieces.items()}


def renamed(parameters: Pieces, names: TableWithSplits) -> dict[str, tuple[Stretch, ...]]:
    """What parameters are made of, as what the tensors of a layout are made of."""
    wholes = dict.fromkeys(names.theirs(parameter) for parameter in parameters)
    return {
        whole: tuple(stretch for parameter in targets(names, whole) for stretch in parameters[parameter])
        for whole in wholes
    }


def _to_published(contents: Contents, plan: Plan, family: PublishedFamily, folder: Path) -> dict[str, Any]:
    published = published_config(contents.folder, plan.config, family)
    (folder / "config.json").write_bytes(published)
    held = {theirs: targets(plan.names, theirs) for theirs in contents.tensors}
    parameters = with_rows(apart(held), contents.tensors, plan.padded)
    pieces = _without_elsewhere(renamed(parameters, family.key_table(plan.config)), contents, plan)
    kept = kept_layout(contents, pieces)
    if (pickles := kept_pickles(contents, pieces)) is not None:
        files = write_pickles(contents, pieces, pickles, folder)
    elif kept is None:
        files = write_like_source(contents, pieces, folder)
    else:
        files = write_kept(contents, pieces, kept, folder)
    return {
        "layout": "published",
        "tensors": len(pieces),
        "files": files,
        "dropped": tuple(sorted(theirs for theirs, parts in held.items() if not parts)),
        "is_identical": kept is not None,
        "map": _map(pieces),
    }


def _without_elsewhere(
    pieces: dict[str, tuple[Stretch, ...]], contents: Contents, plan: Plan
) -> dict[str, tuple[Stretch, ...]]:
    """Without what the published checkpoint did not hold itself: a tower that came from its own folder."""
    path = contents.folder / KEPT_LAYOUT
    names = json.loads(path.read_text(encoding="utf-8")).get("names") if path.is_file() else None
    if names is not None:
        return {name: made_of for name, made_of in pieces.items() if name in names}
    if plan.layout != "published":
        return pieces
    return {
        name: made_of
        for name, made_of in pieces.items()
        if not any(
            ours.startswith(plan.from_base) and Path(contents.tensors[stretch.stored].file).is_absolute()
            for stretch in made_of
            for ours in targets(plan.names, stretch.stored)
        )
    }
