"""Single questions about things, colours, counts and texts, each with its right answer.

Nothing is asked whose answer is open to doubt: a thing is named only by a description that fits it alone.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from beholder.mini import colours, shapes
from beholder.mini.naming import COLOURS_ZH, SHAPES_ZH, SIZES_ZH, Description, Language, unique, with_article
from beholder.mini.phrasings import phrase
from beholder.mini.scenes import Box, Scene, Thing, Writing

TEXT: dict[Language, tuple[str, ...]] = {
    "en": ("text", "text", "writing", "word"),
    "zh": ("文字", "文字", "字"),
}
NO_TEXT: dict[Language, str] = {"en": "There is no text.", "zh": "没有文字。"}


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its right answer; `truth` is the same answer as data, for measuring."""

    kind: str
    language: Language
    question: str
    answer: str
    truth: dict[str, Any] = field(default_factory=dict)


def called(description: Description, language: Language, rng: random.Random | None = None) -> str:
    """The noun phrase of a description."""
    return description.english(rng) if language == "en" else description.chinese(rng)


def sentence(word: str) -> str:
    """An English answer of one word or phrase."""
    return word[0].upper() + word[1:] + "."


def yes_no(language: Language, yes: bool, there: bool = False) -> str:
    """Yes or no; Chinese tells "there is" from "it is"."""
    if language == "en":
        return "Yes." if yes else "No."
    return ("有。" if yes else "没有。") if there else ("是。" if yes else "不是。")


def box_text(boxes: Sequence[Box], scene: Scene) -> str:
    """Boxes as `[[x1,y1,x2,y2]]`, three digits each, thousandths of the sides; several parted by `;`."""
    sides = (scene.width, scene.height, scene.width, scene.height)
    inner = (
        ",".join(
            f"{max(0, min(999, math.floor(v / side * 1000))):03d}" for v, side in zip(box, sides, strict=True)
        )
        for box in boxes
    )
    return f"[[{';'.join(inner)}]]"


def some_unique(
    scene: Scene, rng: random.Random, without: tuple[str, ...] = ()
) -> tuple[Thing, Description] | None:
    """Any thing that a description fits alone."""
    for thing in rng.sample(scene.things, len(scene.things)):
        if description := unique(scene, thing, rng, without):
            return thing, description
    return None


