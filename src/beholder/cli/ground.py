"""`beholder ground`: where in a picture is what a phrase names."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from beholder.cli import options
from beholder.core.errors import ConfigError, InputError

PLACE = "{phrase}"


def ground(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A file, a URL, or - for a picture on stdin.")
    ],
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help="What to find, such as 'red circle'.")],
    model: options.Model = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the picture with the boxes goes.", show_default="NAME-boxes.png"),
    ] = None,
    question: Annotated[
        str, typer.Option(help=f"How the model is asked; {PLACE} is the phrase.")
    ] = f"What is the bounding box of the {PLACE}?",
    as_json: options.AsJson = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Find what a phrase names: boxes as x1 y1 x2 y2 in pixels, and the picture with the boxes drawn."""
    if not phrase.strip():
        raise ConfigError("the phrase is empty; write what to find after the picture, in quotes")
    if PLACE not in question:
        raise ConfigError(f"--question {question!r} has no {PLACE} where the phrase should stand")
    from beholder.processing.images import open_picture

    picture = open_picture(sys.stdin.buffer.read() if image == "-" else image)

    from beholder.api import load
    from beholder.grounding.draw import draw_boxes

    answer = load(model, device=device, dtype=dtype).ask(picture, question.replace(PLACE, phrase.strip()))
    if not answer.boxes:
        raise InputError(f"the model gave no box; it said: {answer.text}")
    target = out or Path(f"{Path(image).stem if image != '-' else 'picture'}-boxes.png")
    try:
        draw_boxes(picture, answer.boxes).save(target)
    except (OSError, ValueError) as error:
        raise InputError(f"{target} cannot be written: {error}") from error
    print(f"wrote {target}", file=sys.stderr)
    if as_json:
        print(
            json.dumps(
                {"boxes": [asdict(box) for box in answer.boxes], "text": answer.text, "picture": str(target)}
            )
        )
        return
    for box in answer.boxes:
        print(f"{box.x1:.1f} {box.y1:.1f} {box.x2:.1f} {box.y2:.1f}")
