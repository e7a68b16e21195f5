"""LLaVA-Bench, in the wild and on COCO: a judge compares answers with those of a GPT-4 without picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from beholder.core.errors import InputError
from beholder.evaluation.bootstrap import Array, Formula, figure, ratio
from beholder.evaluation.files import Said, json_lines, read_json, read_json_lines
from beholder.evaluation.hub import copy_files
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.reviews import (
    FAILED,
    IN_THE_WILD,
    REVIEW_SETTINGS,
    read_pair,
    review_context,
    review_messages,
    summarize,
)
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import LONG_TOKENS
from beholder.evaluation.published import llava_zoo
from beholder.evaluation.task import AskJudge, Reply, Row, Scores, Task

RULES = "rule.json"
REPOSITORY = "liuhaotian/llava-bench-in-the-wild"
FETCHED = ["images/*", "answers_gpt4.jsonl", "context.jsonl", "questions.jsonl"]


def fetch(data: Path) -> None:
    """The hub's data set, which has all but the judge's rules."""
    copy_files(REPOSITORY, FETCHED, data)


def rows(path: Path, in_the_wild: bool) -> list[Row]:
    """Questions with the words that describe their picture, GPT-4's answers and the judge's rules.

    The rules for questions in the wild, which their data set lacks, are LLaVA's unless a file has others.
    """
    folder = path.parent
    contexts = {entry["image"]: entry for entry in read_json_lines(folder / "context.jsonl")}
    names = ("answers_gpt4.jsonl", "answers_ref.jsonl", "qa90_gpt4_answer.jsonl")
    reference = next((folder / name for name in names if (folder / name).exists()), folder / names[0])
    answers = {str(line["question_id"]): line for line in read_json_lines(reference)}
    rules = IN_THE_WILD if in_the_wild and not (folder / RULES).exists() else read_json(folder / RULES)
    found: list[Row] = []
    for line in read_json_lines(path):
        name = str(line["question_id"])
        category = f"llava_bench_{line['category']}" if in_the_wild else line["category"]
        if name not in answers or line["image"] not in contexts or category not in rules:
            raise InputError(
                f"question {name!r} of {path} lacks its reference answer, its context or its rule"
            )
        found.append(
            {
                "id": name,
                "question_id": line["question_id"],
                "reference_id": answers[name].get("answer_id", answers[name]["question_id"]),
                "image": f"images/{line['image']}",
                "question": line["text"],
                "category": category,
                "context": review_context(contexts[line["image"]]),
                "reference": answers[name]["text"],
                "rule": rules[category],
            }
        )
    return found


def review(judge: AskJudge, reply: Reply, row: Row) -> Scores:
    """The judge's two scores. A review without two numbers in its first line counts as -1 for both."""
    answers = (row["reference"], reply.text)
    content = judge(review_messages(row["context"], row["question"], answers, row["rule"]), REVIEW_SETTINGS)
    return told(read_pair(content), row["category"], content)


def told(pair: tuple[float, float] | None, category: str, content: str = "") -> dict[str, Any]:
    """What the summary needs to know of one review."""
    scores = list(pair or FAILED)
    return {"tuple": scores, "category": category, "review": content, "is_failed": pair is None}


def of_review(said: Said) -> Scores:
    """A line of a review file of the original: its scores stand in "tuple", in older files in "score"."""
    scores = said.line.get("tuple", said.line.get("score"))
    numbers = cast("list[float]", scores) if isinstance(scores, list) else []
    if len(numbers) != 2:
        raise InputError(f"review {said.id!r} has no pair of scores under tuple or score")
    pair = float(numbers[0]), float(numbers[1])
    return told(
        None if pair == FAILED else pair, said.line.get("category", ""), str(said.line.get("content", ""))
    )


def review_file(judged: Sequence[tuple[Row, Reply, Scores]]) -> dict[str, bytes]:
    """The file that the original's reviewer writes and its summary reads."""
    lines = (
        {
            "id": number,
            "question_id": row["question_id"],
            "answer1_id": row["reference_id"],
            "answer2_id": reply.answer_id or row["question_id"],
            "category": row["category"],
            "content": scores["review"],
            "tuple": scores["tuple"],
        }
        for number, (row, reply, scores) in enumerate(judged, 1)
    )
    return {"review.jsonl": json_lines(lines)}


def unjudged(reply: Reply, row: Row) -> Scores:
    """No rule can score these answers."""
    raise InputError("answers of this benchmark are scored by a judge; name one with --judge")


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Relative score in percent, reference and ours times ten: over all and for each category."""
    figures = _figures("", scores)
    for category in sorted({one["category"] for one in scores} - {""}):
        figures |= _figures(f".{category}", [one for one in scores if one["category"] == category])
    return figures


def _figures(part: str, scores: Sequence[Scores]) -> dict[str, Interval]:
    pairs = [tuple(one["tuple"]) for one in scores]
    table = [[reference, ours, 1] for reference, ours in pairs]
    formulas: dict[str, Formula] = {
        "relative": lambda s: 100 * ratio(s[..., 1], s[..., 0]),
        "reference": lambda s: 10 * ratio(s[..., 0], s[..., 2]),
        "ours": lambda s: 10 * ratio(s[..., 1], s[..., 2]),
    }
    rounded = dict(zip(formulas, summarize(pairs), strict=True))

    def one(name: str, formula: Formula) -> Interval:
        drawn = figure(table, formula, len(pairs))
        return drawn._replace(value=rounded[name])  # the published figure is rounded on its way

    figures = {f"{name}{part}": one(name, formula) for name, formula in formulas.items()}
    failed: list[list[float]] = [[float(s["is_failed"]), 1.0] for s in scores]

    def share(sums: Array) -> Array:
        return 100 * ratio(sums[..., 0], sums[..., 1])

    return figures | ({} if part else {"failed": figure(failed, share, len(scores))})


def strict_summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """The same without the reviews that cannot be read."""
    return summary([one for one in scores if not one["is_failed"]] or scores)


def _task(name: str, in_the_wild: bool, **more: Any) -> Task:
    return Task(
        name=name,
        version=2,
        protocol="LLaVA eval_gpt_review + summarize_gpt_review @ c121f04, judge gpt-4-0314 at 0.2; "
        "the published figures were made with v1.1.1, which crops a picture to its middle, not padding it",
        source="questions.jsonl|qa90_questions.jsonl",
        rows=partial(rows, in_the_wild=in_the_wild),
        score=unjudged,
        summary=summary,
        quirks={"failed-count": "reviews that cannot be read stay in the means as -1"},
        max_tokens=LONG_TOKENS,
        pair=by_row(),
        headline="relative",
        points=("*",),
        review=review,
        reviewed=of_review,
        reviews=review_file,
        strict_summary=strict_summary,
        **more,
    )


LLAVA_BENCH = _task("llava-bench", True, published=(llava_zoo(65.4, 72.5),), fetch=fetch)
LLAVA_BENCH_COCO = _task(
    "llava-bench-coco",
    False,
    origin="questions and answers are in playground/data/coco2014_val_qa_eval, contexts and rules in "
    "llava/eval/table of https://github.com/haotian-liu/LLaVA, pictures on https://cocodataset.org",
)
