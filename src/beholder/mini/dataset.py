"""Writes drawn scenes as a data set in LLaVA's format: pictures, conversations, and a manifest that says how.

A killed run goes on where it stopped.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import PIL

from beholder.core.errors import ConfigError
from beholder.mini.drawing import draw_scene
from beholder.mini.fonts import FontBook
from beholder.mini.naming import LANGUAGES, Language
from beholder.mini.objects import objects
from beholder.mini.questions import Question, conversation, described, evaluation_questions
from beholder.mini.scenes import SPLITS, Scene, Split
from beholder.mini.shards import Shards, write_json
from beholder.mini.sheets import sample_sheet
from beholder.mini.worlds import scene_at, stream

log = logging.getLogger("beholder")

# Folders drawn before a plan had these settings do not name them.
UNNAMED = {"crowded": False, "described": False, "language": None}


@dataclass(frozen=True)
class Plan:
    """Which scenes are drawn: numbers `start` to `start + scenes` of a split under a seed.

    `crowded` draws sheets full of things and writings, without questions, for a tower's warm-up. `described`
    has each picture described with boxes, and nothing else asked, for a language model's. `language` is the
    only one that is spoken; None: both.
    """

    scenes: int
    seed: int
    split: Split
    start: int = 0
    rounds: int = 8
    crowded: bool = False
    described: bool = False
    language: Language | None = None

    def __post_init__(self) -> None:
        if self.language not in (None, *LANGUAGES):
            raise ConfigError(f"unknown language {self.language!r}; use one of {', '.join(LANGUAGES)}")
        if self.split not in SPLITS:
            raise ConfigError(f"unknown split {self.split!r}; use one of {', '.join(SPLITS)}")
        for name, least in (("scenes", 1), ("start", 0), ("rounds", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if self.crowded and self.split != "train":
            raise ConfigError(f"crowded sheets are for training; split is {self.split!r}")
        if self.crowded and self.described:
            raise ConfigError("nothing is asked about crowded sheets; leave out crowded or described")


def write(
    out: Path, plan: Plan, fonts: FontBook, workers: int = 1, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Draw the plan's scenes into a folder and return the manifest. A finished folder is left as it is."""
    settings = {**asdict(plan), "fonts": fonts.record(), "pillow": PIL.__version__}
    shards = Shards(out, range(plan.start, plan.start + plan.scenes), settings, UNNAMED)
    if (manifest := shards.manifest()) is not None:
        return manifest
    (out / "images").mkdir(parents=True, exist_ok=True)
    for done in shards.draw(partial(draw_shard, out, plan, fonts), workers):
        if progress:
            progress(done)
    return merge(out, plan, shards)


def draw_shard(out: Path, plan: Plan, fonts: FontBook, span: range) -> dict[str, Any]:
    """Draw one shard's pictures; returns its rows, questions and how many there are of each kind."""
    rows: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    kinds: Counter[str] = Counter()
    for index in span:
        scene = scene_at(plan.seed, plan.split, index, fonts, sample_sheet if plan.crowded else None)
        kind = "sheet" if plan.crowded else plan.split
        name = save_picture(scene, fonts, out / "images", f"{kind}-{plan.seed}-{index:07d}")
        questions = questions_about(scene, plan, index)
        kinds.update(f"{question.kind}/{question.language}" for question in questions)
        rows.append({**llava_row(name, questions), "objects": objects(scene, fonts)})
        if plan.split != "train":
            asked += evaluation_rows(scene, name, plan, index)
    return {"rows": rows, "questions": asked, "kinds": kinds}


def questions_about(scene: Scene, plan: Plan, index: int) -> list[Question]:
    """What the plan asks about a scene."""
    numbers = stream(plan.seed, plan.split, index, "conversation")
    if plan.crowded:
        return []
    if plan.described:
        return [described(scene, numbers, plan.language)]
    return conversation(scene, numbers, plan.rounds, plan.language)


def save_picture(scene: Scene, fonts: FontBook, folder: Path, stem: str) -> str:
    """Store a scene's picture as its finish says; returns the file name."""
    picture = draw_scene(scene, fonts)
    if scene.finish.quality is None:
        picture.save(folder / f"{stem}.png", compress_level=3)
        return f"{stem}.png"
    picture.save(folder / f"{stem}.jpg", quality=scene.finish.quality)
    return f"{stem}.jpg"


def llava_row(name: str, questions: list[Question]) -> dict[str, Any]:
    """One conversation in LLaVA's format; the picture stands before the first question."""
    turns: list[dict[str, str]] = []
    for place, question in enumerate(questions):
        turns.append({"from": "human", "value": ("" if place else "<image>\n") + question.question})
        turns.append({"from": "gpt", "value": question.answer})
    return {"id": name.rsplit(".", 1)[0], "image": f"images/{name}", "conversations": turns}


def evaluation_rows(scene: Scene, name: str, plan: Plan, index: int) -> list[dict[str, Any]]:
    """Single questions about a scene in each language, with the answers as data; boxes are in pixels."""
    picture = {"image": f"images/{name}", "width": scene.width, "height": scene.height}
    return [
        {**picture, **asdict(question)}
        for language in ((plan.language,) if plan.language else LANGUAGES)
        for question in evaluation_questions(
            scene, stream(plan.seed, plan.split, index, f"ask/{language}"), language
        )
    ]


def merge(out: Path, plan: Plan, shards: Shards) -> dict[str, Any]:
    """Join the shards into the final files, the manifest last."""
    rows: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    kinds: Counter[str] = Counter()
    for part in shards.read():
        rows += part["rows"]
        asked += part["questions"]
        kinds.update(part["kinds"])
    write_json(out / "conversations.json", rows)
    if plan.split != "train":
        write_json(out / "questions.json", asked)
    turns = {
        "conversations": len(rows),
        "questions": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items())),
    }
    log.info("wrote %d scenes to %s", len(rows), out)
    return shards.finish(counts=turns)
