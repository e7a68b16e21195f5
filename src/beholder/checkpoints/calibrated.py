"""Weights of 4 bits that fit the inputs a model really gets: what one column loses, those after it make good.

The method is GPTQ (Frantar et al. 2022, arXiv 2210.17323). A linear's loss is that of its products with the
inputs of some samples, so it needs their second moments and no more. Columns are rounded in order, and after
each the columns to its right are set anew to what loses least. A group's scale is searched for over what its
columns have become by then, a column's loss counted as much as what is to come cannot make good of it. Codes
and scales are stored in the same form as those that are searched for without samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor

from beholder.checkpoints.narrow import WEIGHT, Choice, narrow_linears
from beholder.core.errors import ConfigError
from beholder.core.narrow import HALF_STEPS, HALVES, SMALLEST, Narrow, dequantize, pack_halves

DAMPING = 0.01  # of the mean square of the inputs, added to each: fewer samples than columns are enough
ROOM = 2**31  # bytes of second moments that are gathered in one reading of the samples

Stored = tuple[Tensor, Tensor]  # codes and scales


class _Enough(Exception):
    """All inputs that are wanted of a sample have been seen."""


def calibrated(model: Any, samples: Sequence[Mapping[str, Any]], choice: Choice) -> dict[str, Stored]:
    """Codes and scales of a dense model's linears by the weight's name; the head's are not among them.

    `samples` are what a processor makes of one conversation each. The model is changed: its linears get the
    weights that codes and scales stand for. ConfigError for other forms than int4, or without samples.
    """
    if choice.weights != "int4":
        raise ConfigError(f"weights are calibrated in int4 alone, not in {choice.weights}")
    if not samples:
        raise ConfigError("there are no samples to calibrate with; give a file with at least one row")
    narrow, made = choice.narrow(is_head=False), dict[str, Stored]()
    names = [name for name, is_head in narrow_linears(model).items() if not is_head]
    for part in _parts({name: model.get_submodule(name).in_features for name in names}):
        moments = _moments(model, samples, part)
        for name in part:
            weight = model.get_submodule(name).weight
            try:
                codes, scales = narrowed(weight.detach(), moments.pop(name), narrow)
            except ConfigError as error:
                raise ConfigError(f"{name}{WEIGHT}: {error}") from error
            made[f"{name}{WEIGHT}"] = codes, scales
            with torch.no_grad():  # what comes after it is to see what it has become
                weight.copy_(dequantize(codes, scales, narrow, weight.shape[1]))
    return made


def narrowed(weight: Tensor, moments: Tensor, narrow: Narrow) -> Stored:
    """A matrix (rows, columns) as codes and scales; `moments` are its inputs' products (columns, columns).

    ConfigError where a weight or a moment is no finite number.
    """
    if not (weight.isfinite().all() and moments.isfinite().all()):
        raise ConfigError("weights or inputs are infinite or no number; the checkpoint is damaged, or its "
                          "numbers do not fit their format")  # fmt: skip
    rows, columns = weight.shape
    rest, upper = weight.double(), _inverse_root(moments.double())
    importance = upper.diagonal().square().reciprocal()
    wholes = torch.empty(rows, columns, dtype=torch.float64)
    scales = torch.empty(narrow.scale_shape(rows, columns), dtype=narrow.scale_dtype)
    for group, first in enumerate(range(0, columns, narrow.group)):
        last = min(first + narrow.group, columns)
        scale = best_scale(rest[:, first:last], importance[first:last])
        scales[:, group] = scale
        lost = torch.empty(rows, last - first, dtype=torch.float64)
        for column in range(first, last):
            near = _near(rest[:, column], scale)
            error = (rest[:, column] - near * scale) / upper[column, column]
            rest[:, column + 1 : last] -= torch.outer(error, upper[column, column + 1 : last])
            wholes[:, column], lost[:, column - first] = near, error
        rest[:, last:] -= lost @ upper[first:last, last:]
    return pack_halves(wholes), scales


def best_scale(values: Tensor, importance: Tensor) -> Tensor:
    """For each row of a group (rows, columns) the bfloat16 scale, as float64, that loses least by importance.

    Tried are those that put the value furthest from zero at several places, and those that fit best what
    these make, as in the search without samples; 0 for a row of nothing.
    """
    furthest = values.gather(1, values.abs().argmax(1, keepdim=True))[:, 0]
    furthest = torch.where(furthest.abs() < SMALLEST, 0.0, furthest)
    best, least = torch.zeros_like(furthest), torch.full_like(furthest, torch.inf)
    for step in HALF_STEPS:
        scale = (furthest / step).bfloat16().double()
        for _ in range(2):
            wholes = _near(values, scale[:, None])
            lost = ((wholes * scale[:, None] - values).square() * importance).sum(1)
            is_better = (lost < least) & (scale != 0)
            best, least = torch.where(is_better, scale, best), torch.where(is_better, lost, least)
            products, squares = ((wholes * other * importance).sum(1) for other in (values, wholes))
            scale = torch.where(squares > 0, products / squares, 0.0).bfloat16().double()
    return best


def _near(values: Tensor, scale: Tensor) -> Tensor:
    """The whole numbers from -8 to 7 that stand for values; 0 where there is no scale."""
    return torch.where(scale == 0, 0.0, values / torch.where(scale == 0, 1.0, scale)).clamp_(*HALVES).round_()


def _inverse_root(moments: Tensor) -> Tensor:
    """The upper triangle U with U' U the inverse of the damped moments."""
    mean = moments.diagonal().mean()
    damping = DAMPING * mean if mean > 0 else torch.ones_like(mean)  # inputs that are nothing teach nothing
    damped = moments + damping * torch.eye(len(moments), dtype=moments.dtype)
    linalg: Any = torch.linalg
    return linalg.cholesky(torch.cholesky_inverse(linalg.cholesky(damped)), upper=True)


def _parts(widths: Mapping[str, int]) -> Iterator[list[str]]:
    """Linears in the model's order, as many at once as there is room for what is gathered of them."""
    part, used = list[str](), 0
    for name, width in widths.items():
        size = 4 * width * width
        if part and used + size > ROOM:
            yield part
            part, used = [], 0
        part.append(name)
        used += size
    if part:
        yield part


def _moments(model: Any, samples: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Tensor]:
    """The sum of x x' over the inputs x that each linear gets, (columns, columns) float32."""
    widths = {name: model.get_submodule(name).in_features for name in names}
    found = {name: torch.zeros(width, width) for name, width in widths.items()}
    seen = set[str]()

    def watching(name: str) -> Any:
        def watch(_: Any, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            found[name].addmm_(rows.T, rows)
            seen.add(name)
            if len(seen) == len(names):
                raise _Enough

        return watch

    with ExitStack() as hooks, torch.inference_mode():
        for name in names:
            hooks.enter_context(model.get_submodule(name).register_forward_pre_hook(watching(name)))
        for sample in samples:
            seen.clear()
            with suppress(_Enough):
                model(**sample, use_cache=False)
    return found
