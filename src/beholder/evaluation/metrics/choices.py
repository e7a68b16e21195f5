"""Which of several options an answer chooses, as ScienceQA, MMMU, SEED-Bench and MMBench read it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")
OUTSIDE = (",", ".", "!", "?", ";", ":", "'")
SINGLE_LETTER = re.compile(r"^\W*([A-Za-z])(?:\W|$)")
SAID_LETTER = re.compile(r"\b(?:answer|option|choice)\b\s*(?:is|:)?\s*\(?([A-Z])\b", re.IGNORECASE)


def scienceqa_letter(text: str) -> str | None:
    """A letter of A to E alone or before ". ", or the letter of one single "The answer is X.".

    From llava/eval/eval_science_qa.py (c121f04). The full stop in the pattern stands for any character.
    """
    if text in tuple("ABCDE"):
        return text
    if len(text) >= 3 and text[0] in "ABCDE" and text[1:3] == ". ":
        return text[0]
    found = THE_ANSWER_IS.findall(text)
    return found[0] if len(found) == 1 else None


def plain_letter(text: str, letters: Sequence[str]) -> str | None:
    """The reading without quirks: a letter at the start, alone or in brackets, or after "answer is"."""
    # "A cat" and "I see" begin with words, not with letters of options.
    first = None if re.match(r"^[AIai]\s+\w", text) else SINGLE_LETTER.match(text)
    found = first or SAID_LETTER.search(text)
    return found[1].upper() if found and found[1].upper() in letters else None


def mmmu_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The last option that an answer names; None where the original draws one at random.

    From qh360_vl/eval/model_vqa_mmmu.py (ad6a11c): letters in brackets, else letters between blanks, else, in
    answers of more than five words, the texts of options.
    """
    said = text
    for mark in OUTSIDE:
        said = said.strip(mark)
    said = f" {said} "
    for form in ("({})", " {} "):
        found = [letter for letter in options if form.format(letter) in said]
        if found:
            return max(found, key=lambda letter: said.rfind(form.format(letter)))
    if len(said.split()) <= 5:
        return None
    lower = said.lower()
    named = [letter for letter, option in options.items() if option.lower() in lower]
    return max(named, key=lambda letter: lower.rfind(options[letter].lower()), default=None)


def inferred_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The option that an answer names beyond doubt: by one letter, else by the text of one option.

    The rule by which MMBench answers are read where no judge is asked: a doubtful answer chooses nothing.
    """
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
    # In a sentence "A" is more often a word than a letter.
    named = [letter for letter in options if letter in words and (letter != "A" or len(words) <= 3)]
    if named:
        return named[0] if len(named) == 1 else None
    lower = text.lower()
    if len(lower) > 2 * sum(map(len, options.values())) + 8:
        return None
    contained = [letter for letter, option in options.items() if option.strip().lower() in lower]
    return contained[0] if len(contained) == 1 else None


def option_lines(options: Sequence[str]) -> str:
    """Options as "A. first" lines, with a line end before each."""
    return "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
