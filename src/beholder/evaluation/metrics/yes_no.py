"""Answers to yes/no questions as POPE and MME read them, and the figures that follow from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from beholder.evaluation.bootstrap import Array, Formula, ratio

Reading = Literal["yes", "no", "other"]

PUNCTUATION = " \t\n.,!?;:'\"()[]"


def pope_reading(text: str) -> Reading:
    """No if one of the words before the first full stop is `No`, `not` or `no`, else yes.

    From llava/eval/eval_pope.py (c121f04). Only blanks part words, so "NO", "Nope" and "Yes\\nno" are yes.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def mme_reading(text: str) -> Reading:
    """What stands in the first four characters; from the calculator of the MME release.

    "yesterday" is yes, "not sure" is no, and blanks in front can push a "yes" out of sight. The calculator
    reads a text file line by line, so only the first line of an answer is there to be read.
    """
    start = first_line(text).lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def first_line(text: str) -> str:
    """What a text file that is read line by line keeps of an answer beside its question."""
    return re.split(r"\r\n|\n|\r", text, maxsplit=1)[0]


def first_word(text: str) -> Reading:
    """The reading without quirks: the first word is yes or no, or the answer is neither."""
    words = text.strip(PUNCTUATION).lower().split()
    word = words[0].strip(PUNCTUATION) if words else ""
    return "yes" if word == "yes" else "no" if word == "no" else "other"


def confusion(said: Reading, truth: str) -> tuple[int, int, int, int]:
    """(true positive, false positive, true negative, false negative) of one answer, yes being positive.

    An answer that is neither is counted against the model: as the opposite of the truth.
    """
    is_yes, said_yes = truth == "yes", said == "yes" if said != "other" else truth != "yes"
    return (
        int(is_yes and said_yes),
        int(not is_yes and said_yes),
        int(not is_yes and not said_yes),
        int(is_yes and not said_yes),
    )


def f1(sums: Array) -> Array:
    """F1 of sums (..., 4) of `confusion`; 0 where there is nothing positive."""
    true, false, missed = sums[..., 0], sums[..., 1], sums[..., 3]
    return ratio(2 * true, 2 * true + false + missed)


CONFUSION_FIGURES: dict[str, Formula] = {
    "accuracy": lambda s: ratio(s[..., 0] + s[..., 2], s.sum(-1)),
    "precision": lambda s: ratio(s[..., 0], s[..., 0] + s[..., 1]),
    "recall": lambda s: ratio(s[..., 0], s[..., 0] + s[..., 3]),
    "f1": f1,
    "yes_ratio": lambda s: ratio(s[..., 0] + s[..., 1], s.sum(-1)),
}


def mme_points(sums: Array) -> Array:
    """100 x accuracy + 100 x share of pictures with both answers right.

    From sums (..., 4): right answers, answers, pictures with both right, pictures.
    """
    return 100 * ratio(sums[..., 0], sums[..., 1]) + 100 * ratio(sums[..., 2], sums[..., 3])


def scores_of(said: Reading, truth: str, **told: Any) -> Mapping[str, Any]:
    """What summaries of yes/no benchmarks need to know of one answer."""
    return {"said": said, "expected": truth, "right": said == truth, **told}
