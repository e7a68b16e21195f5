"""MMBench in English and Chinese: dev scored here, test written for the server; circular where it is defined.

A question asked circularly is asked once for every rotation of its options and is right only if all are.
Either the table holds the rotations already (ids a million apart), or `mmbench-circular` makes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from beholder.evaluation.bootstrap import mean
from beholder.evaluation.files import Said, columns_without, data_url, find_one, is_blank, read_table
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.choices import inferred_letter, option_lines
from beholder.evaluation.pairing import by_row, own_id
from beholder.evaluation.prompts import LETTER, LETTER_CHINESE, LONG_TOKENS
from beholder.evaluation.published import qihoo, zoo
from beholder.evaluation.sheets import Cell, write_sheet
from beholder.evaluation.task import Pair, Reply, Row, Scores, Style, Task

ROTATED = 1_000_000  # added to the id of a question for each rotation in the later tables
DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")


def rows(path: Path, all_rounds: bool = False) -> list[Row]:
    """The rows of a table, or every rotation of every row: options and their letters turn to the left."""
    return [
        _row(line, turn)
        for line in read_table(path)
        for turn in range(len(_options(line)) if all_rounds else 1)
    ]


def _options(line: dict[str, str]) -> list[str]:
    """The options up to the first that is missing."""
    found: list[str] = []
    for letter in "ABCD":
        if is_blank(line.get(letter)):
            break
        found.append(line[letter])
    return found


def _row(line: dict[str, str], turn: int) -> Row:
    options = _options(line)
    turned = options[turn:] + options[:turn]
    letters = ("ABCD"[: len(options)] * 2)[turn : turn + len(options)]  # which option stands at each place
    hint = "" if is_blank(line.get("hint")) else line["hint"] + "\n"
    return {
        "id": line["index"] if not turn else f"{line['index']}/{turn}",
        "index": int(line["index"]),
        "image": data_url(line["image"]),
        "question": hint + line["question"] + option_lines(turned),
        "options": turned,
        "letters": letters,
        "answer": line.get("answer", ""),
        "category": line.get("category", ""),
    }


def key_of(said: Said) -> str:
    """The question, and the round where there are several."""
    turn = said.line.get("round_id", 0)
    return f"{said.id}/{turn}" if turn else own_id(said)


def score(reply: Reply, row: Row) -> Scores:
    """The option that the answer names beyond doubt; letters that were turned are turned back."""
    shown = inferred_letter(reply.text, dict(zip("ABCD", row["options"], strict=False)))
    letter = row["letters"]["ABCD".index(shown)] if shown else None
    told = {"letter": letter, "expected": row["answer"], "category": row["category"]}
    return {"right": bool(letter) and letter == row["answer"], "group": row["index"] % ROTATED, **told}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """Accuracy over questions (first rounds), by category, and circular where there are rotations."""
    if not any(one["expected"] for one in scores):
        return {}
    rounds: dict[int, list[Scores]] = defaultdict(list)
    for one in scores:
        rounds[one["group"]].append(one)
    first = [of_one[0] for of_one in rounds.values()]
    figures = {"accuracy": mean(one["right"] for one in first)}
    if len(first) < len(scores):
        figures["circular"] = mean(all(one["right"] for one in of_one) for of_one in rounds.values())
    for category in sorted({one["category"] for one in first} - {""}):
        figures[f"category: {category}"] = mean(s["right"] for s in first if s["category"] == category)
    return figures


def sheet_rows(pairs: Sequence[Pair], table: Path) -> list[list[Cell]]:
    """The table without six columns and with the answers as the seventh, under a line of names.

    From scripts/convert_mmbench_for_submission.py of LLaVA (c121f04). Without an answer a cell is empty.
    """
    said = {row["index"]: reply.text for row, reply in pairs if not reply.is_missing}
    lines = read_table(table)
    names = columns_without(lines, *DROPPED)
    filled: list[list[Cell]] = [[*names[:6], "prediction", *names[6:]]]
    for line in lines:
        cells: list[Any] = [None if is_blank(line[name]) else line[name] for name in names]
        cells[names.index("index")] = int(line["index"])
        filled.append([*cells[:6], said.get(int(line["index"])), *cells[6:]])
    return filled


def _sheet(name: str, pattern: str, pairs: Sequence[Pair], data: Path) -> dict[str, bytes]:
    return {f"{name}_upload.xlsx": write_sheet(sheet_rows(pairs, find_one(data, *pattern.split("|"))))}


def _task(name: str, pattern: str, ending: str, **more: Any) -> Task:
    return Task(
        name=name,
        version=1,
        protocol="LLaVA model_vqa_mmbench --single-pred-prompt @ c121f04; published figures come from the "
        "server, which asks a judge about answers that name no option; here those are wrong",
        source=pattern,
        rows=rows,
        score=score,
        summary=summary,
        prompt="{question}" + ending,
        max_tokens=LONG_TOKENS,
        styles={"cogvlm": Style(prompt="{question}" + ending, max_tokens=LONG_TOKENS, template="vqa")},
        pair=by_row(key_of, missing="empty"),
        submit=partial(_sheet, name, pattern),
        origin="it is below https://download.openmmlab.com/mmclassification/datasets/mmbench/",
        **more,
    )


MMBENCH = _task(
    "mmbench", "mmbench_dev_20230712.tsv|mmbench_dev_en_*.tsv|mmbench_dev.tsv", LETTER,
    published=(zoo(64.3, 67.7, 64.6, 66.5, 68.2, tolerance=1.5), qihoo(73.7, 80.4, tolerance=1.5)),
)  # fmt: skip
MMBENCH_CN = _task(
    "mmbench-cn", "mmbench_dev_cn_*.tsv", LETTER_CHINESE,
    published=(zoo(58.3, 63.6, 57.6, 61.9, 64.0, tolerance=1.5), qihoo(68.6, 77.7, tolerance=1.5)),
)  # fmt: skip
MMBENCH_TEST = _task(
    "mmbench-test", "mmbench_test_en_*.tsv|mmbench_test_2*.tsv", LETTER, published=(qihoo(75.3, 78.1),)
)
MMBENCH_CN_TEST = _task(
    "mmbench-cn-test", "mmbench_test_cn_*.tsv", LETTER_CHINESE, published=(qihoo(71.1, 76.9),)
)
MMBENCH_CIRCULAR = replace(
    MMBENCH, name="mmbench-circular", rows=partial(rows, all_rounds=True), headline="circular", submit=None
)
