"""Puts a trained built-in model where the package looks for it: bfloat16, in the published layout.

`python -m beholder.training.publish runs/mini/instruct/model`
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from beholder import families, mini
from beholder.checkpoints.loader import open_model
from beholder.checkpoints.writer import convert


def publish(trained: Path, out: Path) -> None:
    """Round the weights of a trained folder to bfloat16 and write them to `out`, which must be empty."""
    family = families.identify_folder(trained)
    model = open_model(trained, family, device="cpu", dtype="bfloat16")
    processor = family.processor_class().from_pretrained(trained)
    model.generation_config = generation_settings(processor)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        processor.save_pretrained(place)
        convert(Path(place), out, family, "published")


def generation_settings(processor: Any) -> GenerationConfig:
    """What `generate()` ends at without being told: every token that ends an answer here."""
    words = processor.tokenizer
    return GenerationConfig(
        bos_token_id=words.bos_token_id,
        eos_token_id=sorted(processor.terminators),
        pad_token_id=processor.padding_id,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("--out", type=Path, default=mini.FOLDER)
    arguments = parser.parse_args()
    publish(arguments.trained, arguments.out)
