"""Boxes of pictures in the files of other programs: COCO JSON, CSV, Label Studio."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from beholder.core.errors import InputError
from beholder.core.types import Box

COLUMNS = ("file", "width", "height", "label", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class BoxedPicture:
    """One picture by its file name, its size, and its boxes with their labels."""

    file: str
    width: int
    height: int
    boxes: tuple[Box, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.boxes):
            raise InputError(f"{self.file}: {len(self.boxes)} boxes have {len(self.labels)} labels")


def to_coco(pictures: Sequence[BoxedPicture]) -> str:
    """COCO's detection format: ids from 1, boxes as x, y, width, height."""
    names = list(dict.fromkeys(label for one in pictures for label in one.labels))
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(pictures, 1):
        for box, label in zip(one.boxes, one.labels, strict=True):
            width, height = box.x2 - box.x1, box.y2 - box.y1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(label) + 1,
                    "bbox": [box.x1, box.y1, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    told = {
        "images": [
            {"id": number, "file_name": one.file, "width": one.width, "height": one.height}
            for number, one in enumerate(pictures, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    return json.dumps(told, ensure_ascii=False, indent=1) + "\n"


def to_csv(pictures: Sequence[BoxedPicture]) -> str:
    """One line for each box, corners in pixels."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in pictures:
        for box, label in zip(one.boxes, one.labels, strict=True):
            writer.writerow([one.file, one.width, one.height, label, box.x1, box.y1, box.x2, box.y2])
    return buffer.getvalue()


def to_label_studio(pictures: Sequence[BoxedPicture], model: str = "beholder") -> str:
    """Label Studio tasks with predictions, for RectangleLabels named label on an Image named image."""
    tasks: list[dict[str, Any]] = []
    for one in pictures:
        results = [
            {
                "id": f"box{number}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": one.width,
                "original_height": one.height,
                "value": {
                    "x": 100 * box.x1 / one.width,
                    "y": 100 * box.y1 / one.height,
                    "width": 100 * (box.x2 - box.x1) / one.width,
                    "height": 100 * (box.y2 - box.y1) / one.height,
                    "rotation": 0,
                    "rectanglelabels": [label],
                },
            }
            for number, (box, label) in enumerate(zip(one.boxes, one.labels, strict=True), 1)
        ]
        tasks.append(
            {"data": {"image": one.file}, "predictions": [{"model_version": model, "result": results}]}
        )
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


FORMATS: dict[str, Callable[[Sequence[BoxedPicture]], str]] = {
    "coco": to_coco,
    "csv": to_csv,
    "labelstudio": to_label_studio,
}
