"""Questions about places: left, right, above or below another thing, or in the picture.

A place is asked for only where it differs by a clear margin.
"""

import random

from beholder.mini.asking import Question, called, sentence, some_unique, yes_no
from beholder.mini.naming import ANYTHING_EN, ANYTHING_ZH, MARGIN, Description, Language, choose, unique
from beholder.mini.phrasings import phrase
from beholder.mini.scenes import Scene, Thing

SIDES_EN: dict[str, tuple[str, ...]] = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right of"),
    "above": ("above", "above", "higher than"),
    "below": ("below", "below", "under", "lower than", "beneath"),
}
SIDES_ZH: dict[str, tuple[str, ...]] = {
    "left": ("左边", "左边", "左侧", "左面"),
    "right": ("右边", "右边", "右侧", "右面"),
    "above": ("上面", "上面", "上方", "上边"),
    "below": ("下面", "下面", "下方", "下边"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def side_of(one: Thing, other: Thing, across: bool, scene: Scene) -> str | None:
    """Where one thing lies from another along one axis; None where the margin is too small to tell."""
    gap = (one.x - other.x) / scene.width if across else (one.y - other.y) / scene.height
    if abs(gap) < MARGIN:
        return None
    return ("left" if gap < 0 else "right") if across else ("above" if gap < 0 else "below")


def ask_relation(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """Left, right, above or below: of another thing, or in the picture."""
    if len(scene.things) < 2 or rng.random() < 0.15:
        return ask_half(scene, language, rng)
    pairs = [(a, b) for a in scene.things for b in scene.things if a is not b]
    for one, other in rng.sample(pairs, min(8, len(pairs))):
        across = rng.random() < 0.5
        side = side_of(one, other, across, scene)
        names = unique(scene, one, rng), unique(scene, other, rng)
        if not side or not names[0] or not names[1] or names[0].edge or names[1].edge:
            continue
        slots = {"one": called(names[0], language, rng), "other": called(names[1], language, rng)}
        form = rng.random()
        if form < 0.45:
            return ask_whether_side(side, slots, language, rng)
        if form < 0.72:
            return ask_which_side(side, slots, language, rng)
        others = [side_of(thing, other, across, scene) for thing in scene.things if thing not in (one, other)]
        if side not in others and None not in others:
            return ask_neighbour(scene, one, side, slots, language, rng)
        return ask_which_side(side, slots, language, rng)
    return None


def ask_whether_side(side: str, slots: dict[str, str], language: Language, rng: random.Random) -> Question:
    """Is one left of the other?"""
    yes = rng.random() < 0.5
    claim = side if yes else OPPOSITE[side]
    slots["side"] = rng.choice((SIDES_EN if language == "en" else SIDES_ZH)[claim])
    question = phrase("relation", language, rng, **slots)
    return Question("relation", language, question, yes_no(language, yes), {"yes": yes})


def ask_which_side(side: str, slots: dict[str, str], language: Language, rng: random.Random) -> Question:
    """Is one above or below the other?"""
    pair = rng.sample((side, OPPOSITE[side]), 2)
    words = SIDES_EN if language == "en" else SIDES_ZH
    place = rng.randrange(2)
    for name, value in zip(("first", "second"), pair, strict=True):
        slots[name] = words[value][place]
        slots[f"{name}_short"] = {"left": "to the left", "right": "to the right"}.get(value, value)
    answer = sentence(side) if language == "en" else SIDES_ZH[side][0] + "。"
    question = phrase("choice", language, rng, **slots)
    return Question("relation", language, question, answer, {"side": side})


def ask_neighbour(
    scene: Scene, one: Thing, side: str, slots: dict[str, str], language: Language, rng: random.Random
) -> Question:
    """What is left of the other? Only asked where exactly one thing is."""
    slots["side"] = rng.choice((SIDES_EN if language == "en" else SIDES_ZH)[side])
    slots["thing"] = choose(ANYTHING_EN if language == "en" else ANYTHING_ZH, rng)
    name = called(Description.of(one, ("colour", "shape")), language)
    answer = sentence(f"the {name}") if language == "en" else name + "。"
    question = phrase("neighbour", language, rng, **slots)
    return Question("relation", language, question, answer, {"colour": one.colour, "shape": one.shape})


def ask_half(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """Is the thing on the left or on the right of the picture?"""
    if not (found := some_unique(scene, rng)) or found[1].edge:
        return None
    thing, description = found
    across = rng.random() < 0.5
    gap = thing.x / scene.width - 0.5 if across else thing.y / scene.height - 0.5
    if abs(gap) < MARGIN:
        return None
    wordings = "half" if across else "half_down"
    side = ("left" if gap < 0 else "right") if across else ("top" if gap < 0 else "bottom")
    word = {"left": "左边", "right": "右边", "top": "上面", "bottom": "下面"}[side]
    question = phrase(wordings, language, rng, one=called(description, language, rng))
    return Question(
        "relation", language, question, sentence(side) if language == "en" else word + "。", {"side": side}
    )
