"""What all subjects learn from and are asked about: drawn scenes, made square, one question to a row.

Square, because the systems bring pictures into a square in different ways (padded, stretched), which is not
what is compared; one question to a row, because CogVLM trains the last answer of a conversation alone. Each
scene is described with places, too: of an answer in two tokens nobody learns where to look. The language
model that all begin from reads the same scenes as texts: the description, then questions and answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from beholder.core.errors import ConfigError
from beholder.mini.dataset import Plan, write
from beholder.mini.fonts import FontBook
from beholder.mini.questions import Question, described
from beholder.mini.shards import write_json
from beholder.mini.worlds import scene_at, stream
from beholder.training.data import MARKER

SQUARE = 192  # pixels: twice what a tower sees of one view
SCENES, ROWS, PICTURES, QUESTIONS = "scenes", "rows.json", "pictures.json", "questions.json"
TEXTS, CAPTIONS = "texts.json", "captions.json"
OPENING = "Scene:"


def prepare(folder: Path, plan: Plan, fonts: Path | None = None) -> Path:
    """Draw the plan's scenes and make them square, unless they are there; returns the squares' folder."""
    done = folder / "square"
    if (done / "settings.json").is_file():
        if json.loads((done / "settings.json").read_text("utf-8")) != settings_of(plan, fonts):
            raise ConfigError(f"{done} holds scenes of other settings; give another folder or delete it")
        return done
    book = FontBook.scan(fonts)
    write(folder / SCENES, plan, book)
    rows: list[dict[str, Any]] = json.loads((folder / SCENES / "conversations.json").read_text("utf-8"))
    sizes = {row["image"]: squared(folder / SCENES / row["image"], done / row["image"]) for row in rows}
    write_json(done / PICTURES, rows)
    write_json(done / ROWS, [single for row in rows for single in single_turns(row)])
    if plan.split != "train":
        asked = json.loads((folder / SCENES / QUESTIONS).read_text("utf-8"))
        write_json(done / QUESTIONS, [on_square(row, sizes[row["image"]]) for row in asked])
    elif not plan.crowded:  # nothing is said about sheets
        told = [told_of(number, plan, book) for number in range(len(rows))]
        write_json(done / TEXTS, [as_text(*pair) for pair in zip(rows, told, strict=True)])
        write_json(done / CAPTIONS, [as_caption(*pair) for pair in zip(rows, told, strict=True)])
    write_json(done / "settings.json", settings_of(plan, fonts))
    return done


def settings_of(plan: Plan, fonts: Path | None) -> dict[str, Any]:
    """What the pictures depend on."""
    return {**vars(plan), "square": SQUARE, "typefaces": "built-in" if fonts is None else fonts.name}


def squared(source: Path, target: Path) -> tuple[int, int]:
    """Write the picture stretched to a square; returns its size before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as picture:
        size = picture.size
        square = picture.convert("RGB").resize((SQUARE, SQUARE), Image.Resampling.BICUBIC)
    partial = target.with_name(f"{target.name}.partial")
    options: dict[str, Any] = {"format": "PNG", "compress_level": 3}
    if target.suffix == ".jpg":
        options = {"format": "JPEG", "quality": 92}
    square.save(partial, **options)
    os.replace(partial, target)
    return size


def single_turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Each question of a conversation as a row of its own, with the picture before it."""
    return [
        single_turn(row, str(number), asked, answer) for number, (asked, answer) in enumerate(asked_in(row))
    ]


def single_turn(row: dict[str, Any], name: str, asked: str, answer: str) -> dict[str, Any]:
    """A row about the picture of `row` with one question."""
    turns = [{"from": "human", "value": f"{MARKER}\n{asked}"}, {"from": "gpt", "value": answer}]
    return {"id": f"{row['id']}/{name}", "image": row["image"], "conversations": turns}


def asked_in(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each question of a conversation, without the mark of the picture, and its answer."""
    turns: Sequence[dict[str, str]] = row["conversations"]
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        yield question["value"].replace(f"{MARKER}\n", ""), answer["value"]


def told_of(number: int, plan: Plan, book: FontBook) -> Question:
    """The description with places of a plan's scene, and a request for it."""
    index = plan.start + number
    scene = scene_at(plan.seed, plan.split, index, book)
    return described(scene, stream(plan.seed, plan.split, index, "text"), plan.language)


def as_caption(row: dict[str, Any], told: Question) -> dict[str, Any]:
    """The description as an answer about the row's picture."""
    return single_turn(row, "caption", told.question, told.answer)


def as_text(row: dict[str, Any], told: Question) -> dict[str, Any]:
    """A scene without its picture: what is where, and each question of the row with its answer."""
    text = "\n".join([told.answer, *(f"{asked} {answer}" for asked, answer in asked_in(row))])
    turns = [{"from": "human", "value": OPENING}, {"from": "gpt", "value": text}]
    return {"id": f"{row['id']}/text", "conversations": turns}


def on_square(row: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A question of the benchmark about the stretched picture: true boxes are in its pixels."""
    width, height = size
    truth = dict(row["truth"])
    if "box" in truth:
        x1, y1, x2, y2 = truth["box"]
        across, down = SQUARE / width, SQUARE / height
        truth["box"] = [x1 * across, y1 * down, x2 * across, y2 * down]
    return row | {"width": SQUARE, "height": SQUARE, "truth": truth}
