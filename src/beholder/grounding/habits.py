"""How one checkpoint is asked for boxes and in which form it answers, and what is found that way."""

from __future__ import annotations

from dataclasses import dataclass

from beholder.core.errors import InputError
from beholder.core.types import Answer, Box
from beholder.grounding.boxes import Frame, clip, to_pixels
from beholder.grounding.dialects import Written, find_dialect, read_boxes, to_fractions

PHRASE = "{phrase}"
BOX = "{box}"
# The questions of the training data that many models have in common.
EXPRESSION = {
    "question": f"Please provide the bounding box coordinate of the region this sentence describes: {PHRASE}",
    "region_question": f"Please provide a short description for this region: {BOX}",
}


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What a checkpoint was trained to do with boxes.

    `dialects` are the forms its answers are read in (see `DIALECTS`), the first also the one that questions
    name boxes in. `question` asks for a box, `region_question` about one. `untrained` says why it cannot be
    asked for boxes; empty where it can, or where nobody knows.
    """

    dialects: tuple[str, ...] = ("thousandths", "unit-list", "tagged")
    question: str = f"What is the bounding box of the {PHRASE}?"
    region_question: str = f"What is in the region {BOX}?"
    untrained: str = ""

    def asked(self, phrase: str, question: str | None = None) -> str:
        """The question for what a phrase names; a question of one's own is asked whatever is known."""
        if not phrase.strip():
            raise InputError("the phrase is empty; say what to find")
        if question is None and self.untrained:
            raise InputError(f"{self.untrained}; ask with a question of your own to try it all the same")
        return _filled(self.question if question is None else question, PHRASE, phrase.strip())

    def asked_about(self, box: Box, frame: Frame, question: str | None = None) -> str:
        """The question about what is in a box (pixels), which is written as the checkpoint writes boxes."""
        if question is None and self.untrained:
            raise InputError(f"{self.untrained}; ask with a question of your own to try it all the same")
        written = find_dialect(self.dialects[0]).write([to_fractions(box, frame)])
        return _filled(self.region_question if question is None else question, BOX, written)

    def read(self, text: str) -> tuple[list[Written], str]:
        """The boxes of an answer in reading order, and why what looks like one is not among them."""
        readings = [read_boxes(text, dialect) for dialect in self.dialects]
        found = sorted((box for reading in readings for box in reading.boxes), key=lambda box: box.start)
        # An answer in one form holds no box in another, which is no news.
        broken = [one.reason for one in readings if one.is_broken]
        return found, "; ".join(broken or ([] if found else [readings[0].reason]))

    def boxes(self, text: str, frame: Frame, size: tuple[int, int], picture: int = 0) -> tuple[Box, ...]:
        """The boxes of an answer in pixels of a picture, cut to it; `frame` is what its fractions are of."""
        return tuple(clip(to_pixels(one.corners, frame, picture), *size) for one in self.read(text)[0])


def _filled(question: str, place: str, text: str) -> str:
    if place not in question:
        raise InputError(
            f"the question {question!r} has no {place}; write it where {place[1:-1]} should stand"
        )
    return question.replace(place, text)


@dataclass(frozen=True)
class Grounding:
    """What was found for a phrase: boxes in pixels with a label each, and the answer they were read from.

    `reason` says why there is no box, or what in the answer looked like one and is none.
    """

    phrase: str
    boxes: tuple[Box, ...]
    labels: tuple[str, ...]
    answer: Answer
    reason: str = ""

    @classmethod
    def of(cls, phrase: str, answer: Answer, habits: Habits) -> Grounding:
        """The boxes of an answer, each with the phrase it is tagged with or else the one asked for."""
        written, reason = habits.read(answer.text)
        labels = tuple(one.phrase or phrase for one in written)
        return cls(phrase, answer.boxes, labels, answer, reason)
