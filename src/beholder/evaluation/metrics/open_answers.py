"""Free answers to MMMU questions: what an answer may mean, and whether the truth is among it.

From the MMMU evaluation (utils of eval_mmmu, copy in BAAI-DCAI/Bunny, 08273ac).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Meaning = str | float

KEY_WORDS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
BARE = frozenset(":,.!?;'")
NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def meanings(answer: str) -> set[Meaning]:
    """Numbers (to two decimals) and lower-case texts that an answer may mean."""
    parts = _key_parts(answer)
    numbers = [number for part in parts for pattern in NUMBERS for number in pattern.findall(part)]
    return {meaning for text in (*parts, *numbers) for meaning in normal_meanings(text)}


def _key_parts(answer: str) -> list[str]:
    """What follows the last key word of each line; the shortest of them where there are several.

    The original means to part sentences too, but looks for capitals in a text without any.
    """
    text = answer.strip().strip(".").lower()
    lines = text.split("\n")
    found: list[str] = []
    for index, line in enumerate(lines):
        words = (*KEY_WORDS, "=") if index == len(lines) - 1 else KEY_WORDS
        after = [line.split(word)[-1].strip() for word in words if word in line]
        shortest = ""
        for part in after:  # an empty part gives way to whatever comes after it
            if not shortest or len(part) < len(shortest):
                shortest = part
        if shortest and shortest not in BARE:
            found.append(shortest)
    return found or [text]


def normal_meanings(text: str) -> list[Meaning]:
    """A number to two decimals, or a lower-case text; a single character only beside a blank."""
    plain = text.strip()
    try:
        return [round(float(plain.replace(",", "")), 2)]
    except ValueError:
        lower = plain.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def is_right(answer: str, truth: str | Sequence[str]) -> bool:
    """Whether a true text is contained in a meaning, or a true number equals one."""
    true = [
        meaning
        for text in ([truth] if isinstance(truth, str) else truth)
        for meaning in normal_meanings(text)
    ]
    for said in meanings(answer):
        if isinstance(said, str):
            if any(isinstance(one, str) and one in said for one in true):
                return True
        elif said in true:
            return True
    return False
