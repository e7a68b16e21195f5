"""`beholder convert`: the same weights in another layout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli import options

if TYPE_CHECKING:
    from beholder.checkpoints.calibrated import Stored
    from beholder.checkpoints.narrow import Choice
    from beholder.checkpoints.writer import Conversion

PART_WORDS = 2  # of a tensor's name: `model.layers`, `model.vision_tower`


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A folder or hub id.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A new folder.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="published, ours (parameters named as transformers names them), llava-hf, or sat (CogVLM).",
        ),
    ],
    ranks: Annotated[int, typer.Option("--ranks", help="To sat: for how many processes.")] = 1,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            help="From sat: what it was trained for, chat, vqa or base; left out, as its files say, or chat.",
            show_default=False,
        ),
    ] = None,
    base: options.Base = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            help="To ours: the language model's linears as int8 or int4, which cannot be undone.",
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        int, typer.Option("--group", help="Weights that share a scale in int4: 32, 64 or 128.")
    ] = 64,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="ROWS",
            help="With int4: conversations that the dense model reads, to fit the weights to.",
            show_default=False,
        ),
    ] = None,
    allow_loss: Annotated[
        bool,
        typer.Option("--allow-loss", help="Also where it cannot be undone, as when an adapter is merged."),
    ] = False,
    show_map: Annotated[
        bool, typer.Option("--map", "--verbose", help="The map tensor by tensor, not part by part.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Rewrite a checkpoint in another layout, bit for bit. A whole model never has to fit into memory."""
    from beholder.api import checkpoint_folder
    from beholder.checkpoints.narrow import Choice
    from beholder.checkpoints.sat import is_sat
    from beholder.checkpoints.writer import confirm_convertible
    from beholder.checkpoints.writer import convert as rewrite
    from beholder.core.errors import ConfigError
    from beholder.families import identify_folder

    choice = None if quantize is None else Choice(quantize, group)
    if choice is not None:
        from beholder.generation.native.narrowing import install

        install()
    folder = checkpoint_folder(source)
    if calibrate is not None and (choice is None or choice.weights != "int4"):
        form = "as they are" if quantize is None else f"in {quantize}"
        raise ConfigError(f"weights are calibrated in int4 alone, not {form}; use --quantize int4")
    if to == "sat" or is_sat(folder):
        if choice is not None:
            raise ConfigError(f"weights are quantized in our own layout alone; convert {folder} to published "
                              "first, and that --to ours --quantize")  # fmt: skip
        done = _convert_sat(folder, target, to, ranks, template, allow_loss)
    else:
        family, fitted = identify_folder(folder), None
        if calibrate is not None and choice is not None:
            # Said before the model reads for hours.
            confirm_convertible(folder, target, family, to, base=base, allow_loss=allow_loss, quantize=choice)
            fitted = _fitted(folder, calibrate, choice, base)
        done = rewrite(folder, target, family, to, base=base, allow_loss=allow_loss,
                       quantize=choice, fitted=fitted)  # fmt: skip
    if as_json:
        told = {**asdict(done), "target": str(done.target)}
        if not show_map:
            del told["map"]
        print(json.dumps(told, ensure_ascii=False))
        return
    print(f"{done.target}: {done.layout} layout, {done.tensors} tensors in {', '.join(done.files)}")
    same = "" if choice is not None else ", in every layout the same"
    print(f"checksum of the parameters{same}: {done.checksum}")
    print("\n".join(by_tensor(done.map) if show_map else by_part(done.map)))
    if done.is_identical:
        print("the files are those that were published, byte for byte")
    for line in by_role(done.dropped):
        print(f"not carried over: {line}")


def _fitted(folder: Path, rows: Path, choice: Choice, base: str | None) -> dict[str, Stored]:
    """Codes and scales for the inputs that the dense model gets from rows of conversations."""
    from beholder.api import open_processor
    from beholder.checkpoints.calibrated import calibrated
    from beholder.checkpoints.loader import open_model
    from beholder.families import identify_folder
    from beholder.training.calibration import CalibrationRows

    family = identify_folder(folder)
    samples = CalibrationRows(rows, open_processor(folder, family, base))
    return calibrated(open_model(folder, family, device="cpu", base=base), samples, choice)


def by_tensor(made: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One line for each tensor that was written."""
    return [f"{' + '.join(made_of)} -> {name}" for name, made_of in made.items()]


def by_part(made: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One line for each part of the model and the part it was made of, with the number of its tensors.

    Parts are told by the first words of a name; the numbers of all lines add up to all tensors.
    """
    parts: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for name, made_of in made.items():
        sources = dict.fromkeys(_part(source) for source in made_of)
        parts.setdefault((_part(name), *sources), []).append(name)
    return [_part_line(names, made) for names in parts.values()]


def _part(name: str) -> tuple[str, ...]:
    """The words that tell a part; all layers are one."""
    return tuple(takewhile(lambda word: not word.isdigit(), name.split(".")[:PART_WORDS]))


def _part_line(names: list[str], made: Mapping[str, tuple[str, ...]]) -> str:
    """What all its tensors are called, and how many were written of how many that were read."""
    sources = list(dict.fromkeys(source for name in names for source in made[name]))
    count = f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
    if sources and len(sources) != len(names):
        count += f" made of {len(sources)}"
    sides = [_pattern(side) for side in (sources, names) if side]
    return f"{' -> '.join(sides)}  ({count})"


def _pattern(names: list[str]) -> str:
    """The words that names begin with alike, and a star for what differs: `model.layers.*`."""
    if len(names) == 1:
        return names[0]
    alike = [
        words[0] for words in takewhile(_is_one, zip(*(name.split(".") for name in names), strict=False))
    ]
    return ".".join([*alike, "*"])


def _is_one(words: tuple[str, ...]) -> bool:
    return len(set(words)) == 1


def by_role(names: Iterable[str]) -> list[str]:
    """One line for the same tensors of all layers, with their number; `{n}` stands for the layer's."""
    from beholder.checkpoints.lora import role_of

    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(role_of(name), []).append(name)
    return [
        named[0] if len(named) == 1 else f"{role}  ({len(named)} tensors)" for role, named in alike.items()
    ]


def _convert_sat(
    folder: Path, target: Path, to: str, ranks: int, template: str | None, allow_loss: bool
) -> Conversion:
    """From a SAT folder to the published layout, or from any folder to one for `ranks` processes."""
    from beholder.checkpoints.sat import is_sat
    from beholder.core.errors import ConfigError
    from beholder.families import identify_folder, identify_sat

    found = identify_sat(folder) if is_sat(folder) else identify_folder(folder)
    if to == "sat":
        if found.to_sat is None:
            raise ConfigError(f"{found.title} has no SAT layout")
        return found.to_sat(folder, target, ranks=ranks, allow_loss=allow_loss)
    if to != "published" or found.from_sat is None:
        raise ConfigError(f"{folder} is a SAT checkpoint; convert it --to published first, then to {to}")
    return found.from_sat(folder, target, template=template, allow_loss=allow_loss)
