"""The description of a whole scene, plain or with boxes: one fixed wording, so one right answer."""

import random
from typing import Any

from beholder.mini.asking import Question, box_text
from beholder.mini.naming import Description, Language, with_article
from beholder.mini.phrasings import phrase
from beholder.mini.scenes import Box, Scene


def ask_describe(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """Everything in the picture, from left to right."""
    question = phrase("describe", language, rng)
    return Question("describe", language, question, describe(scene, language), contents(scene))


def ask_describe_with_boxes(scene: Scene, language: Language, rng: random.Random) -> Question:
    """Everything in the picture, from left to right, with boxes."""
    question = phrase("with_boxes", language, rng)
    return Question(
        "describe_boxes", language, question, describe(scene, language, boxes=True), contents(scene)
    )


def contents(scene: Scene) -> dict[str, Any]:
    """The things and texts as data, in the order of the description."""
    things = [
        {"size": t.size, "colour": t.colour, "shape": t.shape, "box": list(t.box)}
        for t in sorted(scene.things, key=lambda t: (t.x, t.y))
    ]
    texts = [{"text": w.text, "box": list(w.box)} for w in sorted(scene.writings, key=lambda w: w.y)]
    return {"things": things, "texts": texts}


def describe(scene: Scene, language: Language, boxes: bool = False) -> str:
    """The one description of a scene: things from left to right, then texts from top to bottom."""

    def place(box: Box) -> str:
        return (" " if language == "en" else "") + box_text([box], scene) if boxes else ""

    ordered = sorted(scene.things, key=lambda t: (t.x, t.y))
    texts = sorted(scene.writings, key=lambda w: w.y)
    if language == "zh":
        named = [Description.of(thing).chinese() + place(thing.box) for thing in ordered]
        told = f"有{len(named)}个物体：{'、'.join(named)}。" if named else "没有物体。"
        return told + "".join(f"写着文字“{writing.text}”{place(writing.box)}。" for writing in texts)
    named = [with_article(Description.of(thing).english()) + place(thing.box) for thing in ordered]
    last = " and ".join(named[-2:])
    counted = "is 1 object" if len(named) == 1 else f"are {len(named)} objects"
    told = f"There {counted}: {', '.join([*named[:-2], last])}." if named else "There are no objects."
    return told + "".join(f' The text "{writing.text}" is written{place(writing.box)}.' for writing in texts)
