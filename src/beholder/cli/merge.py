"""`beholder merge`: an adapter and its base model become one model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from beholder.cli import options

QUESTION = "What is in the picture, and where?"
SIDE = 96


def merge(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="A folder or hub id.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A new folder.")],
    base: options.Base = None,
    to: Annotated[str, typer.Option("--to", help="The layout that is written, as in convert.")] = "published",
    as_json: options.AsJson = False,
) -> None:
    """Fold an adapter into its base model, and prove that the logits stay the same."""
    from PIL import Image

    from beholder.api import checkpoint_folder
    from beholder.checkpoints.adapter_folder import is_adapter_folder
    from beholder.checkpoints.merge import merge as fold
    from beholder.checkpoints.merge_trained import merge_trained
    from beholder.core.types import Message
    from beholder.families import identify_folder

    folder = checkpoint_folder(adapter)
    ramp = Image.linear_gradient("L").resize((SIDE, SIDE))
    picture = Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180)))
    question = [Message.user(picture, QUESTION)]
    if is_adapter_folder(folder):
        done, proof = merge_trained(
            folder, target, identify_folder, question, base=base, to=to, find=checkpoint_folder
        )
    else:
        done, proof = fold(folder, target, identify_folder(folder), question, base=base, to=to)
    if as_json:
        told = {**asdict(done), "target": str(done.target), "proof": asdict(proof)}
        del told["map"]
        print(json.dumps(told, ensure_ascii=False))
        return
    print(f"{done.target}: {done.layout} layout, {done.tensors} tensors in {', '.join(done.files)}")
    print(
        f"largest difference of logits before and after: {proof.difference:.3g} (largest logit "
        f"{proof.largest:.3g}); same likeliest token at {proof.same_choice} of {proof.positions} positions"
    )
