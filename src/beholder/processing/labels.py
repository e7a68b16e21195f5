"""Which tokens are trained: labels follow from the rendered template, never from searching in ids."""

from __future__ import annotations

from collections.abc import Sequence

from beholder.processing.tokens import Encoded

IGNORED = -100


def labels_from(encoded: Encoded) -> list[int]:
    """The ids where the model is trained and -100 everywhere else."""
    return [
        token if trained else IGNORED
        for token, trained in zip(encoded.input_ids, encoded.trained, strict=True)
    ]


def trains_nothing(labels: Sequence[int]) -> bool:
    """Whether no token of a row is trained."""
    return all(label == IGNORED for label in labels)
