"""Phrases and boxes of answers against those that the original's parser found."""

from __future__ import annotations

from typing import Any

import pytest
from tests.parity.golden_cogvlm import told

from beholder.grounding.match import Phrase, match_phrases, original_phrases

CASES: list[dict[str, Any]] = told("grounding")["cases"]


def spans(case: dict[str, Any]) -> list[tuple[int, int]]:
    return [(start, end) for start, end in case["noun_chunks"]]


def test_enough_was_recorded():
    assert len(CASES) == 37


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_original_s_phrases(case):
    if "text_to_dict_error" in case:
        with pytest.raises(ValueError, match="invalid literal"):
            original_phrases(case["text"], spans(case))
        return
    assert [[phrase, boxes] for phrase, boxes in original_phrases(case["text"], spans(case)).items()] == case[
        "text_to_dict"
    ]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_ours_never_fails(case):
    for phrase in match_phrases(case["text"], spans(case)):
        assert all(0 <= number < 1 for box in phrase.boxes for number in box)
        assert "[[" not in phrase.text


def test_what_ours_does_better():
    dogs = "A dog [[100,100,200,200]] and a dog [[300,300,400,400;500,500,600,600]]"
    text = f"{dogs} [[1,2]], a cat[[000,000,999,999]]"
    dog, cat = (0.1, 0.1, 0.2, 0.2), (0.0, 0.0, 0.999, 0.999)
    assert match_phrases(text, [(0, 5), (30, 35), (81, 86)]) == [
        Phrase("A dog", (dog,)),
        Phrase("a dog", ((0.3, 0.3, 0.4, 0.4), (0.5, 0.5, 0.6, 0.6))),
        Phrase("a cat", (cat,)),
    ]
    assert [phrase.text for phrase in match_phrases(text)] == ["A dog", "and a dog", "[[1,2]], a cat"]