def ask_exists(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """Is there such a thing, is there text, is the thing of this colour or shape: yes as often as no."""
    kind = rng.random()
    if kind < 0.12:
        question = phrase("text_exists", language, rng)
        yes = bool(scene.writings)
        return Question("exists", language, question, yes_no(language, yes, there=True), {"yes": yes})
    if kind < 0.3 and scene.things:
        return ask_whether_is(scene, language, rng)
    yes = bool(scene.things) and rng.random() < 0.54
    description = present(scene, rng) if yes else absent(scene, rng)
    slots = {"one": called(description, language, rng)}
    if language == "en":
        slots |= {"a": with_article(slots["one"]), "many": description.english(rng, plural=True)}
    question = phrase("exists", language, rng, **slots)
    return Question("exists", language, question, yes_no(language, yes, there=True), {"yes": yes})


def present(scene: Scene, rng: random.Random) -> Description:
    """A description of at least one thing."""
    attributes = rng.choice(
        (("colour", "shape"), ("colour", "shape"), ("shape",), ("shape",), ("colour",), ("size", "shape"))
    )
    return Description.of(rng.choice(scene.things), attributes)


def absent(scene: Scene, rng: random.Random) -> Description:
    """A description of nothing in the scene, preferably close to something that is there."""
    for _ in range(30):
        colour, shape = rng.choice(colours.NAMES), rng.choice(shapes.NAMES)
        form = rng.random()
        if scene.things and form < 0.5:
            # Right colour with wrong shape, or the other way round; both may be there on different things.
            first, second = rng.choice(scene.things), rng.choice(scene.things)
            near = rng.random()
            if near < 0.4:
                colour, shape = first.colour, second.shape
            elif near < 0.7:
                colour = first.colour
            else:
                shape = first.shape
            description = Description(colour=colour, shape=shape)
        elif scene.things and form < 0.56:
            first = rng.choice(scene.things)
            description = Description(size="large" if first.size == "small" else "small", shape=first.shape)
        else:
            description = rng.choice(
                (
                    Description(shape=shape),
                    Description(shape=shape),
                    Description(colour=colour),
                    Description(colour=colour, shape=shape),
                )
            )
        if not description.select(scene):
            return description
    return (
        Description(colour="cyan", shape="arrow", size="large")
        if not scene.things
        else Description(
            colour=next(c for c in colours.NAMES if all(t.colour != c for t in scene.things)),
            shape=rng.choice(shapes.NAMES),
        )
    )


def ask_whether_is(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """Is the star red? Is the red thing a star?"""
    about = rng.choice(("colour", "shape"))
    if not (found := some_unique(scene, rng, (about,))):
        return None
    thing, description = found
    right = thing.colour if about == "colour" else thing.shape
    yes = rng.random() < 0.5
    names = colours.NAMES if about == "colour" else shapes.NAMES
    others = (
        [t.colour if about == "colour" else t.shape for t in scene.things]
        if rng.random() < 0.5
        else list(names)
    )
    wrong = [name for name in others if name != right] or [name for name in names if name != right]
    claim = Description(**{about: right if yes else rng.choice(wrong)})
    slots = {"one": called(description, language, rng)}
    if about == "colour":
        value = claim.colour or ""
        slots["value"] = value if language == "en" else COLOURS_ZH[value][0]
        question = phrase("is_colour", language, rng, **slots)
    else:
        slots["value"] = called(claim, language, rng)
        if language == "en":
            slots["a"] = with_article(slots["value"])
        question = phrase("is_shape", language, rng, **slots)
    return Question("exists", language, question, yes_no(language, yes), {"yes": yes})


def ask_count(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """How many there are, every number that occurs about equally often."""
    options: dict[int, list[Description]] = {}
    candidates = {Description()}
    for thing in scene.things:
        candidates |= {
            Description.of(thing, names)
            for names in (("shape",), ("colour",), ("colour", "shape"), ("size",))
        }
    for description in sorted(candidates, key=repr):
        options.setdefault(len(description.select(scene)), []).append(description)
    zero = rng.random() < (0.1 if scene.things else 0.7)
    number = 0 if zero else rng.choices(list(options), [{1: 0.6, 2: 1.0}.get(n, 1.7) for n in options])[0]
    description = absent(scene, rng) if zero else rng.choice(options[number])
    if not zero and rng.random() < 0.25:
        description, number = Description(), len(scene.things)
    slots = {"one": called(description, language, rng)}
    if language == "en":
        slots["many"] = description.english(rng, plural=True)
    question = phrase("count", language, rng, **slots)
    return Question("count", language, question, str(number), {"count": number})


def ask_colour(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """What colour a thing, the text, or a plain background has."""
    kind = rng.random()
    one, colour = "", ""
    if kind < 0.06 and scene.background.colour:
        one, colour = "background" if language == "en" else "背景", scene.background.colour
    elif len(scene.writings) == 1 and (kind < 0.16 or not scene.things):
        one, colour = rng.choice(TEXT[language]), scene.writings[0].colour
    elif found := some_unique(scene, rng, ("colour",)):
        one, colour = called(found[1], language, rng), found[0].colour
    if not colour:
        return None
    answer = sentence(colour) if language == "en" else COLOURS_ZH[colour][0] + "。"
    question = phrase("colour", language, rng, one=one)
    return Question("colour", language, question, answer, {"colour": colour})


def ask_shape(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """What shape a thing has that is named by its colour, size or place."""
    if not (found := some_unique(scene, rng, ("shape",))):
        return None
    thing, description = found
    answer = sentence(thing.shape) if language == "en" else SHAPES_ZH[thing.shape][0] + "。"
    question = phrase("shape", language, rng, one=called(description, language, rng))
    return Question("shape", language, question, answer, {"shape": thing.shape})


def ask_size(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """Whether a thing is small, medium or large."""
    if not (found := some_unique(scene, rng, ("size",))):
        return None
    thing, description = found
    answer = sentence(thing.size) if language == "en" else SIZES_ZH[thing.size][0].rstrip("的") + "。"
    question = phrase("size", language, rng, one=called(description, language, rng))
    return Question("size", language, question, answer, {"size": thing.size})


def ask_read(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """What is written: the bare text, several from top to bottom."""
    writings = sorted(scene.writings, key=lambda w: w.y)
    if len(writings) == 2 and rng.random() < 0.5:
        side = rng.randrange(2)
        name = (("top", "bottom"), ("上面", "下面"))[language == "zh"][side]
        question = phrase("read_at", language, rng, side=name)
        return Question("read", language, question, writings[side].text, {"text": writings[side].text})
    question = phrase("read", language, rng)
    text = " ".join(writing.text for writing in writings)
    return Question("read", language, question, text or NO_TEXT[language], {"text": text})


def ask_where(scene: Scene, language: Language, rng: random.Random) -> Question | None:
    """Where a thing or the text is, as a box."""
    about_text = len(scene.writings) == 1 and (rng.random() < 0.2 or not scene.things)
    target: Thing | Writing
    if about_text:
        target, one = scene.writings[0], rng.choice(TEXT[language])
    elif found := some_unique(scene, rng):
        target, one = found[0], called(found[1], language, rng)
    else:
        return None
    question = phrase("where", language, rng, one=one)
    return Question("where", language, question, box_text([target.box], scene), {"box": list(target.box)})
