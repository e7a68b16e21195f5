"""Training rows in LLaVA's form or with OpenAI's messages, turned into samples by the family's processor."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, cast

from torch.utils.data import Dataset

from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.processing.images import open_picture
from beholder.processing.labels import IGNORED, trains_nothing
from beholder.processing.messages import IMAGE_KEYS, read_message
from beholder.training.rows import has_messages

MARKER = "<image>"
ROW = "row"  # which row a sample was made of
SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system"}


class TrainingProcessor(Protocol):
    """What a family's processor offers to training."""

    def encode_training(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Conversation -> `input_ids`, `labels` and, where pictures are, `pixel_values`."""
        ...


def row_name(row: dict[str, Any]) -> str:
    """How a row is called in messages."""
    return str(row.get("id", row.get("image", "without id")))


@contextmanager
def of_row(row: dict[str, Any]) -> Generator[None]:
    """What is wrong with a picture or a text inside is told with the row's name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"row {row_name(row)}: {error}") from error


def row_pictures(row: dict[str, Any]) -> list[str]:
    """Picture paths of a row: `image` may be missing, one string, or a list."""
    if has_messages(row):
        return [str(source) for source in message_pictures(row["messages"])]
    image = row.get("image")
    if image is None:
        return []
    return [image] if isinstance(image, str) else list(image)


def message_pictures(messages: Sequence[Any]) -> list[Any]:
    """What stands for the pictures of OpenAI's messages, in order."""
    found: list[Any] = []
    for turn in messages:
        for part in parts_of(turn):
            if part.get("type") == "image_url":
                url = part.get("image_url")
                found.append(url.get("url") if isinstance(url, dict) else url)
            elif part.get("type") == "image":
                found += [part[key] for key in IMAGE_KEYS if part.get(key) is not None]
    return found


def parts_of(turn: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of one of OpenAI's messages; what is no part is told when the message is read."""
    content = turn.get("content")
    if not isinstance(content, list):
        return [{"type": "text", "text": content or ""}]
    return [part for part in cast("list[Any]", content) if isinstance(part, dict)]


def row_texts(row: dict[str, Any]) -> list[str]:
    """The words of each turn; `<image>` is among them where the file has it."""
    if not has_messages(row):
        return [turn["value"] for turn in row["conversations"]]
    return [
        " ".join(
            MARKER if part.get("type") != "text" else str(part.get("text") or "") for part in parts_of(turn)
        )
        for turn in row["messages"]
    ]


def open_below(folder: Path, source: Any) -> Any:
    """A picture of a row: paths start from `folder`, addresses and data stand for themselves."""
    if isinstance(source, str) and not source.startswith(("data:", "http://", "https://")):
        return open_picture(folder / source)
    return open_picture(source)


def picture_name(folder: Path, source: str) -> str:
    """A name by which a picture is known again; of one that is inside its row, the hash."""
    if source.startswith("data:"):
        return hashlib.sha256(source.encode()).hexdigest()
    return f"{folder}/{source}"


def row_messages(row: dict[str, Any], pictures: Path) -> list[Message]:
    """Conversation of a row with its pictures opened where `<image>` stands.

    The marker belongs to the file format here, unlike in a user's own text. A newline that only separates
    marker and text in the file is dropped, because the template writes its own.
    """
    if has_messages(row):
        opener = partial(open_below, pictures)
        turns = enumerate(row["messages"], start=1)
        with of_row(row):
            return in_turns([read_message(turn, number, opener) for number, turn in turns])
    with of_row(row):
        waiting = [open_picture(pictures / name) for name in row_pictures(row)]
    messages: list[Message] = []
    for turn in row["conversations"]:
        if turn.get("from") not in SPEAKERS:
            raise InputError(
                f"row {row_name(row)}: unknown speaker {turn.get('from')!r}; use human, gpt or system"
            )
    for turn in row["conversations"][answers_nothing(row) :]:
        pieces = turn["value"].split(MARKER)
        if len(pieces) - 1 > len(waiting):
            raise InputError(f"row {row_name(row)}: more {MARKER} marks than pictures")
        parts: list[Any] = []
        for position, piece in enumerate(pieces):
            if position:
                parts.append(waiting.pop(0))
                piece = piece.removeprefix("\n")
            if position + 1 < len(pieces):
                piece = piece.removesuffix("\n")
            if piece:
                parts.append(piece)
        messages.append(Message(SPEAKERS[turn["from"]], tuple(parts)))  # type: ignore[arg-type]
    if waiting:
        raise InputError(f"row {row_name(row)}: {len(waiting)} pictures have no {MARKER} mark")
    with of_row(row):
        return in_turns(messages)


def answers_nothing(row: dict[str, Any]) -> bool:
    """Whether a row in LLaVA's form begins with an answer, which the original leaves out; a second one it
    refuses (`preprocess_v1` in llava/train/train.py, haotian-liu/LLaVA, c121f04).
    """
    turns = [] if has_messages(row) else row["conversations"]
    return bool(turns) and turns[0].get("from") == "gpt"


def in_turns(messages: list[Message]) -> list[Message]:
    """The messages, if user and assistant take turns after what the system says: templates end a message by
    its place, so that two of one kind would be written wrong.
    """
    spoken = messages[1:] if messages and messages[0].role == "system" else messages
    for number, message in enumerate(spoken):
        if message.role != (wanted := ("user", "assistant")[number % 2]):
            raise InputError(
                f"turn {number + 1} is the {message.role}'s where the {wanted}'s is due; join what one "
                "says in a row into one turn"
            )
    return messages


class Conversations(Dataset[dict[str, Any]]):
    """Samples made on the fly: a row's pictures are opened and its text is rendered when it is asked for."""

    def __init__(
        self, sources: Sequence[tuple[Sequence[dict[str, Any]], Path]], processor: TrainingProcessor
    ) -> None:
        self.sources = list(sources)
        self.firsts = [0, *accumulate(len(rows) for rows, _ in sources)]
        self.processor = processor

    def __len__(self) -> int:
        return self.firsts[-1]

    def row(self, position: int) -> tuple[dict[str, Any], Path]:
        """The raw row and its picture folder; IndexError where there is none."""
        if not -len(self) <= position < len(self):
            raise IndexError(f"there is no row {position} of {len(self)}")
        position %= len(self)
        source = bisect_right(self.firsts, position) - 1
        rows, pictures = self.sources[source]
        return rows[position - self.firsts[source]], pictures

    def rows(self) -> Iterator[tuple[dict[str, Any], Path]]:
        """All raw rows with their picture folders, in order."""
        return ((row, pictures) for rows, pictures in self.sources for row in rows)

    def lengths(self) -> list[int]:
        """Size of each row's text in bytes, negative without pictures: enough to group similar rows."""
        sizes: list[int] = []
        for row, _ in self.rows():
            size = sum(len(text.encode()) for text in row_texts(row))
            sizes.append(size if row_pictures(row) else -size)
        return sizes

    def words(self) -> list[int]:
        """Words of each row, negative without pictures, as LLaVA's grouping counts them."""
        counts: list[int] = []
        for row, _ in self.rows():
            count = sum(len(text.split()) for text in row_texts(row))
            counts.append(count if row_pictures(row) else -count)
        return counts

    def shown(self) -> list[tuple[str, ...]]:
        """The pictures of each row, those of the same name in different folders told apart."""
        names: list[tuple[str, ...]] = []
        for row, folder in self.rows():
            names.append(tuple(picture_name(folder, source) for source in row_pictures(row)))
        return names

    def __getitem__(self, position: int) -> dict[str, Any]:
        row, pictures = self.row(position)
        messages = row_messages(row, pictures)
        with of_row(row):
            sample = self.processor.encode_training(messages)
        if trains_nothing(sample["labels"]):
            shown = mask_of(sample["input_ids"], sample["labels"], self.processor)
            raise InputError(
                f"row {row_name(row)} has no trained token: it needs at least one non-empty answer from 'gpt'"
                f"; its tokens are: {shown}"
            )
        return sample | {ROW: position}


LONGEST_STRIP = 400


def mask_of(ids: Sequence[int], labels: Sequence[int], processor: Any, longest: int = LONGEST_STRIP) -> str:
    """The token strip of a sample: trained tokens stand in [brackets], a picture's slots are counted."""
    told: list[str] = []
    at = 0
    while at < len(ids):
        end = at
        while end < len(ids) and ids[end] == ids[at] and labels[end] == IGNORED:
            end += 1
        if end - at > 3:
            told.append(f"({end - at} x {token_text(processor, ids[at])})")
            at = end
            continue
        text = token_text(processor, ids[at])
        told.append(text if labels[at] == IGNORED else f"[{text}]")
        at += 1
    if len(told) > longest:
        told = [*told[:longest], f"... {len(told) - longest} more"]
    return " ".join(told)


def token_text(processor: Any, token: int) -> str:
    """A token as its tokenizer spells it; the picture's own where the tokenizer has no such row."""
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        return str(token)
    if 0 <= token < len(tokenizer):
        return str(tokenizer.convert_ids_to_tokens(token))
    return str(getattr(processor, "image_token", token))
