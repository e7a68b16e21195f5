"""The rows of a recipe's sources: files in LLaVA's or OpenAI's form, folders of pictures; their mixture."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from beholder.core.errors import InputError
from beholder.training.data import MARKER
from beholder.training.easing import rows_of
from beholder.training.rows import Chosen
from beholder.training.stages import Recipe, Source

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")

Rows = tuple[Sequence[dict[str, Any]], Path]


def sources_of(recipe: Recipe) -> list[Rows]:
    """Each source's rows, as often as its weight says, and the folder its pictures are in."""
    return [
        (weighted(rows_from(source), source.weight, recipe.seed), source.pictures) for source in recipe.data
    ]


def rows_from(source: Source) -> Sequence[dict[str, Any]]:
    """A source's rows in their order."""
    return list(folder_rows(source)) if source.form == "folder" else rows_of(source)


def folder_rows(source: Source) -> Iterator[dict[str, Any]]:
    """CogVLM's form: a folder of pictures, asked one thing about each.

    The answer is the text file of the picture's name beside it, or else the name up to its first dot
    (FewShotDataset in utils/utils/dataset.py, THUDM/CogVLM, 8bd8be9). Files come in the order of their names.
    """
    if not source.rows.is_dir():
        raise InputError(f"no folder of pictures at {source.rows}")
    if not source.rows.resolve().is_relative_to(source.pictures.resolve()):
        raise InputError(
            f"the folder of pictures {source.rows} is not inside {source.pictures}; with form folder give "
            "the same folder as rows and pictures"
        )
    found = sorted(path for path in source.rows.rglob("*") if path.suffix.lower() in PICTURES)
    if not found:
        raise InputError(f"{source.rows} holds no pictures ({', '.join(PICTURES)})")
    for path in found:
        beside = path.with_suffix(".txt")
        answer = beside.read_text("utf-8").strip() if beside.is_file() else path.name.partition(".")[0]
        name = path.relative_to(source.rows).as_posix()
        yield {
            "id": name,
            "image": path.resolve().relative_to(source.pictures.resolve()).as_posix(),
            "conversations": [
                {"from": "human", "value": f"{MARKER}\n{source.prompt}"},
                {"from": "gpt", "value": answer},
            ],
        }


def weighted(rows: Sequence[dict[str, Any]], weight: float, seed: int) -> Sequence[dict[str, Any]]:
    """All rows as often as the weight's whole part says, and of its fraction a seeded choice, in order."""
    if weight == 1:
        return rows
    whole, fraction = divmod(weight, 1.0)
    count = round(fraction * len(rows))
    chosen = sorted(random.Random(seed).sample(range(len(rows)), count))
    if not (numbers := [*range(len(rows))] * int(whole) + chosen):
        raise InputError(f"a weight of {weight} leaves none of {len(rows)} rows")
    return Chosen(rows, numbers)
