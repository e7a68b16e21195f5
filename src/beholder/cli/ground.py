"""`beholder ground`: where in a picture is what a phrase names."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli import options
from beholder.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from beholder.grounding.habits import Grounding

PLACE = "{phrase}"
LEAST_SIDE = 64  # on a smaller picture a label hides what it names


class Export(StrEnum):
    """Files of other programs."""

    coco = "coco"
    csv = "csv"
    labelstudio = "labelstudio"


def ground(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A file, a URL, or - for a picture on stdin.")
    ],
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help="What to find, such as 'red circle'.")],
    model: options.Model = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Where the picture with the boxes goes.", show_default="NAME-boxes.png"
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            help=f"How the model is asked; {PLACE} is the phrase.", show_default="as in the model's training"
        ),
    ] = None,
    labels: Annotated[
        bool | None,
        typer.Option(
            help="Write the phrase at its boxes.", show_default=f"on pictures of at least {LEAST_SIDE} pixels"
        ),
    ] = None,
    font: Annotated[
        Path | None, typer.Option(help="A typeface file for the labels.", show_default=False)
    ] = None,
    export: Annotated[
        Export | None,
        typer.Option(help="Print the boxes as another program's file instead.", show_default=False),
    ] = None,
    as_json: options.AsJson = False,
    base: options.Base = None,
    template: options.Template = None,
    quantize: options.Quantize = None,
    tokenizer: options.Tokenizer = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Find what a phrase names: boxes as x1 y1 x2 y2 in pixels, and the picture with the boxes drawn."""
    if not phrase.strip():
        raise ConfigError("the phrase is empty; write what to find after the picture, in quotes")
    if question is not None and PLACE not in question:
        raise ConfigError(f"--question {question!r} has no {PLACE} where the phrase should stand")
    if export and as_json:
        raise ConfigError("--json and --export print different things; choose one")
    from beholder.processing.images import open_picture

    picture = open_picture(sys.stdin.buffer.read() if image == "-" else image)

    from beholder.api import load

    vlm = load(model, device=device, dtype=dtype, **options.origin(base, template, quantize, tokenizer))
    found = vlm.ground(picture, phrase, question=question)
    if not found.boxes:
        if as_json or export:
            show(picture, found, image, None, export, as_json)
        raise InputError(f"the model gave no box ({found.reason}); it said: {found.answer.text}")
    if found.reason:
        print(f"left out: {found.reason}", file=sys.stderr)
    target = out or Path(f"{Path(image).stem if image != '-' else 'picture'}-boxes.png")
    draw(picture, found, target, min(picture.size) >= LEAST_SIDE if labels is None else labels, font)
    show(picture, found, image, target, export, as_json)


def draw(picture: Image, found: Grounding, target: Path, labels: bool, font: Path | None) -> None:
    """Write the picture with the boxes."""
    from beholder.grounding.draw import draw_boxes

    drawn = draw_boxes(picture, found.boxes, found.labels if labels else (), font)
    try:
        drawn.save(target)
    except (OSError, ValueError) as error:
        raise InputError(f"{target} cannot be written: {error}") from error
    print(f"wrote {target}", file=sys.stderr)


def show(
    picture: Image, found: Grounding, image: str, target: Path | None, export: Export | None, as_json: bool
) -> None:
    """Print the boxes in the form that is asked for; where there is none, an empty list and the reason."""
    if export:
        from beholder.grounding.export import FORMATS, BoxedPicture

        name = "picture" if image == "-" else Path(image).name
        boxed = BoxedPicture(name, *picture.size, found.boxes, found.labels)
        print(FORMATS[export.value]([boxed]), end="")
    elif as_json:
        told = {
            "boxes": [asdict(box) for box in found.boxes],
            "space": "pixels",
            "width": picture.width,
            "height": picture.height,
            "labels": found.labels,
            "text": found.answer.text,
            "reason": found.reason,
            "picture": None if target is None else str(target),
        }
        print(json.dumps(told, ensure_ascii=False))
    else:
        for box in found.boxes:
            print(f"{box.x1:.1f} {box.y1:.1f} {box.x2:.1f} {box.y2:.1f}")
