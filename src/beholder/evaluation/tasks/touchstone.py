"""TouchStone: a judge compares answers with references, in both orders, knowing the picture in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from beholder.evaluation.bootstrap import Array, figure, ratio
from beholder.evaluation.files import data_url, read_table
from beholder.evaluation.intervals import Interval
from beholder.evaluation.judge import JudgeFailed
from beholder.evaluation.metrics.reviews import TOUCHSTONE_SETTINGS, read_pair, touchstone_messages
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import LONG_TOKENS
from beholder.evaluation.published import cogvlm
from beholder.evaluation.task import AskJudge, Reply, Row, Scores, Task
from beholder.evaluation.tasks.llava_bench import unjudged


def rows(path: Path) -> list[Row]:
    """The release's table, pictures within."""
    return [
        {
            "id": line.get("index") or str(number),
            "image": data_url(line["image"]) if line.get("image") else "",
            "question": line["question"],
            "description": line["human_annotation"],
            "reference": line["gpt4_ha_answer"],
            "category": line["category"],
        }
        for number, line in enumerate(read_table(path))
    ]


def review(judge: AskJudge, reply: Reply, row: Row) -> Scores:
    """The two scores of each order; blanks at the ends of the judge's line do not matter."""
    orders = ((row["reference"], reply.text), (reply.text, row["reference"]))
    pairs: list[tuple[float, float]] = []
    for first, second in orders:
        content = judge(
            touchstone_messages(row["description"], row["question"], first, second), TOUCHSTONE_SETTINGS
        )
        pair = read_pair(content.strip())
        if pair is None:
            raise JudgeFailed(
                f"the judge's reply to {row['id']!r} does not begin with two numbers: {content[:60]!r}"
            )
        pairs.append(pair)
    ours = [pairs[0][1], pairs[1][0]]
    return {"ours": ours, "reference": [pairs[0][0], pairs[1][1]], "category": row["category"].split(",")}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """A hundred times the mean score: over all, for each category, and the reference's."""
    figures = {"score": _mean(scores, "ours"), "reference": _mean(scores, "reference")}
    for category in dict.fromkeys(name for one in scores for name in one["category"]):
        figures[category] = _mean([one for one in scores if category in one["category"]], "ours")
    return figures


def _mean(scores: Sequence[Scores], whose: str) -> Interval:
    def points(sums: Array) -> Array:
        return 100 * ratio(sums[..., 0], sums[..., 1])

    return figure([[sum(one[whose]), len(one[whose])] for one in scores], points, len(scores))


TOUCHSTONE = Task(
    name="touchstone",
    version=1,
    protocol="OFA-Sys/TouchStone eval.py @ 6041d5d, judge gpt-4 at temperature 0, both orders",
    source="touchstone_*.tsv",
    rows=rows,
    score=unjudged,
    summary=summary,
    max_tokens=LONG_TOKENS,
    pair=by_row(),
    headline="score",
    points=("*",),
    review=review,
    origin="the table is linked on https://github.com/OFA-Sys/TouchStone",
    published=(cogvlm(742.0),),
)
