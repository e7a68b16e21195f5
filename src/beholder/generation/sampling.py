"""How one token is chosen from one row of scores: greedy, or drawn after penalties and filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from beholder.core.errors import InputError
from beholder.core.types import Sampling, TokenScore

# Which tokens may come next, as (vocabulary,) bools, given the answer's ids so far; None for all.
TokenMask = Callable[[Sequence[int]], Tensor | None]

FEW = 2**18  # scores, a mebibyte of float32
COLD = 1e-3
COLDEST = 1e-30  # below this the quotient of the smallest difference is no number


class Chooser:
    """Chooses the tokens of one request; owns its random numbers, so neighbours cannot change an answer."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        device: torch.device,
        mask: TokenMask | None = None,
    ) -> None:
        self.sampling = sampling
        self.said: list[int] = []
        self.scores: list[TokenScore] = []
        self._mask = mask
        self._penalty = _repetition(sampling)
        self._filters = _filters(sampling)
        self._random = _random_numbers(sampling, device)
        # Only the repetition penalty looks at the prompt.
        self._seen = torch.tensor([list(prompt)], dtype=torch.long, device=device) if self._penalty else None
        self._counts: Tensor | None = None
        self._bias = _bias(sampling, device)
        self._counts_tokens = bool(sampling.presence_penalty or sampling.frequency_penalty)
        # It takes the largest score, whatever came before, and reports none.
        self.is_plain = (
            self._random is None
            and self._penalty is None
            and self._bias is None
            and self._mask is None
            and sampling.logprobs is None
            and not self._counts_tokens
        )

    def choose(self, scores: Tensor) -> int:
        """The next token from its row of logits, (1, vocabulary). InputError if they are not numbers."""
        if bool(scores.isnan().any()):
            raise InputError(
                "the model's scores are not numbers; the pictures or the weights hold some that are not"
            )
        changed = self._changed(scores)
        if self._random is None:
            token = int(changed.argmax(dim=-1))
        else:
            # The filters look at scores alone; their `input_ids` argument is not read.
            kept = self._filters(torch.LongTensor(1, 0), changed.float())
            token = int(torch.multinomial(kept.softmax(dim=-1), 1, generator=self._random))
        if self.sampling.logprobs is not None:
            self.scores.append(_score(scores, token, self.sampling.logprobs))
        self.take(token)
        return token

    def take(self, token: int) -> None:
        """Remember a token that was chosen."""
        self.said.append(token)
        if self._seen is not None:
            self._seen = torch.cat([self._seen, self._seen.new_tensor([[token]])], dim=1)
        if self._counts is not None:
            self._counts[0, token] += 1

    def _changed(self, scores: Tensor) -> Tensor:
        """Penalties, then the bias, then what the mask allows."""
        if self._penalty is not None and self._seen is not None:
            # A picture's placeholder may lie outside the vocabulary.
            self._seen = self._seen[:, self._seen[0] < scores.shape[-1]]
            scores = self._penalty(
                cast(torch.LongTensor, self._seen), cast(torch.FloatTensor, scores.float())
            )
        if self._counts_tokens:
            counts = torch.zeros_like(scores, dtype=torch.float32) if self._counts is None else self._counts
            self._counts = counts
            present, often = self.sampling.presence_penalty, self.sampling.frequency_penalty
            scores = scores.float() - present * (counts > 0) - often * counts
        if self._bias is not None:
            ids, values = self._bias
            if int(ids.max()) >= scores.shape[-1]:
                raise InputError(
                    f"logit_bias names token {int(ids.max())}; the largest is {scores.shape[-1] - 1}"
                )
            scores = scores.float().index_add(1, ids, values[None])
        allowed = None if self._mask is None else self._mask(self.said)
        if allowed is not None:
            if allowed.shape != scores.shape[-1:] or not bool(allowed.any()):
                raise InputError(
                    f"the token mask allows {int(allowed.sum())} of {allowed.numel()} tokens and the model "
                    f"scores {scores.shape[-1]}; it must allow at least one and judge them all"
                )
            scores = scores.float().masked_fill(~allowed.to(scores.device), -torch.inf)
        return scores


