"""Pillow's bicubic filter as numbers: which pixels each pixel of a smaller picture is mixed from, and how.

A pass of the filter goes along one axis. Weights are reckoned and rounded as Pillow's `libImaging/Resample.c`
does (12.3), so whoever sums whole pixels up by them gets Pillow's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]

SUPPORT = 2.0  # pixels to either side, of the smaller picture
POINT = 22  # bits of a weight behind the point
TAPS = 4  # the number of weights is a multiple of it
LONGEST = 2**16  # pixels of an edge; weights for longer ones would take more memory than the picture


@dataclass(frozen=True)
class Pass:
    """One pass: (places,) first pixels, (places, taps) weights, (places, 4) what the sums begin with.

    All arrays are int32. A sum begins with a half, and with what a border of one colour adds to it.
    """

    firsts: NDArray[np.int32]
    weights: NDArray[np.int32]
    starts: NDArray[np.int32]

    @property
    def places(self) -> int:
        """Pixels of the result along the axis."""
        return len(self.firsts)


@lru_cache(maxsize=16)
def bicubic(
    size: int, places: int, edge: int | None = None, before: int = 0, colour: tuple[int, int, int] = (0, 0, 0)
) -> Pass | None:
    """From `size` pixels to `places`, with `before` of a colour in front and as many behind as make `edge`.

    None where there are fewer pixels than are read at once, or more than `LONGEST`.
    """
    edge = size if edge is None else edge
    if edge > LONGEST or 2 * SUPPORT * edge / places > size:
        return None
    firsts, weights = _weights(edge, places)
    taps = -(-weights.shape[1] // TAPS) * TAPS
    if taps > size:
        return None
    # The same weights over a window that lies in the picture; those over the border go into the start.
    moved = np.clip(firsts - before, 0, size - taps)
    where: Whole = np.arange(taps, dtype=np.int64) + (moved + before - firsts)[:, None]
    inside = np.take_along_axis(weights, where.clip(0, weights.shape[1] - 1), axis=1)
    inside[(where < 0) | (where >= weights.shape[1])] = 0
    outside = weights.sum(axis=1) - inside.sum(axis=1)
    starts = outside[:, None] * np.array([*colour, 0]) + (1 << POINT - 1)
    return Pass(*(np.ascontiguousarray(part, dtype=np.int32) for part in (moved, inside, starts)))


def _weights(size: int, places: int) -> tuple[Whole, Whole]:
    """First pixels (places,) and weights (places, most taps), zero behind a place's last; in doubles, one
    operation after the other as Pillow has them."""
    scale = size / places
    widened = max(scale, 1.0)
    reach, step = SUPPORT * widened, 1.0 / widened
    centres = (np.arange(places) + 0.5) * scale
    firsts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    counts = np.minimum((centres + reach + 0.5).astype(np.int64), size) - firsts
    taps: Whole = np.arange(int(counts.max()), dtype=np.int64)
    weights = _curve((taps + firsts[:, None] - centres[:, None] + 0.5) * step)
    weights[taps >= counts[:, None]] = 0.0
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]
    scaled = weights * (1 << POINT)
    return firsts, np.where(weights < 0, scaled - 0.5, scaled + 0.5).astype(np.int64)


def _curve(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -1/2."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
