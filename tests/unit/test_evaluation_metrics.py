"""Scoring rules on tricky answers, and the rules without the originals' oddities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from beholder.evaluation.bootstrap import figure, mean, ratio, resample
from beholder.evaluation.metrics.caption_words import caption_words
from beholder.evaluation.metrics.captions import CiderD, bleu, bleu_counts, rouge_l
from beholder.evaluation.metrics.choices import inferred_letter, plain_letter
from beholder.evaluation.metrics.region import any_part_hits, first_box_hits
from beholder.evaluation.metrics.soft_score import leave_one_out, vqa_score
from beholder.evaluation.metrics.yes_no import confusion, first_word
from beholder.evaluation.task import Reply
from beholder.evaluation.tasks import find_task


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_soft_score_of_ten(agreeing, score):
    answers = ["x"] * agreeing + [f"y{number}" for number in range(10 - agreeing)]
    assert leave_one_out("x", answers) == pytest.approx(score)


def test_unanimous_answers_are_compared_as_they_are():
    assert vqa_score("Yes", ["yes"] * 10) == 0
    assert vqa_score("Yes", ["yes"] * 10, strict=True) == 1
    assert vqa_score("Yes.", ["yes"] * 9 + ["no"]) == 1
    assert vqa_score("the  2 dogs", ["two dogs"] * 5 + ["dogs"] * 5) == 1


@pytest.mark.parametrize(
    ("text", "meant"),
    [("Yes.", "yes"), ("  yes", "yes"), ("NO", "no"), ("No, it is", "no"), ("nope", "other"), ("", "other"),
     ("yesterday", "other"), ("There is no dog", "other"), ("(yes)", "yes")],
)  # fmt: skip
def test_first_word(text, meant):
    assert first_word(text) == meant


def test_an_answer_that_is_neither_counts_against_the_model():
    assert confusion("other", "yes") == confusion("no", "yes") == (0, 0, 0, 1)
    assert confusion("other", "no") == confusion("yes", "no") == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B", "B"), ("B.", "B"), ("(b)", "B"), ("B: a dog", "B"), ("The answer is (C).", "C"),
     ("Answer: D", "D"), ("A", "A"), ("A.", "A"), ("A dog", None), ("E", None), ("", None), ("Because", None),
     ("I see a cat", None)],
)  # fmt: skip
def test_plain_letter(text, letter):
    assert plain_letter(text, "ABCD") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [("A", "A"), ("B. dog", "B"), ("dog", "B"), ("It is the Dog.", "B"), ("A or B", None),
     ("A man walks a bird", "C"),
     ("cat and dog", None), ("nothing", None), ("(C)", "C"), ("cat " * 40, None)],
)  # fmt: skip
def test_inferred_letter(text, letter):
    assert inferred_letter(text, {"A": "cat", "B": "dog", "C": "bird"}) == letter


def test_boxes_without_quirks():
    truth, size = (25, 25, 75, 75), (100, 100)
    assert not any_part_hits("It is [0.25, 0.25, 0.75, 0.75].", truth, *size)
    assert first_box_hits("It is [0.25, 0.25, 0.75, 0.75].", truth, *size)
    two = "[0.8,0.8,0.9,0.9]; [0.25,0.25,0.75,0.75]"
    assert any_part_hits(two, truth, *size)
    assert not first_box_hits(two, truth, *size)


@pytest.mark.parametrize(
    "text", ["[" * 500, "0.5is", "{1:2}", "[1,2,3,'x']", "__import__('os')", "1" * 5000, "[]"]
)
def test_boxes_are_never_executed_and_never_raise(text):
    assert not any_part_hits(text, (0, 0, 1, 1), 10, 10)


def test_words_of_captions():
    said = "A man's dog isn't (very) happy, is it? U.S. flag; 3,000 T-shirts at 10:30 a.m."
    expected = "a man 's dog is n't very happy is it u.s. flag 3,000 t-shirts at 10:30 a.m."
    assert caption_words(said) == expected.split()
    assert caption_words('Two "o\'clock" - it cannot... be') == ["two", "o'clock", "it", "can", "not", "be"]
    assert caption_words("") == []


def test_bleu_by_hand():
    said, references = (
        "the cat the cat on the mat".split(),
        ["the cat is on the mat".split(), "a cat on a mat".split()],
    )
    counts = bleu_counts(said, references)
    # the 2 of 3, cat 1 of 2, on, mat: 5 of 7; pairs: the cat, cat on, on the, the mat: 4 of 6
    assert counts == [5, 4, 1, 0, 7, 6, 5, 4, 7, 6]
    assert bleu(np.array(counts), 1) == pytest.approx(5 / 7, abs=1e-8)
    assert bleu(np.array(counts), 2) == pytest.approx(math.sqrt(5 / 7 * 4 / 6), abs=1e-8)
    short = np.array(bleu_counts("the cat".split(), references[:1]))
    assert bleu(short, 1) == pytest.approx(math.exp(1 - 6 / 2), abs=1e-7)


def test_rouge_by_hand():
    said, reference = "a b c d".split(), "a x c".split()
    precision, recall = 2 / 4, 2 / 3
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(said, [reference]) == pytest.approx(expected)
    assert rouge_l(said, [["z"]]) == 0
    assert rouge_l([], [reference]) == 0


def test_cider_by_hand():
    corpus = [["a b c d e".split()], ["f g h i j".split()], ["a g k l m".split()]]
    cider = CiderD(corpus)
    assert cider.score("a b c d e".split(), corpus[0]) == pytest.approx(10)
    assert cider.score("x y z".split(), corpus[0]) == 0
    # One shared word "b" of three in one of three documents; "a" is in two of them.
    rare, common = math.log(3), math.log(3 / 2)
    said = "b a".split()
    one = (rare**2 + common**2) / (math.hypot(rare, common) * math.hypot(common, rare, rare, rare, rare))
    penalty = math.exp(-((1 - 4) ** 2) / 72)
    assert cider.score(said, corpus[0]) == pytest.approx(10 * one * penalty / 4)
    # Repeating a word gains nothing: its weight is cut to the reference's.
    again = cider.score("b b a".split(), corpus[0])
    clipped = (rare**2 + common**2) / (
        math.hypot(2 * rare, common) * math.hypot(common, rare, rare, rare, rare)
    )
    assert again == pytest.approx(10 * clipped * math.exp(-((2 - 4) ** 2) / 72) / 4)


def test_captions_end_to_end():
    task = find_task("nocaps")
    captions = ["A dog runs.", "a brown dog is running"]
    rows = [
        {"captions": captions, "domain": "in"},
        {"captions": ["Two red cars on a street"], "domain": "out"},
    ]
    scores = [
        task.score(Reply("A dog runs!"), rows[0]),
        task.score(Reply("two cars on a red street"), rows[1]),
    ]
    figures = task.summary(scores)
    assert figures["bleu_1"].value == pytest.approx(1)
    assert 0 < figures["bleu_4"].value < 1
    assert figures["cider"].samples == 2
    assert {"cider.in", "cider.out"} <= figures.keys()


def test_bootstrap_is_repeatable_and_centred():
    values = [1.0] * 60 + [0.0] * 40
    first, again = mean(values), mean(values)
    assert first == again
    assert first.value == 0.6
    assert 0.48 < first.low < 0.56 < 0.64 < first.high < 0.72
    # What is asked of one picture is not independent: whole pictures are drawn.
    together = mean(values, [number // 20 for number in range(100)])
    assert together.high - together.low > 1.5 * (first.high - first.low)


def test_figures_from_sums():
    told = figure([[1, 2], [1, 2], [2, 2]], lambda sums: ratio(sums[..., 0], sums[..., 1]), 6)
    assert told.value == pytest.approx(4 / 6)
    assert told.low <= told.value <= told.high
    assert ratio(np.array([1.0, 1.0]), np.array([0.0, 2.0])).tolist() == [0.0, 0.5]
    assert resample([1, 2, 3], lambda chosen: sum(chosen) / len(chosen)).value == 2


def test_strict_rules_of_tasks():
    seed, row = find_task("seed"), {"answer": "B", "type": 1, "kind": "x", "data": "image", "image": "a"}
    assert not seed.score(Reply("B."), row)["right"]
    assert seed.scorer(True)(Reply("B."), row)["right"]
    science = find_task("scienceqa")
    row = {"choices": 2, "answer": 1, "image": "a.png"}
    assert science.score(Reply("(B)", prompt="<image>\nQ"), row)["letter"] == "FAILED"
    assert science.scorer(True)(Reply("(B)"), row)["right"]
    assert not science.scorer(True)(Reply("C"), row)["right"]
    gqa = find_task("gqa")
    row = {
        "answer": "chair",
        "structural": "s",
        "semantic": "s",
        "steps": 1,
        "words": 2,
        "group": None,
        "image": "a",
    }
    assert not gqa.score(Reply("Chair. "), row)["right"]
    assert gqa.scorer(True)(Reply("Chair. "), row)["right"]


def test_mmbench_circular_is_right_only_if_every_round_is():
    task = find_task("mmbench-circular")
    row = {"options": ["cat", "dog"], "letters": "AB", "answer": "B", "index": 7, "category": ""}
    turned = row | {"options": ["dog", "cat"], "letters": "BA"}
    both = task.summary([task.score(Reply("B"), row), task.score(Reply("A"), turned)])
    assert (both["accuracy"].value, both["circular"].value) == (1, 1)
    always_b = task.summary([task.score(Reply("B"), row), task.score(Reply("B"), turned)])
    assert (always_b["accuracy"].value, always_b["circular"].value) == (1, 0)
    later = row | {"index": 1_000_007}
    grouped = find_task("mmbench").summary([task.score(Reply("B"), row), task.score(Reply("no"), later)])
    assert grouped["circular"].value == 0


def test_tdiuc_means_over_kinds():
    task = find_task("tdiuc")
    rows = [{"kind": "color", "answer": "red", "image": str(n)} for n in range(3)] + [
        {"kind": "count", "answer": "2", "image": "9"}
    ]
    scores = [
        task.score(Reply(text), row) for text, row in zip(["Red.", "red", "blue", "two"], rows, strict=True)
    ]
    figures = task.summary(scores)
    assert figures["accuracy"].value == 0.75
    assert figures["arithmetic_mean"].value == pytest.approx((2 / 3 + 1) / 2)
    assert figures["harmonic_mean"].value == pytest.approx(2 / (3 / 2 + 1))


def test_rows_about_one_picture_have_an_interval_too():
    """One group gives every draw the same mean, and so a width of nothing."""
    found = mean([1, 0, 1, 1, 0, 1, 1, 0], ["a"] * 8)
    assert found == mean([1, 0, 1, 1, 0, 1, 1, 0])
    assert found.low < found.value < found.high
