"""Writes drawn scenes as a data set in LLaVA's format: pictures, conversations, and a manifest that says how.

The work is cut into shards, each finished by an atomic rename, so a killed run goes on where it stopped.
"""

import json
import logging
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
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
from beholder.mini.sheets import sample_sheet
from beholder.mini.worlds import scene_at, stream

log = logging.getLogger("beholder")

SHARD = 500  # scenes between two points from which a killed run can go on


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

    def spans(self) -> list[range]:
        """The numbers of the scenes, shard by shard."""
        stop = self.start + self.scenes
        return [range(start, min(start + SHARD, stop)) for start in range(self.start, stop, SHARD)]


def write(
    out: Path, plan: Plan, fonts: FontBook, workers: int = 1, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Draw the plan's scenes into a folder and return the manifest. A finished folder is left as it is."""
    settings = {**asdict(plan), "fonts": fonts.record(), "pillow": PIL.__version__}
    shards = out / "shards"
    check_folder(out, settings)
    if (out / "manifest.json").exists():
        return json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    (out / "images").mkdir(parents=True, exist_ok=True)
    shards.mkdir(exist_ok=True)
    write_json(shards / "settings.json", settings)
    spans = plan.spans()
    left = [span for span in spans if not shard_file(out, span).exists()]
    for done in draw_spans(partial(write_shard, out, plan, fonts), left, workers):
        if progress:
            progress(done)
    return merge(out, plan, settings, [shard_file(out, span) for span in spans])


def draw_spans(work: Callable[[range], int], spans: list[range], workers: int) -> Iterator[int]:
    """Do the work for every span, in several processes if wanted; yields what it returns."""
    if workers <= 1:
        yield from map(work, spans)
        return
    # Spawned, not forked: a fork of a process with threads (torch, BLAS) may hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, spans)


def shard_file(out: Path, span: range) -> Path:
    """Where the rows of a finished shard wait for the others."""
    return out / "shards" / f"{span.start}.json"


def check_folder(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder that holds scenes of other settings."""
    for name in ("manifest.json", "shards/settings.json"):
        if not (out / name).exists():
            continue
        there = json.loads((out / name).read_text(encoding="utf-8"))
        there = {"crowded": False, "described": False, "language": None, **there}  # older folders do not say
        differing = sorted(key for key, value in settings.items() if there.get(key) != value)
        if differing:
            raise ConfigError(
                f"{out} already holds scenes drawn with other settings ({', '.join(differing)}); "
                "choose an empty folder or delete this one"
            )


def write_shard(out: Path, plan: Plan, fonts: FontBook, span: range) -> int:
    """Draw one shard's pictures, then its rows; returns how many scenes it has."""
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
    write_json(shard_file(out, span), {"rows": rows, "questions": asked, "kinds": kinds})
    return len(span)


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


def merge(out: Path, plan: Plan, settings: dict[str, Any], shards: list[Path]) -> dict[str, Any]:
    """Join the shards into the final files, the manifest last."""
    rows: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    kinds: Counter[str] = Counter()
    for shard in shards:
        part = json.loads(shard.read_text(encoding="utf-8"))
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
    manifest = {**settings, "counts": turns}
    write_json(out / "manifest.json", manifest)
    shutil.rmtree(out / "shards")
    log.info("wrote %d scenes to %s", len(rows), out)
    return manifest


def write_json(path: Path, value: object) -> None:
    """Write a file that is either whole or not there."""
    partial_path = path.with_suffix(".partial")
    partial_path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    os.replace(partial_path, path)
