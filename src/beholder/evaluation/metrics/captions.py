"""BLEU, ROUGE-L and CIDEr-D of captions, as tylin/coco-caption (pycocoevalcap) computes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from beholder.evaluation.bootstrap import Array

Words = Sequence[str]
Grams = Counter[tuple[str, ...]]

LONGEST = 4  # words in an n-gram
TINY, SMALL = 1e-15, 1e-9  # keep quotients of nothing defined, as the original does
BETA = 1.2  # how much more recall weighs in ROUGE-L
SIGMA = 6.0  # words of difference in length that CIDEr-D forgives


def grams(words: Words) -> Grams:
    """How often each run of one to four words occurs."""
    return Counter(
        tuple(words[start : start + size])
        for size in range(1, LONGEST + 1)
        for start in range(len(words) - size + 1)
    )


def bleu_counts(said: Words, references: Sequence[Words]) -> list[float]:
    """Sums that BLEU is made of: matched and possible n-grams of each size, words said, words wanted.

    Wanted is the length of the reference nearest in length, the shorter of two that are equally near.
    """
    allowed: Grams = Counter()
    for reference in references:
        allowed |= grams(reference)
    matched = [0.0] * LONGEST
    for gram, count in grams(said).items():
        matched[len(gram) - 1] += min(count, allowed[gram])
    possible = [max(0, len(said) - size + 1) for size in range(1, LONGEST + 1)]
    wanted = min((abs(len(reference) - len(said)), len(reference)) for reference in references)[1]
    return [*matched, *possible, len(said), wanted]


def bleu(sums: Array, size: int) -> Array:
    """BLEU up to n-grams of `size` from sums (..., 10) of `bleu_counts` over a corpus."""
    matched, possible = sums[..., :size] + TINY, sums[..., LONGEST : LONGEST + size] + SMALL
    score: Array = np.prod(matched / possible, axis=-1) ** (1 / size)
    length: Array = (sums[..., 8] + TINY) / (sums[..., 9] + SMALL)
    penalty: Array = np.exp(1 - 1 / np.minimum(length, 1))  # 1 where nothing is missing
    return score * penalty


def rouge_l(said: Words, references: Sequence[Words]) -> float:
    """F-measure of the longest common subsequence, of the best precision and the best recall."""
    common = [_longest_common(reference, said) for reference in references]
    # An empty caption or reference counts as one empty word.
    precision = max(common) / max(1, len(said))
    recall = max(length / max(1, len(words)) for length, words in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(one: Words, other: Words) -> int:
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, candidate in enumerate(other, 1):
            kept = row[place]
            row[place] = before + 1 if word == candidate else max(row[place], row[place - 1])
            before = kept
    return row[-1]


class CiderD:
    """CIDEr-D against the references of a whole corpus, whose n-grams weigh the more the rarer they are."""

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        self.documents = Counter(
            gram for of_one in references for gram in {gram for words in of_one for gram in grams(words)}
        )
        self.log_corpus = math.log(len(references))

    def score(self, said: Words, references: Sequence[Words]) -> float:
        """Ten times the mean similarity to the references, over n-grams of one to four words."""
        vector = self._weigh(said)
        similar = sum(self._similarity(vector, self._weigh(reference)) for reference in references)
        return 10 * similar / LONGEST / len(references)

    def _weigh(self, words: Words) -> tuple[list[dict[tuple[str, ...], float]], int]:
        """Weights of n-grams by size, and the length as the original counts it: in pairs of words."""
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
        for gram, count in grams(words).items():
            rarity = self.log_corpus - math.log(max(1, self.documents[gram]))
            vectors[len(gram) - 1][gram] = count * rarity
        return vectors, max(0, len(words) - 1)

    @staticmethod
    def _similarity(
        said: tuple[list[dict[tuple[str, ...], float]], int],
        reference: tuple[list[dict[tuple[str, ...], float]], int],
    ) -> float:
        penalty = math.exp(-((said[1] - reference[1]) ** 2) / (2 * SIGMA**2))
        total = 0.0
        for one, other in zip(said[0], reference[0], strict=True):
            # A caption that repeats a word gains nothing: its weight is clipped to the reference's.
            inner = sum(
                min(weight, other[gram]) * other[gram] for gram, weight in one.items() if gram in other
            )
            norms = math.hypot(*one.values()) * math.hypot(*other.values())
            total += inner / norms * penalty if norms else 0.0
        return total
