"""Example pictures with a question each, drawn when the page is built; the same on every machine."""

from __future__ import annotations

from typing import Any

from beholder.mini.drawing import draw_scene
from beholder.mini.fonts import FontBook
from beholder.mini.naming import Language
from beholder.mini.questions import evaluation_questions
from beholder.mini.worlds import scene_at, stream
from beholder.serving.web.showing import Shelf

SEED = 7
# Kind of question and language; each takes the next scene that allows it.
CHOSEN: tuple[tuple[str, Language], ...] = (
    ("colour", "en"),
    ("where", "en"),
    ("count", "zh"),
    ("describe", "en"),
)


def example_questions(shelf: Shelf) -> list[dict[str, Any]]:
    """Questions with their picture, as the page's text box takes them."""
    fonts = FontBook()
    found: list[dict[str, Any]] = []
    index = 0
    for kind, language in CHOSEN:
        while True:
            scene = scene_at(SEED, "test", index, fonts)
            rng = stream(SEED, "test", index, "questions")
            asked = evaluation_questions(scene, rng, language) if len(scene.things) > 1 else []
            question = next((one for one in asked if one.kind == kind), None)
            index += 1
            if question is not None:
                break
        found.append({"text": question.question, "files": [shelf.put_image(draw_scene(scene, fonts))]})
    return found
