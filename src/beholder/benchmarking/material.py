"""What is asked while measuring: pictures that nobody has seen, and conversations about them."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from beholder.core.types import Message

QUESTION = "What is in the picture?"
FURTHER = " Say what is in front, what is behind it, and which colours there are."
FIRST_ANSWER = "There are some shapes of several colours before a plain wall."
SECOND_QUESTION = "Which of them is the largest, and what stands to the left of it?"
SIZE = (640, 480)
LARGE_SIZE = (4000, 3000)  # twelve megapixels


def picture(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture of soft colours with fine grain; another number, another picture."""
    draw = np.random.default_rng(number)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), np.uint8))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    grain = draw.integers(-8, 9, pixels.shape[:2], np.int16)
    return Image.fromarray(np.clip(pixels + grain[..., None], 0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def large_jpeg() -> bytes:
    """A JPEG of twelve megapixels, as a camera stores one."""
    file = io.BytesIO()
    picture(12, LARGE_SIZE).save(file, "JPEG", quality=90)
    return file.getvalue()


@dataclass
class Conversations:
    """Numbers its pictures, so that no two of a run are the same and nothing of them is stored yet."""

    shown: int = 0
    lengths: random.Random = field(default_factory=lambda: random.Random(0))

    def first_turn(self) -> tuple[Message, ...]:
        """A new picture and a question."""
        self.shown += 1
        return (Message.user(picture(self.shown), QUESTION),)

    def varied(self) -> tuple[Message, ...]:
        """A new picture and a question of another length than its neighbours'."""
        self.shown += 1
        return (Message.user(picture(self.shown), QUESTION + FURTHER * (self.shown % 4)),)

    def words(self, number: int) -> tuple[Message, ...]:
        """A question about no picture; another number, another question."""
        return (Message.user(f"How many are {number} and {number + 1}?" + FURTHER),)

    def answer_length(self, shortest: int, longest: int) -> int:
        """How long the next answer is to be, the same numbers in every run."""
        return self.lengths.randint(shortest, longest)


def second_turn(first: tuple[Message, ...]) -> tuple[Message, ...]:
    """The next question about the same picture."""
    return (*first, Message.assistant(FIRST_ANSWER), Message.user(SECOND_QUESTION))


def as_chat(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The same conversation as transformers' processors take it."""
    return [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
                for part in message.parts
            ],
        }
        for message in messages
    ]
