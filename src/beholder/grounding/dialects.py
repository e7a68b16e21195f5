"""Boxes as different models write them: read with the reason where one cannot be read, and written.

A box is written in fractions of a space: of the picture itself, which such models see stretched to a square,
or of the square that pads the picture. `thousandths` is CogVLM's form, `unit` 360VL's and LLaVA's,
`unit-list` Shikra's, `tagged` Qwen-VL's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from beholder.core.errors import ConfigError
from beholder.core.types import Box
from beholder.grounding.boxes import Fractions, Frame, clip, to_pixels

Space = Literal["picture", "padded"]


@dataclass(frozen=True)
class Written:
    """One box of an answer: fractions of its space, the phrase that names it (if tagged), where it stands."""

    corners: Fractions
    space: Space
    start: int
    end: int
    phrase: str = ""


@dataclass(frozen=True)
class Reading:
    """All boxes of an answer in reading order, and why anything that looks like one is not among them."""

    boxes: tuple[Written, ...]
    reason: str = ""
    is_broken: bool = False  # something looks like a box of this form and is none


@dataclass(frozen=True)
class Dialect:
    """One way of writing: groups of boxes in brackets, numbers of a scale, in a space."""

    name: str
    group: re.Pattern[str]  # the whole group; group 1 holds its boxes
    parting: re.Pattern[str]  # between the boxes of a group
    number: re.Pattern[str]  # one whole number as it must be written
    scale: float
    space: Space
    write: Callable[[Sequence[Fractions]], str]
    phrase: re.Pattern[str] | None = None  # what stands before a group and names it


def _thousandths(boxes: Sequence[Fractions]) -> str:
    parts = (",".join(f"{min(999, max(0, int(value * 1000 + 1e-9))):03d}" for value in box) for box in boxes)
    return f"[[{';'.join(parts)}]]"


def _unit(boxes: Sequence[Fractions]) -> str:
    return "; ".join(f"[{','.join(f'{value:.3f}' for value in box)}]" for box in boxes)


def _unit_list(boxes: Sequence[Fractions]) -> str:
    return f"[{';'.join(','.join(f'{value:.3f}' for value in box) for box in boxes)}]"


def _tagged(boxes: Sequence[Fractions]) -> str:
    whole = [[round(value * 1000) for value in box] for box in boxes]
    return "".join(f"<box>({x1},{y1}),({x2},{y2})</box>" for x1, y1, x2, y2 in whole)


FRACTION = re.compile(r"\s*(?:0?\.\d+|[01](?:\.\d*)?)\s*")
DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "thousandths", re.compile(r"\[\[([^\[\]]*)\]\]"), re.compile(";"), re.compile(r"\s*\d{1,3}\s*"),
            1000, "picture", _thousandths,
        ),
        Dialect(
            "unit", re.compile(r"(?<!\[)\[([^\[\];]*)\](?!\])"), re.compile(r"(?!)"), FRACTION,
            1, "padded", _unit,
        ),
        Dialect(
            "unit-list", re.compile(r"(?<!\[)\[([^\[\]]*)\](?!\])"), re.compile(";"), FRACTION,
            1, "padded", _unit_list,
        ),
        Dialect(
            "tagged", re.compile(r"<box>(.*?)</box>", re.DOTALL), re.compile(r"(?!)"),
            re.compile(r"\s*\d{1,4}\s*"),
            1000, "picture", _tagged, re.compile(r"<ref>(.*?)</ref>\s*$", re.DOTALL),
        ),
    )
}  # fmt: skip
LOOKS_LIKE_ONE = re.compile(r"[\d.]\s*,\s*[\d.]")


def find_dialect(name: str) -> Dialect:
    """The dialect of that name."""
    if name not in DIALECTS:
        raise ConfigError(f"there is no box dialect {name!r}; known: {', '.join(DIALECTS)}")
    return DIALECTS[name]


def read_boxes(text: str, dialect: str | None = None) -> Reading:
    """The boxes of an answer in one dialect, or in any. Never raises for what a model may say."""
    chosen = (
        [find_dialect(dialect)]
        if dialect
        else [DIALECTS[name] for name in ("thousandths", "unit-list", "tagged")]
    )
    found: list[Written] = []
    reasons: list[tuple[int, str]] = []
    for one in chosen:
        for match in one.group.finditer(text):
            named = one.phrase.search(text[: match.start()]) if one.phrase else None
            for part in one.parting.split(match[1]):
                corners = _corners(part, one)
                if isinstance(corners, str):
                    if LOOKS_LIKE_ONE.search(part):
                        reasons.append((match.start(), f"{match[0][:60]!r}: {corners}"))
                    continue
                phrase = named[1].strip() if named else ""
                found.append(Written(corners, one.space, match.start(), match.end(), phrase))
    found.sort(key=lambda box: box.start)
    reason = "; ".join(told for _, told in sorted(reasons))
    if not found and not reason:
        reason = "the answer holds no box" if text.strip() else "the answer is empty"
    return Reading(tuple(found), reason, bool(reasons))


def _corners(part: str, dialect: Dialect) -> Fractions | str:
    """Four fractions, or why these are none."""
    numbers = (
        part.replace("(", "").replace(")", "").split(",") if dialect.name == "tagged" else part.split(",")
    )
    if len(numbers) != 4:
        return f"{len(numbers)} numbers instead of 4"
    for number in numbers:
        # str.isdigit and int() know more digits than a model may mean; these are the plain ones.
        if not (number.isascii() and dialect.number.fullmatch(number)):
            return f"{number.strip()!r} is not a number of this form"
    x1, y1, x2, y2 = (float(number) / dialect.scale for number in numbers)
    if max(x1, y1, x2, y2) > 1:
        return "a number beyond the picture"
    if x1 > x2 or y1 > y2:
        return "the corners are in the wrong order"
    return x1, y1, x2, y2


def frame_of(space: Space, width: int, height: int) -> Frame:
    """The rectangle that fractions of a space refer to."""
    return Frame.picture(width, height) if space == "picture" else Frame.padded_square(width, height)


def place(box: Written, width: int, height: int, picture: int = 0) -> Box:
    """A box of an answer as pixels of the original picture, cut to it."""
    return clip(to_pixels(box.corners, frame_of(box.space, width, height), picture), width, height)


def to_fractions(box: Box, frame: Frame) -> Fractions:
    """The way back from pixels, cut to the frame."""

    def share(value: float, start: float, size: float) -> float:
        return min(1.0, max(0.0, (value - start) / size))

    return (
        share(box.x1, frame.left, frame.width),
        share(box.y1, frame.top, frame.height),
        share(box.x2, frame.left, frame.width),
        share(box.y2, frame.top, frame.height),
    )


def write_boxes(boxes: Sequence[Box], width: int, height: int, dialect: str) -> str:
    """Boxes in pixels as a model writes and reads them: for questions about a region."""
    chosen = find_dialect(dialect)
    frame = frame_of(chosen.space, width, height)
    return chosen.write([to_fractions(box, frame) for box in boxes])
