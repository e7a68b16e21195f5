"""Checkpoints of SwissArmyTransformer: one pickled file per model-parallel rank, read as weights only.

A folder holds `latest` (the name of an iteration), `model_config.json`, and in the iteration's folder
`mp_rank_00_model_states.pt` and its fellows, whose tensors stand under `module`. How a tensor is shared among
ranks is a `Cut` that a family's table names; adapters that were trained beside the weights are folded in.
Follows sat/model/base_model.py and sat/mpu/layers.py (THUDM/SwissArmyTransformer 0.4.11).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from beholder.checkpoints.pickles import open_pickled
from beholder.checkpoints.scratch import Scratch
from beholder.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

LATEST = "latest"
CONFIG = "model_config.json"
RANK_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
ADAPTER = re.compile(r"^(?P<layer>.+)\.matrix_(?P<side>[AB])\.(?P<part>\d+)$")
# What an adapted layer calls its own weight.
ORIGINAL = ".original."

# Among ranks a tensor is whole in each, cut by rows, by columns, or by rows of each of its thirds (queries,
# keys and values).
Cut = Literal["whole", "rows", "columns", "thirds"]
Cuts = Callable[[str], Cut]  # of a tensor's name


Hold = Callable[["Tensor"], "Tensor"]  # where a tensor is kept, as `Scratch.hold` does it


def as_is(tensor: Tensor) -> Tensor:
    """Keep it in memory."""
    return tensor


@dataclass(frozen=True)
class SatFolder:
    """An opened folder: its configuration and the tensors of every rank, mapped and not read."""

    config: dict[str, Any]
    ranks: tuple[dict[str, Tensor], ...]


def is_sat(folder: Path) -> bool:
    """Whether a folder is in this layout."""
    return (folder / CONFIG).is_file() and (folder / LATEST).is_file()


def read_sat_config(folder: Path) -> dict[str, Any]:
    """The folder's `model_config.json`."""
    try:
        return cast("dict[str, Any]", json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read ({error})") from error


def open_sat(folder: Path) -> SatFolder:
    """The newest iteration of a folder; every rank must be there."""
    if not is_sat(folder):
        raise CheckpointError(f"{folder} is not a SAT checkpoint: it needs {CONFIG} and {LATEST}")
    config = read_sat_config(folder)
    iteration = folder / (folder / LATEST).read_text(encoding="utf-8").strip()
    found = {int(named[1]): path for path in iteration.glob("*") if (named := RANK_FILE.fullmatch(path.name))}
    if not found or sorted(found) != list(range(len(found))):
        have = ", ".join(str(rank) for rank in sorted(found)) or "none"
        raise CheckpointError(
            f"{iteration} must hold the files of ranks 0, 1, ...; there are those of {have}"
        )
    ranks: list[dict[str, Tensor]] = []
    for _, path in sorted(found.items()):
        stored = open_pickled(path)
        if not isinstance(stored.get("module"), dict):
            raise CheckpointError(f"{path} has no 'module', where a SAT checkpoint keeps its tensors")
        ranks.append(cast("dict[str, Tensor]", stored["module"]))
    if odd := sorted({name for rank in ranks for name in rank.keys() ^ ranks[0].keys()}):
        raise CheckpointError(f"the ranks in {iteration} do not hold the same tensors: {', '.join(odd[:3])}")
    return SatFolder(config, tuple(ranks))


def merged(folder: SatFolder, cuts: Cuts, hold: Hold = as_is) -> dict[str, Tensor]:
    """All tensors whole, adapters folded in and gone; those that had to be made are given to `hold`."""
    ranks = [fold(rank, hold=hold) for rank in folder.ranks]
    if len(ranks) == 1:
        return ranks[0]
    return {name: hold(join(name, [rank[name] for rank in ranks], cuts)) for name in ranks[0]}


def join(name: str, shares: Sequence[Tensor], cuts: Cuts) -> Tensor:
    """The whole tensor of the shares of all ranks."""
    import torch

    if len(shares) == 1:
        return shares[0]
    cut = cuts(name)
    if cut == "columns":
        return torch.cat(list(shares), dim=1)
    if cut == "rows":
        return torch.cat(list(shares))
    if cut == "thirds":
        thirds = [share.chunk(3) for share in shares]
        return torch.cat([third[part] for part in range(3) for third in thirds])
    if not all(share.equal(shares[0]) for share in shares[1:]):
        raise CheckpointError(f"{name} must be the same in every rank and is not")
    return shares[0]


def share(name: str, tensor: Tensor, rank: int, ranks: int, cuts: Cuts) -> Tensor:
    """What one of `ranks` holds of a whole tensor."""
    import torch

    cut = cuts(name)
    parts = {"whole": 1, "rows": ranks, "columns": ranks, "thirds": 3 * ranks}[cut]
    axis = 1 if cut == "columns" else 0
    if tensor.shape[axis] % parts:
        raise ConfigError(f"{name} is {list(tensor.shape)}, which {ranks} ranks cannot share evenly")
    if cut == "whole" or ranks == 1:
        return tensor
    if cut == "thirds":
        return torch.cat([third.chunk(ranks)[rank] for third in tensor.chunk(3)])
    return tensor.chunk(ranks, dim=axis)[rank].contiguous()


def fold(tensors: Mapping[str, Tensor], *, alpha: float = 1.0, hold: Hold = as_is) -> dict[str, Tensor]:
    """Tensors with every adapter added to the weight that it adapts: W + (B A) * alpha / rank.

    The sum is made in float32 and rounded once. Of a fused weight each part has an adapter of its own. The
    shares of one rank fold as a whole does.
    """
    adapters: dict[str, dict[str, dict[int, Tensor]]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (named := ADAPTER.match(name)) is None:
            whole[name.replace(ORIGINAL, ".")] = tensor
        else:
            sides = adapters.setdefault(named["layer"], {"A": {}, "B": {}})
            sides[named["side"]][int(named["part"])] = tensor
    for layer, sides in adapters.items():
        weight = f"{layer}.weight"
        if weight not in whole:
            raise CheckpointError(f"there are adapters of {layer} and no {weight} for them")
        changed = (whole[weight].float() + delta(layer, sides, alpha)).to(whole[weight].dtype)
        whole[weight] = hold(changed)
    return whole


def adapted_layers(tensors: Iterable[str]) -> tuple[str, ...]:
    """The layers that have adapters beside their weights, by the names of all tensors."""
    found = (ADAPTER.match(name) for name in tensors)
    return tuple(dict.fromkeys(named["layer"] for named in found if named is not None))


def delta(layer: str, sides: Mapping[str, Mapping[int, Tensor]], alpha: float = 1.0) -> Tensor:
    """What the adapters of one layer add to its weight, in float32."""
    import torch

    if sides["A"].keys() != sides["B"].keys() or not sides["A"]:
        raise CheckpointError(f"the adapters of {layer} are not pairs of matrix_A and matrix_B")
    added = [
        sides["B"][part].float() @ sides["A"][part].float() * (alpha / sides["A"][part].shape[0])
        for part in sorted(sides["A"])
    ]
    return torch.cat(added)


def write_sat(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, Tensor]],
    cuts: Cuts,
    *,
    ranks: int = 1,
) -> tuple[str, ...]:
    """Write whole tensors as a SAT checkpoint for `ranks` processes; the names of the files.

    The tensors come one after the other and wait on disk, so memory need not hold them all.
    """
    import torch

    if ranks < 1:
        raise ConfigError(f"a checkpoint for {ranks} ranks cannot be written; give 1 or more")
    iteration = folder / "1"
    iteration.mkdir(parents=True)
    (folder / LATEST).write_text("1", encoding="utf-8")
    stated = {**config, "model_parallel_size": ranks}
    (folder / CONFIG).write_text(json.dumps(stated, indent=4) + "\n", encoding="utf-8")
    names = tuple(f"mp_rank_{rank:02}_model_states.pt" for rank in range(ranks))
    with Scratch(folder) as scratch:
        held: list[dict[str, Tensor]] = [{} for _ in names]
        for name, tensor in tensors:
            for rank, shares in enumerate(held):
                shares[name] = scratch.hold(share(name, tensor, rank, ranks, cuts))
        for name, shares in zip(names, held, strict=True):
            torch.save({"module": shares}, iteration / name)
    return names


def unknown_names(names: Iterable[str]) -> CheckpointError:
    """What to say of tensors that no row of a table knows."""
    listed = sorted(names)
    return CheckpointError(f"{len(listed)} tensors are unknown to the SAT layout: {', '.join(listed[:3])}")