class Largest:
    """Finds the largest score of each row, the first of equal ones.

    On the CPU numpy does it, several times as fast as torch. Rows in another format than float32 are first
    made so: all of them if they are few numbers, else one after the other in a buffer that stays in the
    processor's cache.
    """

    def __init__(self) -> None:
        self._row = torch.empty(0)

    def __call__(self, scores: Tensor) -> list[int | None]:
        """The ids of (rows, vocabulary) scores; None where a row holds something that is no number."""
        if scores.device.type != "cpu":
            values, places = scores.max(dim=-1)
            good = (~values.isnan()).tolist()
            return [
                place if is_number else None for place, is_number in zip(places.tolist(), good, strict=True)
            ]
        if scores.dtype == torch.float32 or scores.numel() <= FEW:
            rows = scores.float().numpy()
            # All at once where numpy need not bring them together first.
            tokens = rows.argmax(axis=1).tolist() if rows.flags.c_contiguous else map(_largest_of, rows)
            return [_if_number(row, token) for row, token in zip(rows, tokens, strict=True)]
        if len(self._row) != scores.shape[-1]:
            self._row = torch.empty(scores.shape[-1])
        row = self._row.numpy()
        found: list[int | None] = []
        for one in scores:
            self._row.copy_(one)
            found.append(_if_number(row, _largest_of(row)))
        return found


def _largest_of(row: NDArray[np.float32]) -> int:
    return int(row.argmax())  # of what is no number, if there is some


def _if_number(row: NDArray[np.float32], token: int) -> int | None:
    return None if isnan(row[token]) else token


def _score(scores: Tensor, token: int, count: int) -> TokenScore:
    logprobs = scores[0].float().log_softmax(dim=-1)
    values, ids = logprobs.topk(min(count, len(logprobs)))
    likeliest = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenScore(token, float(logprobs[token]), likeliest)


def _random_numbers(sampling: Sampling, device: torch.device) -> torch.Generator | None:
    if sampling.temperature == 0:
        return None
    numbers = torch.Generator(device)
    if sampling.seed is None:
        numbers.seed()
        return numbers
    if not -(2**63) <= sampling.seed < 2**64:
        raise InputError(f"seed is {sampling.seed}; it must fit 64 bits")
    numbers.manual_seed(sampling.seed)
    return numbers


def _bias(sampling: Sampling, device: torch.device) -> tuple[Tensor, Tensor] | None:
    if not sampling.logit_bias:
        return None
    ids = list(sampling.logit_bias)
    if min(ids) < 0:
        raise InputError(f"logit_bias names token {min(ids)}; token ids are 0 or more")
    values = [float(value) for value in sampling.logit_bias.values()]
    return torch.tensor(ids, device=device), torch.tensor(values, device=device)


def _repetition(sampling: Sampling) -> RepetitionPenaltyLogitsProcessor | None:
    if sampling.repetition_penalty == 1.0:
        return None
    return RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)


class Cold(LogitsProcessor):
    """A temperature near 0, by which scores divided would be too large for numbers: their distances from the
    largest score are divided, which draws the same."""

    def __init__(self, temperature: float) -> None:
        self.temperature = max(temperature, COLDEST)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(rows, vocabulary) scores to those that are drawn from."""
        return cast(torch.FloatTensor, (scores - scores.amax(dim=-1, keepdim=True)) / self.temperature)


def _filters(sampling: Sampling) -> LogitsProcessorList:
    """In the order of `generate()`: temperature, top-k, top-p, min-p; each only where it does something."""
    filters = LogitsProcessorList()
    if 0 < sampling.temperature < COLD:
        filters.append(Cold(sampling.temperature))
    elif sampling.temperature not in (0.0, 1.0):
        filters.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        filters.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        filters.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        filters.append(MinPLogitsWarper(sampling.min_p))
    return filters
