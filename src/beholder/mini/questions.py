"""Whole conversations about a scene, and single questions to measure with, in English and Chinese."""

import random
from collections.abc import Callable

from beholder.mini.asking import (
    Question,
    ask_colour,
    ask_count,
    ask_exists,
    ask_read,
    ask_shape,
    ask_size,
    ask_where,
)
from beholder.mini.describing import ask_describe, ask_describe_with_boxes
from beholder.mini.naming import LANGUAGES, Language
from beholder.mini.relations import ask_relation
from beholder.mini.scenes import Scene

__all__ = ["Maker", "Question", "conversation", "described", "evaluation_questions"]

Maker = Callable[[Scene, Language, random.Random], Question | None]

MAKERS: dict[str, Maker] = {
    "exists": ask_exists,
    "count": ask_count,
    "colour": ask_colour,
    "shape": ask_shape,
    "relation": ask_relation,
    "where": ask_where,
    "read": ask_read,
    "size": ask_size,
    "describe": ask_describe,
    "describe_boxes": ask_describe_with_boxes,
}
WEIGHTS = {
    "exists": 20,
    "count": 14,
    "colour": 13,
    "shape": 13,
    "relation": 14,
    "where": 13,
    "size": 2,
    "describe": 4,
}


def conversation(
    scene: Scene, rng: random.Random, rounds: int = 8, only: Language | None = None
) -> list[Question]:
    """Mixed questions about one scene, mostly in one language, fewer where there is little to ask."""
    language: Language = "en" if rng.random() < 0.65 else "zh"
    mixed = rng.random() < 0.1
    if only is not None:
        language, mixed = only, False
    weights = dict(WEIGHTS)
    weights["read"] = 1 if not scene.writings else 18 if scene.things else 50
    wanted = min(rounds, 3 + 2 * len(scene.things) + 2 * len(scene.writings))
    kinds = rng.choices(list(weights), list(weights.values()), k=3 * wanted)
    if rng.random() < 0.25:
        kinds.insert(0, "describe_boxes")
    most = {"describe": 1, "describe_boxes": 1, "read": max(1, len(scene.writings))}
    questions: dict[str, Question] = {}
    for kind in kinds:
        if len(questions) >= wanted:
            break
        spoken: Language = rng.choice(("en", "zh")) if mixed else language
        if sum(question.kind == kind for question in questions.values()) >= most.get(kind, rounds):
            continue
        if (question := MAKERS[kind](scene, spoken, rng)) and question.question not in questions:
            questions[question.question] = question
    asked = list(questions.values())
    rng.shuffle(asked)
    return asked


def described(scene: Scene, rng: random.Random, only: Language | None = None) -> Question:
    """The scene's description with boxes: every word of it must be read from the picture."""
    return ask_describe_with_boxes(scene, rng.choice(LANGUAGES) if only is None else only, rng)


def evaluation_questions(scene: Scene, rng: random.Random, language: Language = "en") -> list[Question]:
    """One question of every kind that the scene allows; reading only where something is written."""
    asked: list[Question] = []
    for kind, maker in MAKERS.items():
        if kind == "read" and not scene.writings:
            continue
        if question := maker(scene, language, rng):
            asked.append(question)
    return asked
