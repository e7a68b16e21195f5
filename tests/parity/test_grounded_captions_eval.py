"""Phrases and boxes equal those of CogVLM's parser, but for what it loses and what it fails on."""

from __future__ import annotations

from typing import Any

import pytest
from tests.parity.golden_eval import GOLDEN, read

from beholder.core.types import Box
from beholder.grounding.dialects import place, read_boxes
from beholder.grounding.phrases import noun_chunks, read_phrases

CASES = read(GOLDEN / "cogvlm" / "grounding.json")["cases"]
PARSED = [case for case in CASES if "text_to_dict" in case]


def valid(boxes: list[list[float]]) -> list[tuple[float, ...]]:
    """What the original draws: four numbers, corners in order, cut to the picture."""
    return [
        tuple(min(value, 1.0) for value in box)
        for box in boxes
        if len(box) == 4 and box[0] <= box[2] and box[1] <= box[3]
    ]


def as_dictionary(case: dict[str, Any], chunks: Any) -> dict[str, list[tuple[float, ...]]]:
    """The original's form, in which a phrase said twice keeps only its last boxes."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for phrase in read_phrases(case["text"], chunks):
        found[phrase.text] = list(phrase.boxes)
    return found


@pytest.mark.parametrize("case", PARSED, ids=lambda case: case["text"][:40])
def test_same_phrases_as_the_original(case):
    expected = {phrase: valid(boxes) for phrase, boxes in case["text_to_dict"]}
    ours = as_dictionary(case, [tuple(chunk) for chunk in case["noun_chunks"]])
    assert list(ours.items()) == list(expected.items())


# Two annotations are no noun phrases of English: a chunk within a chunk, and one that holds a box.
UNNATURAL = ("The big red bus", "The left boat")


@pytest.mark.parametrize(
    "case", [c for c in PARSED if not c["text"].startswith(UNNATURAL)], ids=lambda case: case["text"][:40]
)
def test_same_phrases_without_spacy(case):
    expected = {phrase: valid(boxes) for phrase, boxes in case["text_to_dict"]}
    assert list(as_dictionary(case, None).items()) == list(expected.items())


def test_what_the_original_fails_on_has_a_reason():
    failing = [case for case in CASES if case.get("parse_response_error") and "text_to_dict" not in case]
    assert len(failing) == 2
    for case in failing:
        (phrase,) = read_phrases(case["text"])
        assert not phrase.boxes
        assert phrase.reason


def test_a_phrase_said_twice_keeps_both_boxes():
    text = "A dog [[100,100,200,200]] and a dog [[300,300,400,400]]."
    phrases = read_phrases(text)
    assert [(one.text, one.boxes) for one in phrases] == [
        ("a dog", ((0.1, 0.1, 0.2, 0.2),)),
        ("a dog", ((0.3, 0.3, 0.4, 0.4),)),
    ]
    assert [text[begin:end] for begin, end in noun_chunks(text)] == ["A dog", "a dog"]


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("A woman with red hair [[100,100,200,200]]", "red hair"),
        ("A cup [[1,1,2,2]] and saucer [[100,100,200,200]]", "saucer"),
        ("A plate of the day [[100,100,200,200]]", "the day"),
    ],
)
def test_phrases_without_an_article(text, phrase):
    assert read_phrases(text)[-1].text == phrase


def test_phrases_in_pixels():
    (phrase,) = read_phrases("A dog [[100,100,200,200;500,0,999,500]]")
    assert phrase.pixels(1000, 10, 2) == (Box(100, 1, 200, 2, 2), Box(500, 0, 999, 5, 2))


def is_plain(case: dict[str, Any]) -> bool:
    """Whether the later demo drew rectangles of an answer whose boxes are all written as they should be."""
    drawn = case.get("composite_demo") or []
    return (
        bool(drawn) and not read_boxes(case["text"]).reason and all(s["kind"] == "rectangle" for s in drawn)
    )


PLAIN = [case for case in CASES if is_plain(case)]


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case["text"][:40])
def test_pixels_as_in_the_composite_demo(case):
    """Within its cutting to whole pixels."""
    width, height = case["image_size"]
    ours = [place(box, width, height) for box in read_boxes(case["text"]).boxes]
    for box, shape in zip(ours, case["composite_demo"], strict=True):
        for one, other in zip((box.x1, box.y1, box.x2, box.y2), shape["box"], strict=True):
            assert -1e-6 <= one - other < 1


def test_most_answers_are_plain():
    assert len(PLAIN) >= 18
