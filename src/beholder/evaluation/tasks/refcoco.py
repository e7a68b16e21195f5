"""RefCOCO, RefCOCO+ and RefCOCOg: is the box that a model names for an expression the right one?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from beholder.evaluation.bootstrap import mean
from beholder.evaluation.files import Said, read_json_lines
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.region import HIT, Corners, any_part_hits, first_box_hits, overlap
from beholder.evaluation.pairing import by_answer
from beholder.evaluation.prompts import LOADER_TOKENS, PLAIN_REGION, REGION, THOUSANDTHS_REGION
from beholder.evaluation.task import PLAIN, Reply, Row, Scores, Style, Task

SPLITS = {
    "refcoco": ("val", "testA", "testB"),
    "refcoco+": ("val", "testA", "testB"),
    "refcocog": ("val", "test"),
}
OTHER_FORMS = re.compile(r"\[\[|<box>")  # of which the original knows nothing
Rule = Callable[[str, Corners, int, int], bool]


def rows(path: Path) -> list[Row]:
    """360VL's files: one line for each expression, with the true box in pixels."""
    return [
        {
            "id": str(line["sent_id"]),
            "image": f"train2014/{line['img_path']}",
            "question": line["expression"],
            "box": line["bbox"],
            "width": line["width"],
            "height": line["height"],
        }
        for line in read_json_lines(path)
    ]


def unknown(said: Said) -> Row:
    """An answer to an expression that is not there counts, as wrong."""
    return {"id": said.id, "image": "", "question": "", "box": None, "width": 0, "height": 0}


def _score(rule: Rule, reply: Reply, row: Row) -> dict[str, Any]:
    told = {"expected": row["box"], "image": row["image"]}
    if row["box"] is None:
        return told | {"right": False}
    if reply.boxes and OTHER_FORMS.search(reply.text):  # read by its own dialect, in pixels already
        corners = [(box.x1, box.y1, box.x2, box.y2) for box in reply.boxes]
        return told | {"right": any(overlap(one, row["box"]) >= HIT for one in corners[:1])}
    return told | {"right": rule(reply.text, row["box"], row["width"], row["height"])}


def score(reply: Reply, row: Row) -> Scores:
    """Right if one of the boxes hits, before the first that cannot be read."""
    return _score(any_part_hits, reply, row)


def strict(reply: Reply, row: Row) -> Scores:
    """Right if the first box hits, whatever stands around it."""
    return _score(first_box_hits, reply, row)


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Precision over all answers."""
    return {"precision": mean((one["right"] for one in scores), [one["image"] for one in scores])}


def _task(name: str, split: str) -> Task:
    # Only the file of RefCOCO val is published; the others follow its pattern.
    listed = name.upper().replace("+", "PLUS")
    return Task(
        name=f"{name}-{split}",
        version=2,
        protocol="360VL model_vqa_refcoco + compute_precision @ ad6a11c; hit at IoU 0.5",
        source=f"{listed}_{split.upper()}_en_new.jsonl",
        rows=rows,
        score=score,
        strict=strict,
        quirks={
            "any-box": "of several boxes one that hits is enough",
            "python-literals": "a part that is no Python literal, as with a full stop, ends the line",
            "answers-count": "an answer given twice counts twice, one to an unknown expression as wrong",
        },
        summary=summary,
        prompt=REGION,
        max_tokens=LOADER_TOKENS,
        styles={
            "cogvlm": Style(prompt=THOUSANDTHS_REGION, max_tokens=LOADER_TOKENS, template="base"),
            PLAIN: Style(prompt=PLAIN_REGION, max_tokens=LOADER_TOKENS),
        },
        pair=by_answer(unknown=unknown),
        reads_boxes=True,
        headline="precision",
        origin="a line holds sent_id, img_path, expression, bbox (corners in pixels), height and width of an "
        "expression of https://github.com/lichengunc/refer; pictures are COCO's, https://cocodataset.org",
    )


REFCOCO = {f"{name}-{split}": _task(name, split) for name, splits in SPLITS.items() for split in splits}
