"""Training rows in LLaVA's JSON or JSONL form, turned into samples by the family's processor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset

from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.processing.images import open_picture
from beholder.processing.labels import IGNORED

MARKER = "<image>"
SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system"}


class TrainingProcessor(Protocol):
    """What a family's processor offers to training."""

    def encode_training(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Conversation -> `input_ids`, `labels` and, where pictures are, `pixel_values`."""
        ...


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a `.json` list or a `.jsonl` file."""
    if not path.is_file():
        raise InputError(f"no training rows at {path}; give a .json or .jsonl file in LLaVA's form")
    try:
        if path.suffix == ".jsonl":
            rows = [
                json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
        else:
            rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); expected a list of rows or one row per line"
        ) from error
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and "conversations" in row for row in rows
    ):
        raise InputError(f"{path}: every row must be an object with a 'conversations' list")
    return rows


def row_name(row: dict[str, Any]) -> str:
    """How a row is called in messages."""
    return str(row.get("id", row.get("image", "without id")))


def row_pictures(row: dict[str, Any]) -> list[str]:
    """Picture paths of a row: `image` may be missing, one string, or a list."""
    image = row.get("image")
    if image is None:
        return []
    return [image] if isinstance(image, str) else list(image)


def row_messages(row: dict[str, Any], pictures: Path) -> list[Message]:
    """Conversation of a row with its pictures opened where `<image>` stands.

    The marker belongs to the file format here, unlike in a user's own text. A newline that only separates
    marker and text in the file is dropped, because the template writes its own.
    """
    waiting = [open_picture(pictures / name) for name in row_pictures(row)]
    messages: list[Message] = []
    for turn in row["conversations"]:
        if turn.get("from") not in SPEAKERS:
            raise InputError(
                f"row {row_name(row)}: unknown speaker {turn.get('from')!r}; use human, gpt or system"
            )
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
    return messages


class Conversations(Dataset[dict[str, Any]]):
    """Samples made on the fly: a row's pictures are opened and its text is rendered when it is asked for."""

    def __init__(
        self, sources: Sequence[tuple[list[dict[str, Any]], Path]], processor: TrainingProcessor
    ) -> None:
        self.index = [(source, row) for source, (rows, _) in enumerate(sources) for row in range(len(rows))]
        self.sources = list(sources)
        self.processor = processor

    def __len__(self) -> int:
        return len(self.index)

    def row(self, position: int) -> tuple[dict[str, Any], Path]:
        """The raw row and its picture folder."""
        source, row = self.index[position]
        rows, pictures = self.sources[source]
        return rows[row], pictures

    def lengths(self) -> list[int]:
        """Size of each row's text in bytes, negative without pictures: enough to group similar rows."""
        sizes: list[int] = []
        for position in range(len(self)):
            row, _ = self.row(position)
            size = sum(len(turn["value"].encode()) for turn in row["conversations"])
            sizes.append(size if row_pictures(row) else -size)
        return sizes

    def __getitem__(self, position: int) -> dict[str, Any]:
        row, pictures = self.row(position)
        sample = self.processor.encode_training(row_messages(row, pictures))
        if all(label == IGNORED for label in sample["labels"]):
            raise InputError(
                f"row {row_name(row)} has no trained token: it needs at least one non-empty answer from 'gpt'"
            )
        return sample
