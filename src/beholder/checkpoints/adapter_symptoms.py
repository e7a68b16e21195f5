"""What `doctor` says of folders that hold an adapter and no model: our training's, and PEFT's alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from beholder.checkpoints.adapter_folder import BESIDE, CONFIG, MARKS, WEIGHTS, base_of, is_adapter_folder
from beholder.checkpoints.findings import Finding, some
from beholder.checkpoints.lora import read_settings
from beholder.checkpoints.planning import ModelFamily, plan
from beholder.checkpoints.reader import read_file
from beholder.checkpoints.remains import FETCH
from beholder.core.errors import BeholderError

INSIDE = "base_model.model."


def holds_adapter_alone(folder: Path) -> bool:
    """Whether a folder has an adapter's settings or its story and no `config.json`."""
    return is_adapter_folder(folder) or (
        (folder / CONFIG).is_file() and not (folder / "config.json").is_file()
    )


def look_at_adapter(
    folder: Path,
    identify: Callable[[Path], ModelFamily],
    base: str | Path | None,
    find: Callable[[str | Path], Path],
) -> Iterator[Finding]:
    """What is wrong with such a folder; nothing where `load` would open it. `find` gives a model's folder."""
    if not is_adapter_folder(folder):
        yield Finding(
            f"this is an adapter as PEFT alone saves it, of the base model {_named_base(folder)}; it is not "
            "opened as it is: no config.json says which pictures and prompts it was trained with",
            "take config.json (and non_lora_trainables.bin) from its training; or open the base model with "
            "beholder.load and put it on with .model.load_adapter(FOLDER)",
        )
        return
    if absent := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        yield Finding(f"{' and '.join(absent)} of the adapter are missing", FETCH)
        return
    try:
        place = find(base_of(folder, base))
        wanted = plan(place, identify(place)).wanted
    except BeholderError as error:
        yield Finding(
            str(error), "name the model that the adapter was trained on: --base FOLDER (or a hub id)"
        )
        return
    yield from _misfits(folder, wanted, place)


def _misfits(folder: Path, wanted: dict[str, tuple[int, ...]], base: Path) -> Iterator[Finding]:
    wrong: list[str] = []
    try:
        for name, header in read_file(folder / WEIGHTS).items():
            mark = next((mark for mark in MARKS if mark in f"{name}."), None)
            shape = wanted.get(f"{name.removeprefix(INSIDE).split(mark)[0]}.weight") if mark else None
            if shape is None or not _fits(mark or "", header.shape, shape):
                wrong.append(name)
        if (folder / BESIDE).is_file():
            stored = read_file(folder / BESIDE)
            wrong += [name for name, header in stored.items() if wanted.get(name) != header.shape]
    except BeholderError as error:
        yield Finding(str(error), FETCH)
        return
    if wrong:
        yield Finding(
            f"{len(wrong)} tensors of the adapter have no place in {base}: {some(wrong)}",
            "give the model that the adapter was trained on with --base",
        )


def _fits(mark: str, half: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether one half of a pair is as wide as the weight that it changes."""
    if "lora_A" in mark:
        return len(half) == 2 and half[1] == weight[1]
    if "lora_B" in mark:
        return len(half) == 2 and half[0] == weight[0]
    return True


def _named_base(folder: Path) -> str:
    try:
        return str(read_settings(folder).get("base_model_name_or_path") or "(its settings name none)")
    except BeholderError as error:
        return f"({error})"
