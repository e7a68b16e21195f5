"""Prompts and training samples exactly as the published code makes them, from text that is rendered already.

Here special tokens and `<image>` count wherever they stand, as in tokenizer_image_token
(llava/mm_utils.py) and
the preprocess functions (llava/train/train.py) of haotian-liu/LLaVA (c121f04). It is what released
models were
trained and measured with; conversations with users go through the processor, which keeps their words literal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from beholder.core.errors import InputError
from beholder.families.llava.templates import END, START, ChatTemplate
from beholder.processing.labels import IGNORED
from beholder.processing.pieces import PieceEncoder
from beholder.processing.templates import Segment, rendered_text

PICTURE = "<image>"
PICTURE_ID = -200

Turns = Sequence[Mapping[str, str]]  # {"from": "human" or "gpt", "value": text}


def prompt_ids(
    prompt: str, pieces: PieceEncoder, picture: str = PICTURE, picture_id: int = PICTURE_ID
) -> list[int]:
    """Ids of a prompt without begin of text; what stands between two pictures is tokenised for itself."""
    ids: list[int] = []
    for number, chunk in enumerate(prompt.split(picture)):
        ids += [picture_id] if number else []
        ids += chunk_ids(chunk, pieces)
    return ids


def chunk_ids(chunk: str, pieces: PieceEncoder) -> list[int]:
    """Ids of one chunk, special tokens in it included."""
    specials = sorted(pieces.added_vocab(), key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, specials))})") if specials else None
    ids: list[int] = []
    is_first = True
    for part in pattern.split(chunk) if pattern else [chunk]:
        special = pieces.special_id(part) if part else None
        ids += [special] if special is not None else pieces.pieces(part, is_first=is_first)[0]
        is_first = is_first and special is None
    return ids


@dataclass(frozen=True)
class Sample:
    """Ids with -200 for each picture, labels, and what the published code warned of, if anything."""

    input_ids: list[int]
    labels: list[int]
    warning: str = ""


@dataclass(frozen=True)
class SampleMaker:
    """The published preparation of training samples under one template."""

    pieces: PieceEncoder
    template: ChatTemplate
    longest: int = 2048
    has_start_end: bool = False

    def make(self, turns: Turns, *, has_image: bool) -> Sample:
        """One sample; `has_image` says whether it comes with a picture."""
        if has_image:
            turns = self.with_pictures_first(turns)
        if self.template.style == "PLAIN":
            return self._plain(turns)
        if self.template.style == "SINGLE":
            return self._single(turns, has_image)
        return self._rounds(turns, has_image)

    def with_pictures_first(self, turns: Turns) -> list[dict[str, str]]:
        """Every turn with a picture begins with it; several in one turn become one."""
        changed: list[dict[str, str]] = []
        for turn in turns:
            text = turn["value"]
            if PICTURE in text:
                text = f"{PICTURE}\n{text.replace(PICTURE, '').strip()}".strip()
                if "mmtag" in self.template.version:
                    text = text.replace(PICTURE, f"<Image>{PICTURE}</Image>")
            if self.has_start_end:
                text = text.replace(PICTURE, f"{START}{PICTURE}{END}")
            changed.append({"from": turn["from"], "value": text})
        return changed

    def prompt(self, turns: Turns) -> str:
        """The whole conversation as text."""
        if turns and turns[0]["from"] != "human":
            turns = turns[1:]
        roles = {"human": self.template.roles[0], "gpt": self.template.roles[1]}
        wanted = [("human", "gpt")[number % 2] for number in range(len(turns))]
        if [turn["from"] for turn in turns] != wanted:
            raise InputError("the turns of a training sample must alternate, beginning with the human's")
        spoken = [(roles[turn["from"]], [Segment("text", turn["value"])]) for turn in turns]
        return rendered_text(replace(self.template, preset=()).segments(spoken), PICTURE)

    def _ids(self, text: str, has_image: bool) -> list[int]:
        begin = [cast("int", self.pieces.tokenizer.bos_token_id)]
        return begin + (prompt_ids(text, self.pieces) if has_image else chunk_ids(text, self.pieces))

    def _plain(self, turns: Turns) -> Sample:
        if len(turns) != 2 or PICTURE not in turns[0]["value"]:
            raise InputError("a sample of the plain template has two turns, and a picture in the first")
        ids = self._ids(PICTURE + turns[1]["value"] + self.template.separator, True)
        masked = len(self._ids(PICTURE, True))
        return Sample(ids, [IGNORED] * masked + ids[masked:])

    def _rounds(self, turns: Turns, has_image: bool) -> Sample:
        """Question and answer, round by round, found by their separators; counted as the original counts."""
        text = self.prompt(turns)
        ids = self._ids(text, has_image)
        ids = ids if has_image else ids[: self.longest]
        labels, place = list(ids), 1
        labels[:1] = [IGNORED]
        is_llama_2 = self.template.style == "LLAMA_2"
        mark = "[/INST] " if is_llama_2 else f"{self.template.separator}{self.template.roles[1]}: "
        # The second rule is newer than the first release; under the oldest rule nothing needed correcting.
        shorter = int(not is_llama_2 and self.pieces.marking == "current")
        for number, spoken in enumerate(text.split(self.template.end or "")):
            parts = spoken.split(mark)
            if not spoken or len(parts) != 2:
                break
            less = shorter if number else 0
            length = len(self._ids(spoken, has_image)) - less
            question = len(self._ids(parts[0] + mark, has_image)) - 2 - less
            _mask(labels, place, place + question)
            place += length
        _mask(labels, place, len(labels))
        total = sum(token != self.pieces.tokenizer.unk_token_id for token in ids)
        if place < self.longest and place != total:
            warning = f"WARNING: tokenization mismatch: {place} vs. {total}. (ignored)"
            return Sample(ids, [IGNORED] * len(ids), warning)
        return Sample(ids, labels)

    def _single(self, turns: Turns, has_image: bool) -> Sample:
        """The oldest form. Each piece is counted with its begin of text, so the mask drifts; kept so."""
        roles = {"human": self.template.roles[0], "gpt": self.template.roles[1]}
        header = f"{self.template.system}\n\n"
        spoken = [f"### {roles.get(turn['from'], 'unknown')}: {turn['value']}\n" for turn in turns]
        ids = self._ids("".join([header, *spoken, "### "]), has_image)
        ids = ids if has_image else ids[: self.longest]
        labels = list(ids)

        def count(text: str) -> int:
            return min(len(self._ids(text, has_image)), self.longest)

        place = count(header)
        _mask(labels, 0, place)
        for turn, text in zip(turns, spoken, strict=True):
            length = count(text)
            if turn["from"] == "human":
                _mask(labels, place + 2, place + length)
            place += length
        return Sample(ids, labels)


def _mask(labels: list[int], start: int, end: int) -> None:
    """Leave a stretch out of training; what lies beyond the end does not exist."""
    for number in range(start, min(end, len(labels))):
        labels[number] = IGNORED
