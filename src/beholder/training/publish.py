"""Puts a trained built-in model where the package looks for it: bfloat16, in the published layout.

`python -m beholder.training.publish runs/mini/instruct/model`
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from beholder import families, mini
from beholder.checkpoints.loader import open_model
from beholder.checkpoints.writer import convert


def publish(trained: Path, out: Path) -> None:
    """Round the weights of a trained folder to bfloat16 and write them to `out`, which must be empty."""
    family = families.identify_folder(trained)
    model = open_model(trained, family, device="cpu", dtype="bfloat16")
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        family.processor_class().from_pretrained(trained).save_pretrained(place)
        convert(Path(place), out, family, "published")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("--out", type=Path, default=mini.FOLDER)
    arguments = parser.parse_args()
    publish(arguments.trained, arguments.out)
