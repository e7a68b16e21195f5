"""Between projectors that have learned to look and a language model that has learned nothing.

`python -m beholder.training.settle MODEL OUT --rows conversations.json --pictures FOLDER` moves the slots of
both projectors so that their mean over some pictures is zero and their size that of a word's embedding, one.
What was the same in every slot says nothing of a picture, and would be most of what the language model hears.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beholder.core.errors import InputError
from beholder.processing.images import open_picture
from beholder.training.data import row_pictures
from beholder.training.rows import read_rows

PICTURES = 128  # enough for a mean that 64 further pictures move by less than a hundredth


def look(processor: Any, rows: Path, folder: Path) -> Tensor:
    """The views of the first pictures, (PICTURES, views, 3, S, S)."""
    names = [name for row in read_rows(rows)[:PICTURES] for name in row_pictures(row)]
    if not names:
        raise InputError(f"{rows} names no pictures in its first {PICTURES} rows")
    views = processor.image_processor.views
    return torch.stack([torch.as_tensor(views(open_picture(folder / name))) for name in names])


@torch.no_grad()
def settle(model: Any, pixels: Tensor) -> None:
    """Fold the shift and the scale into the last layer of each projector."""
    corners, whole = model.model.patch_maps(pixels)
    for projector, features in (
        (model.model.corner_abstractor, corners),
        (model.model.whole_abstractor, whole),
    ):
        slots = projector(features).flatten(0, 1)
        mean = slots.mean(0)
        scale = 1.0 / (slots - mean).pow(2).mean().sqrt()
        last = projector.readout[-1]
        last.weight.mul_(scale)
        last.bias.sub_(mean).mul_(scale)


def main(source: Path, out: Path, rows: Path, pictures: Path) -> None:
    """Open, settle, write."""
    from beholder.checkpoints.loader import open_model
    from beholder.families import identify_folder

    family = identify_folder(source)
    model = open_model(source, family, device="cpu", dtype="float32")
    processor = family.processor_class().from_pretrained(source)
    settle(model, look(processor, rows, pictures))
    model.save_pretrained(out)
    processor.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    arguments = parser.parse_args()
    main(arguments.model, arguments.out, arguments.rows, arguments.pictures)
