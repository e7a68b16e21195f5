"""`beholder explain`: where in a picture a model looked for each token of its answer, as one page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beholder.cli import options
from beholder.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from beholder.explaining import Explanation


def explain(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A file, a URL, or - for a picture on stdin.")
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the page goes; one file, which loads nothing else.")
    ] = Path("explain.html"),
    model: options.Model = None,
    as_json: options.AsJson = False,
    system: options.System = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens; the page grows with it.")] = 64,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = None,
    base: options.Base = None,
    template: options.Template = None,
    quantize: options.Quantize = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Show where in a picture a model looked for each token of its answer, and how sure it was."""
    sampling = options.check_sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    if not question.strip():
        raise ConfigError("the question is empty; write it after the picture, in quotes")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent} for the page; make it first")
    from beholder.core.types import Message
    from beholder.processing.images import open_picture

    picture = open_picture(sys.stdin.buffer.read() if image == "-" else image)

    from beholder.api import load
    from beholder.explaining import explain as look
    from beholder.explaining import render

    messages = [Message.user(picture, question)]
    if system is not None:
        messages.insert(0, Message.system(system))
    vlm = load(model, device=device, dtype=dtype, **options.origin(base, template, quantize))
    told = look(vlm, messages, **sampling)
    try:
        out.write_text(render(told, vlm.processor.image_processor), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}") from error
    print(f"wrote {out}", file=sys.stderr)
    print(json.dumps(summary(told, out), ensure_ascii=False) if as_json else told.answer.text)


def summary(told: Explanation, page: Path) -> dict[str, Any]:
    """The answer token by token, with what each of them paid to the pictures, over all layers."""
    numbers = range(len(told.pictures))
    return {
        "answer": told.answer.text,
        "page": str(page),
        "tokens": [
            {
                "text": said.text,
                "probability": said.probability,
                "likeliest": said.likeliest,
                "pictures": [told.share(index, number) for number in numbers],
            }
            for index, said in enumerate(told.said)
        ],
        "notes": told.notes,
    }
