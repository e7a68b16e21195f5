"""MM-Vet: free answers that a judge grades between 0 and 1, by the capabilities a question needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from beholder.core.errors import InputError
from beholder.evaluation.bootstrap import Array, figure, ratio
from beholder.evaluation.files import Said, json_text, read_json, read_json_lines
from beholder.evaluation.intervals import Interval
from beholder.evaluation.judge import JudgeFailed
from beholder.evaluation.metrics.reviews import (
    MMVET_RETRY,
    MMVET_SETTINGS,
    MMVET_TRIES,
    mmvet_question,
    mmvet_score,
)
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import LONG_TOKENS
from beholder.evaluation.published import cogvlm, zoo
from beholder.evaluation.task import AskJudge, Reply, Row, Scores, Task
from beholder.evaluation.tasks.llava_bench import unjudged


def rows(path: Path) -> list[Row]:
    """The release's questions; ids without the v1_ that the upload has in front."""
    if path.suffix == ".jsonl":  # LLaVA's list, enough to ask and to convert
        return [
            {"id": str(line["question_id"]), "image": f"images/{line['image']}", "question": line["text"]}
            for line in read_json_lines(path)
        ]
    return [
        {
            "id": name.removeprefix("v1_"),
            "image": f"images/{one['imagename']}",
            "question": one["question"],
            "truth": one["answer"],
            "capability": sorted(one["capability"]),
        }
        for name, one in read_json(path).items()
    ]


def review(judge: AskJudge, reply: Reply, row: Row) -> Scores:
    """The judge's grade. A reply that is no number is asked for again, warmer each time.

    The original gives up after five times with a zero; here that is a failure.
    """
    if "truth" not in row:
        raise InputError("these questions come without truths; mm-vet.json of the release has them")
    question = mmvet_question(row["question"], row["truth"], reply.text)
    for attempt in range(MMVET_TRIES):
        text = question if not attempt else question + MMVET_RETRY
        settings = MMVET_SETTINGS | {"temperature": 0.5 * attempt}
        score = mmvet_score(judge([{"role": "user", "content": text}], settings))
        if score is not None:
            return {
                "value": score,
                "runs": [score],
                "capability": row["capability"],
                "expected": row["truth"],
            }
    raise JudgeFailed(f"the judge gave no grade between 0 and 1 for {row['id']!r} in {MMVET_TRIES} replies")


def graded(grades: Path, rows: Sequence[Row]) -> list[Scores]:
    """The scores in a grade file of the public evaluator, with all its runs."""
    told = read_json(grades)
    scores: list[Scores] = []
    for row in rows:
        one = told.get(f"v1_{row['id']}")
        if one is None:
            raise InputError(f"{grades} has no grade for v1_{row['id']}")
        runs = [float(score) for score in one["score"]]
        scores.append({"value": sum(runs) / len(runs), "runs": runs, "capability": row["capability"]})
    return scores


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Percent over all, for each capability, and for each set of them that questions need together."""
    figures = {"total": _mean(scores)}
    runs = min(len(one["runs"]) for one in scores)
    if runs > 1:
        totals = [100 * sum(one["runs"][run] for one in scores) / len(scores) for run in range(runs)]
        figures |= {
            f"run {run + 1}": _mean([{"value": s["runs"][run]} for s in scores]) for run in range(runs)
        }
        middle = sum(totals) / runs
        spread = (sum((total - middle) ** 2 for total in totals) / runs) ** 0.5
        figures["std"] = Interval(round(spread, 1), round(spread, 1), round(spread, 1), runs)
    for capability in dict.fromkeys(name for one in scores for name in one["capability"]):
        figures[capability] = _mean([one for one in scores if capability in one["capability"]])
    for together in dict.fromkeys("_".join(one["capability"]) for one in scores):
        figures[f"together: {together}"] = _mean([s for s in scores if "_".join(s["capability"]) == together])
    return figures


def _mean(scores: Sequence[Scores]) -> Interval:
    def percent(sums: Array) -> Array:
        return 100 * ratio(sums[..., 0], sums[..., 1])

    drawn = figure([[one["value"], 1] for one in scores], percent, len(scores))
    return drawn._replace(value=round(drawn.value, 1))


def bare_id(said: Said) -> str:
    """The id without the v1_ that files made for upload have in front."""
    return said.id.removeprefix("v1_")


def upload(answers: Sequence[Said], data: Path) -> dict[str, bytes]:
    """v1_<id> and answer, from scripts/convert_mmvet_for_eval.py of LLaVA (c121f04)."""
    told = {f"v1_{bare_id(said)}": said.text for said in answers}
    return {"mm-vet_upload.json": json_text(told, indent=2)}


MMVET = Task(
    name="mm-vet",
    version=1,
    protocol="LLaVA model_vqa @ c121f04 (published with v1.1.1, which crops to the middle); public MM-Vet "
    "evaluator, judge gpt-4-0613",
    source="mm-vet.json|mm-vet/mm-vet.json|llava-mm-vet.jsonl",
    rows=rows,
    score=unjudged,
    summary=summary,
    max_tokens=LONG_TOKENS,
    pair=by_row(bare_id),
    headline="total",
    points=("*",),
    convert=upload,
    review=review,
    grades=graded,
    origin="it is https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip",
    published=(zoo(30.5, 35.4, 31.2, 33.7, 36.7, tolerance=1.5), cogvlm(52.8)),
)
