"""The built-in benchmark: one question of every kind about unseen drawn scenes, in English and in Chinese.

`worlds` are scenes as the built-in model learned them; `worlds-redrawn` are the same scenes drawn by other
software. An answer is right if it equals the expected one; case and punctuation at its end do not count, but
nothing else is forgiven.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from beholder.core.types import Box
from beholder.evaluation.intervals import Interval, difference, mean, proportion
from beholder.evaluation.task import Reply, Row, Scores, Task
from beholder.mini.dataset import Plan, evaluation_rows, write
from beholder.mini.fonts import FontBook
from beholder.mini.shards import write_json
from beholder.mini.worlds import scene_at, stream

KINDS = ("exists", "count", "colour", "shape", "relation", "where", "read", "size")
LANGUAGES = ("en", "zh")
PLAN = Plan(scenes=2000, seed=1, split="test")
END_MARKS = " .,!?;:。，！？；：、"
# First words, as the worlds and as people say them.
YES = {"en": ("yes",), "zh": ("是", "有", "对")}
NO = {"en": ("no",), "zh": ("不", "没", "否")}
IOU_OF_A_HIT = 0.5


def read_rows(path: Path) -> list[Row]:
    """The questions about drawn scenes; descriptions are left out, for no rule here could score them."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [
        {**row, "id": f"{Path(row['image']).stem}/{row['kind']}/{row['language']}"}
        for row in rows
        if row["kind"] in KINDS
    ]


def plain(text: str) -> str:
    """Without case, and without punctuation and spaces at the end."""
    return text.strip().rstrip(END_MARKS).casefold()


def yes_or_no(text: str, language: str) -> bool | None:
    """What an answer begins with; None if that is neither yes nor no."""
    said = plain(text)
    if language == "en":
        said = said.split()[0].rstrip(END_MARKS) if said else ""
        return True if said in YES["en"] else False if said in NO["en"] else None
    return True if said.startswith(YES["zh"]) else False if said.startswith(NO["zh"]) else None


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of an answered box and a true one; 0 if its corners are in the wrong order."""
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    if width <= 0 or height <= 0 or one.x1 >= one.x2 or one.y1 >= one.y2:
        return 0.0
    areas = [(box.x2 - box.x1) * (box.y2 - box.y1) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def score(reply: Reply, row: Row) -> Scores:
    """Whether the answer is right, and what the figures need to know of the row."""
    truth, language = row["truth"], row["language"]
    told: dict[str, Any] = {"kind": row["kind"], "language": language, "scene": row["image"]}
    told["expected"] = row["answer"]
    if "yes" in truth:
        return told | {"yes_no": True, "right": yes_or_no(reply.text, language) == truth["yes"]}
    if row["kind"] == "where":
        iou = overlap(reply.boxes[0], Box(*truth["box"])) if len(reply.boxes) == 1 else 0.0
        return told | {"iou": iou, "right": iou >= IOU_OF_A_HIT}
    if row["kind"] == "read":
        any_case = reply.text.strip().casefold() == truth["text"].casefold()
        return told | {"any_case": any_case, "right": reply.text.strip() == truth["text"]}
    return told | {"right": plain(reply.text) == plain(row["answer"])}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Each kind in both languages, in each, and English less Chinese; also all yes/no questions together."""
    figures: dict[str, Interval] = {}

    def figure(name: str, chosen: Sequence[Scores], value: str = "right") -> None:
        calculate: Callable[[Sequence[Sequence[Any]]], Interval] = mean if value == "iou" else proportion
        spoken = {language: [s for s in chosen if s["language"] == language] for language in LANGUAGES}
        told = {language: calculate(by_scene(s, value)) for language, s in spoken.items() if s}
        if told:
            figures[name] = calculate(by_scene(chosen, value))
        figures.update({f"{name}.{language}": interval for language, interval in told.items()})
        if len(told) == 2:
            figures[f"{name}.en-zh"] = difference(told["en"], told["zh"])

    figure("overall", scores)
    figure("yes_no", [s for s in scores if s.get("yes_no")])
    for kind in KINDS:
        figure(kind, [s for s in scores if s["kind"] == kind])
    figure("where_iou", [s for s in scores if s["kind"] == "where"], "iou")
    figure("read_any_case", [s for s in scores if s["kind"] == "read"], "any_case")
    return figures


def by_scene(scores: Iterable[Scores], value: str) -> list[list[Any]]:
    """One list of values for each scene: what is asked of one scene is not independent."""
    groups: Mapping[str, list[Any]] = defaultdict(list)
    for one in scores:
        groups[one["scene"]].append(one[value])
    return list(groups.values())


def draw(data: Path) -> None:
    """The scenes as the built-in model learned them, in the built-in typeface."""
    write(data, PLAN, FontBook())


def draw_again(data: Path) -> None:
    """The same scenes by matplotlib; boxes and questions are those of what was drawn."""
    from beholder.evaluation.tasks.other_renderer import redraw

    fonts, questions = FontBook(), list[dict[str, Any]]()
    (data / "images").mkdir(parents=True, exist_ok=True)
    for index in range(PLAN.scenes):
        scene = scene_at(PLAN.seed, PLAN.split, index, fonts)
        picture, drawn = redraw(scene, stream(PLAN.seed, PLAN.split, index, "redraw"))
        name = f"redrawn-{PLAN.seed}-{index:07d}.png"
        picture.save(data / "images" / name, compress_level=3)
        questions += evaluation_rows(drawn, name, PLAN, index)
    write_json(data / WORLDS_REDRAWN.source, questions)


PROTOCOL = "exact answers; case and end punctuation ignored, except in reading; a box hits at IoU 0.5"
WORLDS = Task(
    name="worlds",
    version=1,
    protocol=PROTOCOL,
    source="questions.json",
    rows=read_rows,
    score=score,
    summary=summary,
    draw=draw,
    reads_boxes=True,
)
# Another file name, so that neither can be taken for the other.
WORLDS_REDRAWN = replace(WORLDS, name="worlds-redrawn", source="redrawn.json", draw=draw_again)
