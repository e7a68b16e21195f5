"""Greedy answers to many conversations at once; what they begin with in common, pictures too, is read once.

Benchmarks ask many questions about one picture, so most of the work of one question at a time is done again
and again. The slow twin is `VLM.chat`, and both must say the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from beholder.core.types import Message
from beholder.evaluation.task import Reply
from beholder.processing.tokens import TextStream, left_pad

if TYPE_CHECKING:
    from beholder.api import VLM

Conversation = Sequence[Message]

KNOWN_INPUTS = {"input_ids", "attention_mask", "pixel_values"}


def answer_one(vlm: VLM, messages: Conversation, max_tokens: int) -> Reply:
    """The slow twin: one conversation through the same door as everybody's."""
    answer = vlm.chat(messages, max_tokens=max_tokens)
    return Reply(answer.text, answer.boxes, answer.usage.completion_tokens, answer.timings.total)


def answer_batch(vlm: VLM, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
    """One answer for each conversation, in order; pictures that are one object are looked at once."""
    start = time.perf_counter()
    encoded = [vlm.processor.encode(messages) for messages in conversations]
    longest = max(one["input_ids"].shape[1] for one in encoded)
    # What is not known here (token types of a family, say) goes through the door that knows it.
    is_plain = all(one.keys() <= KNOWN_INPUTS for one in encoded)
    if len(conversations) == 1 or not is_plain or longest + max_tokens > vlm.context:
        return [answer_one(vlm, messages, max_tokens) for messages in conversations]
    with torch.inference_mode():
        said = Batch(vlm, conversations, encoded).run(max_tokens)
    texts = [_text(vlm, ids) for ids in said]
    seconds = (time.perf_counter() - start) / len(said)
    return [
        Reply(text, vlm.boxes(text, messages), len(ids), seconds)
        for text, messages, ids in zip(texts, conversations, said, strict=True)
    ]


def _text(vlm: VLM, ids: Sequence[int]) -> str:
    stream = TextStream(vlm.processor.tokenizer)
    for token in ids:
        if token not in vlm.processor.terminators:
            stream.push(token)
    stream.finish()
    return stream.text.strip()


class Batch:
    """Prompts side by side in one cache: the shared beginning, then the rest of each, padded on the left."""

    def __init__(
        self, vlm: VLM, conversations: Sequence[Conversation], encoded: Sequence[Mapping[str, Tensor]]
    ) -> None:
        self.model: Any = vlm.model
        self.terminators = vlm.processor.terminators
        self.rows = [[int(token) for token in one["input_ids"][0]] for one in encoded]
        # Rows about the same pictures are one group; a group's pictures are looked at once.
        groups: dict[tuple[int, ...], int] = {}
        self.group = [groups.setdefault(_pictures(messages), len(groups)) for messages in conversations]
        self.firsts = [self.group.index(number) for number in range(len(groups))]
        self.pixels = [one.get("pixel_values") for one in encoded]
        self.shared = self._shared_length(vlm.processor.image_token_id)

    def _shared_length(self, slot: int) -> int:
        """How many ids all rows begin with, leaving each at least one; 0 if a picture stands behind them."""
        low, high = min(self.rows), max(self.rows)  # all others lie between these two
        pairs = enumerate(zip(low, high, strict=False))
        shared = next((place for place, (one, other) in pairs if one != other), len(low))
        shared = min(shared, min(map(len, self.rows)) - 1)
        return 0 if any(slot in row[shared:] for row in self.rows) else shared

    def run(self, max_tokens: int) -> list[list[int]]:
        """The new ids of every row; the last one is a terminator unless `max_tokens` came first."""
        cache = DynamicCache(config=self.model.config.get_text_config())
        rows = len(self.rows)
        ends = left_pad([row[self.shared :] for row in self.rows], self.terminators[0])
        ids = self._tensor(ends)
        lengths = self._tensor([[len(row) - self.shared] for row in self.rows])
        places = torch.arange(ids.shape[1], device=ids.device).flip(0)
        mask = torch.cat([ids.new_ones(rows, self.shared), (places < lengths).long()], dim=1)
        pixels = self._read_shared(cache) if self.shared else self._stack(range(rows))
        said: list[list[int]] = [[] for _ in self.rows]
        running = list(range(rows))
        while True:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            tokens = self._step(ids, mask, positions, cache, pixels)
            for row, token in zip(running, tokens, strict=True):
                said[row].append(token)
            kept = [place for place, row in enumerate(running) if self._goes_on(said[row], max_tokens)]
            if not kept:
                return said
            if len(kept) < len(running):
                cache.batch_select_indices(self._tensor(kept))
                mask, running = mask[kept], [running[place] for place in kept]
            ids, pixels = self._tensor([[said[row][-1]] for row in running]), None
            mask = torch.cat([mask, mask.new_ones(len(running), 1)], dim=1)

    def _goes_on(self, said: list[int], max_tokens: int) -> bool:
        return said[-1] not in self.terminators and len(said) < max_tokens

    def _read_shared(self, cache: DynamicCache) -> None:
        """Fill the cache with the shared beginning of each group, and hand every row that of its group."""
        ids = self._tensor([self.rows[0][: self.shared]] * len(self.firsts))
        self._step(ids, torch.ones_like(ids), None, cache, self._stack(self.firsts))
        cache.batch_select_indices(self._tensor(self.group))

    def _step(
        self, ids: Tensor, mask: Tensor, positions: Tensor | None, cache: DynamicCache, pixels: Tensor | None
    ) -> list[int]:
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **({} if pixels is None else {"pixel_values": pixels}),
        )
        return output.logits[:, -1].argmax(-1).tolist()

    def _stack(self, rows: Sequence[int]) -> Tensor | None:
        """The pictures of some rows, one after the other."""
        found = [pixels for row in rows if (pixels := self.pixels[row]) is not None]
        return torch.cat(found).to(self.model.device, self.model.dtype) if found else None

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, device=self.model.device)


def _pictures(messages: Conversation) -> tuple[int, ...]:
    return tuple(id(picture) for message in messages for picture in message.pictures)
