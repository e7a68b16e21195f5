"""Prompts, training rows and answers exactly as the original's own training and command line made them.

For whoever has data or records of the SAT code; nothing else here needs it. Two revisions differ: "seed" is
8bd8be9 (2023-11-29) and "head" f7283b2 of THUDM/CogVLM (utils/language.py, utils/template.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from beholder.core.errors import ConfigError
from beholder.families.cogvlm.routing import LANGUAGE, VISION, rotary_positions
from beholder.families.cogvlm.spelling import ids_of
from beholder.families.cogvlm.templates import PICTURE_MARK, question_text
from beholder.processing.labels import IGNORED

Revision = Literal["seed", "head"]

REMOVED = ("<pad>", "<s>", "</s>", PICTURE_MARK)
SEPARATORS: dict[Revision, dict[str, str]] = {
    "seed": {"base": "unk", "chat": "Answer: ", "vqa": "Short answer: "},
    "head": {"base": "<unk>", "chat": "[/INST]", "chat_old": " Answer:", "vqa": " Short answer:"},
}
ROOM_FOR_ANSWER: dict[Revision, int] = {"seed": 50, "head": 10}
ROOM_AT_END = 5


def prompt_text(
    version: str, query: str, history: Sequence[tuple[str, str]] = (), revision: Revision = "seed"
) -> str:
    """The prompt with the mark of the picture in front."""
    if version not in SEPARATORS[revision]:
        known = ", ".join(SEPARATORS[revision])
        raise ConfigError(f"revision {revision} has no prompt version {version!r}; known: {known}")
    if revision == "head" and version == "chat":
        past = "".join(f"{question} [/INST] {answer} [INST] " for question, answer in history)
        return f"{PICTURE_MARK} [INST] {past}{query} [/INST] "
    if revision == "head" and version == "vqa":
        history = ()
    return PICTURE_MARK + question_text(version.removesuffix("_old"), query, history)


@dataclass(frozen=True)
class Row:
    """One row of a batch; the masks are 0 and 1."""

    input_ids: list[int]
    position_ids: list[int]
    image_embed_mask: list[int]  # all slots of pictures
    vision_expert_mask: list[int]  # all but the last
    image_rope_mask: list[int]  # the patches
    labels: list[int] | None = None
    context_length: int | None = None


def inference_row(prompt: str, tokenizer: Any, image_length: int) -> Row:
    """A prompt with marks as a row; `image_length` is the number of patches."""
    ids, places = _ids(prompt, tokenizer)
    return _row(*_expand(ids, places, image_length))


def training_row(
    caption: str,
    prompt: str,
    tokenizer: Any,
    *,
    version: str,
    max_target_length: int,
    image_length: int,
    revision: Revision = "seed",
) -> Row | None:
    """A question and its answer as a padded row with labels; None where the question leaves too little room.

    A prompt without the picture's mark is cleaned and put into the template; the caption is taken as it is.
    """
    if PICTURE_MARK not in prompt:
        for literal in REMOVED:
            prompt = prompt.replace(literal, "")
        prompt = prompt_text(version, prompt, (), revision)
    ids, places = _ids(prompt, tokenizer)
    context = len(ids) + len(places) * (image_length + 1)
    if context > max_target_length - ROOM_FOR_ANSWER[revision]:
        return None
    ids = (ids + ids_of(caption, tokenizer))[: max_target_length - image_length - ROOM_AT_END]
    ids, types = _expand([*ids, tokenizer.eos_token_id], places, image_length)
    padding = max_target_length - len(ids)
    labels = [IGNORED] * context + ids[context:] + [IGNORED] * padding
    # Positions count on through the padding, which nothing masks: it stands after everything.
    row = _row(ids + [tokenizer.pad_token_id] * padding, types + [LANGUAGE] * padding)
    return Row(**{**vars(row), "labels": labels, "context_length": context})


def answer_text(ids: Sequence[int], tokenizer: Any, version: str, revision: Revision = "seed") -> str:
    """What the original's command line shows of a whole sequence, with its quirks.

    The text after the last separator, so an answer that holds the separator is cut, and in `base` the prompt
    comes along.
    """
    text = tokenizer.decode(list(ids)).replace("</s>", "")
    return text.split(SEPARATORS[revision][version])[-1].strip()


def _ids(prompt: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids with one slot per picture, and where those are."""
    ids, places = [tokenizer.bos_token_id], []
    for number, piece in enumerate(prompt.split(PICTURE_MARK)):
        if number:
            places.append(len(ids))
            ids.append(0)
        ids += ids_of(piece, tokenizer)
    return ids, places


def _expand(ids: Sequence[int], places: Sequence[int], image_length: int) -> tuple[list[int], list[int]]:
    """Ids and token types with all slots of every picture."""
    wide, types = [], []
    for number, token in enumerate(ids):
        repeats = image_length + 2 if number in places else 1
        wide += [token] * repeats
        types += [VISION if number in places else LANGUAGE] * repeats
    return wide, types


def _row(ids: list[int], types: list[int]) -> Row:
    following, before = [*types[1:], LANGUAGE], [LANGUAGE, *types[:-1]]
    expert = [int(here and after) for here, after in zip(types, following, strict=True)]
    patch = [int(here and was) for here, was in zip(expert, before, strict=True)]
    return Row(ids, rotary_positions(torch.tensor([types]))[0].tolist(), types, expert, patch)
