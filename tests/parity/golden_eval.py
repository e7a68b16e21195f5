"""The goldens of the originals' evaluations, and what a run of ours writes for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beholder.core.records import RunRecord
from beholder.evaluation.scoring import score_answers
from beholder.evaluation.tasks import find_task

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LLAVA, QIHOO = GOLDEN / "eval-llava", GOLDEN / "eval-360vl"


def read(path: Path) -> Any:
    """One JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def card(name: str, answers: Path, data: Path, out: Path, **settings: Any) -> RunRecord:
    """The score card of an answer file."""
    return score_answers(find_task(name), answers, data, out, **settings)
