"""GQA testdev-balanced: exact match, by kinds of question, as the official scorer groups them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beholder.evaluation.bootstrap import mean, resample
from beholder.evaluation.files import Said, json_text, read_json
from beholder.evaluation.intervals import Interval
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import COGVLM_SHORT, LOADER_TOKENS, SHORT_ANSWER
from beholder.evaluation.published import zoo
from beholder.evaluation.task import Reply, Row, Scores, Task

# Operations that are no step of reasoning.
NO_STEP = ("exist", "query: name", "choose name")
KINDS = {"structural": "structural", "semantic": "semantic", "steps": "steps", "words": "words"}


def rows(path: Path) -> list[Row]:
    """The official questions; those that are not balanced are asked by nobody and do not count."""
    return [
        {
            "id": name,
            "image": f"images/{one['imageId']}.jpg",
            "question": one["question"],
            "answer": one["answer"],
            "structural": one["types"]["structural"],
            "semantic": one["types"]["semantic"],
            "steps": _steps(one["semantic"]),
            "words": len(one["question"].split()),
            "group": _global_group(one.get("groups")),
        }
        for name, one in read_json(path).items()
        if one["isBalanced"]
    ]


def _global_group(groups: Mapping[str, Any] | None) -> str | None:
    return groups.get("global") if groups else None


def _steps(program: Sequence[dict[str, Any]]) -> int:
    operations = (f"{one['operation']}: {one['argument']}" for one in program)
    return sum(not any(word in operation for word in NO_STEP) for operation in operations)


def prediction(text: str) -> str:
    """Full stops at the end cut off, in lower case: scripts/convert_gqa_for_eval.py (c121f04)."""
    return text.rstrip(".").lower()


def score(reply: Reply, row: Row) -> Scores:
    """Whether the prediction is the answer, and the kinds that it counts for."""
    return _scores(prediction(reply.text), row)


def strict(reply: Reply, row: Row) -> Scores:
    """The same with blanks at the ends forgiven, on either side of the full stop."""
    return _scores(reply.text.strip().rstrip(". ").lower(), row)


def _scores(said: str, row: Row) -> dict[str, Any]:
    told = {key: row[key] for key in (*KINDS, "group", "image")}
    return {"right": said == row["answer"], "said": said, "expected": row["answer"], **told}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Accuracy over all, binary and open questions, each kind; and how far answers stray from the truth."""

    def accuracy(chosen: Sequence[Scores]) -> Interval:
        return mean((one["right"] for one in chosen), [one["image"] for one in chosen])

    parts = {"binary": [s for s in scores if s["structural"] != "query"]}
    parts["open"] = [s for s in scores if s["structural"] == "query"]
    for kind in KINDS:
        for value in sorted({one[kind] for one in scores}):
            parts[f"{kind}: {value}"] = [one for one in scores if one[kind] == value]
    figures = {"accuracy": accuracy(scores)}
    figures |= {name: accuracy(chosen) for name, chosen in parts.items() if chosen}
    grouped = [one for one in scores if one["group"] is not None]
    return figures | ({"distribution": resample(grouped, distribution)} if grouped else {})


def distribution(scores: Sequence[Scores]) -> float:
    """Chi-square between the answers given and the true ones within each group, over 100; 0 is best."""
    true, said = (Counter((one["group"], one[key]) for one in scores) for key in ("expected", "said"))
    sizes = Counter(group for group, _ in true.elements())
    apart: defaultdict[Any, float] = defaultdict(float)
    for (group, answer), count in true.items():
        apart[group] += (said[group, answer] - count) ** 2 / count
    return sum(apart[group] * size for group, size in sizes.items()) / sizes.total() / 100


def predictions(answers: Sequence[Said], data: Path) -> dict[str, bytes]:
    """The file of the official scorer: one entry for each answer, also to questions that do not count."""
    return {
        "testdev_balanced_predictions.json": json_text(
            [{"questionId": said.original_id, "prediction": prediction(said.text)} for said in answers]
        )
    }


GQA = Task(
    name="gqa",
    version=1,
    protocol="LLaVA model_vqa_loader + convert_gqa_for_eval @ c121f04, official eval.py (without choices)",
    source="testdev_balanced_questions.json",
    rows=rows,
    score=score,
    strict=strict,
    quirks={"blank-keeps-stop": "a blank behind the full stop keeps both in the prediction"},
    summary=summary,
    prompt=SHORT_ANSWER,
    max_tokens=LOADER_TOKENS,
    styles=COGVLM_SHORT,
    pair=by_row(),
    points=("distribution",),
    convert=predictions,
    origin="it is on https://cs.stanford.edu/people/dorarad/gqa/download.html",
    published=(zoo(62.0, 63.3, 62.9, 63.9, 64.1),),
)
