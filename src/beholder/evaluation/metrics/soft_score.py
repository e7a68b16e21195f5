"""The share of people who would have accepted an answer, out of ten who answered the same question."""

from __future__ import annotations

from collections.abc import Sequence

from beholder.evaluation.metrics.words import normal_form, one_line, vqa_form


def leave_one_out(said: str, answers: Sequence[str]) -> float:
    """Mean over the sets that leave one person out of min(1, agreeing persons / 3).

    Both evaluators do this. With ten persons 1, 2, 3 and 4 equal answers are worth 0.3, 0.6, 0.9 and 1.
    """
    agreeing = sum(answer == said for answer in answers)
    others = len(answers) - agreeing
    one_fewer, all_of_them = min(1.0, (agreeing - 1) / 3), min(1.0, agreeing / 3)
    return (agreeing * one_fewer + others * all_of_them) / len(answers)


def textvqa_score(said: str, answers: Sequence[str], strict: bool = False) -> float:
    """Soft score of the TextVQA evaluator, which brings every answer to normal form."""
    return leave_one_out(normal_form(said, strict), [normal_form(answer, strict) for answer in answers])


def vqa_score(said: str, answers: Sequence[str], strict: bool = False) -> float:
    """Soft score of the VQA evaluator (VQAv2, OK-VQA, VizWiz).

    Where all people agree nothing is normalised, so "Yes" is wrong where all said "yes"; `strict` normalises
    always.
    """
    given = [one_line(answer) for answer in answers]
    if strict or len(set(given)) > 1:
        return leave_one_out(vqa_form(said, strict), [vqa_form(answer, strict) for answer in given])
    return leave_one_out(one_line(said), given)
