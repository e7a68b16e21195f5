"""A linear layer whose weight is stored narrow: PyTorch's product with it, the slow twin of the native one.

The layer may lend its codes and scales to somebody who keeps them in another order, as native decode does:
then there is one copy of them, and what PyTorch needs of it is asked for in blocks of rows, wide already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from beholder.core.narrow import Narrow, dequantize, quantize

BLOCK_WEIGHTS = 2**22  # that are made wide at once: 16 MiB in float32


class Keeper(Protocol):
    """Who keeps the codes and scales of a layer that has lent them."""

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Codes and scales of some rows, in tensors of their own."""
        ...

    def widen(self, first: int, last: int, wide: Tensor) -> None:
        """What they stand for into (rows, columns): the numbers that `dequantize` finds, in its format."""
        ...


class NarrowLinear(nn.Module):
    """Inputs (..., columns) to (..., rows): y = x W' + b, where W is what `codes` and `scales` stand for.

    Products are in the inputs' number format. Codes and scales take no part in training and are never cast.
    """

    codes: nn.Parameter
    scales: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self, columns: int, rows: int, narrow: Narrow, bias: nn.Parameter | None = None, device: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.narrow = columns, rows, narrow
        self.keeper: Keeper | None = None
        self.changes = 0  # how often other codes were loaded
        self.codes = _fixed(
            torch.empty(narrow.code_shape(rows, columns), dtype=narrow.code_dtype, device=device)
        )
        self.scales = _fixed(
            torch.empty(narrow.scale_shape(rows, columns), dtype=narrow.scale_dtype, device=device)
        )
        self.register_parameter("bias", bias)

    @classmethod
    def of(cls, linear: nn.Linear, narrow: Narrow, weight: Tensor | None = None) -> NarrowLinear:
        """The same layer with its weight, or this one in its place, made narrow; the bias stays as it is."""
        weight = linear.weight if weight is None else weight
        made = cls(linear.in_features, linear.out_features, narrow, linear.bias, device="meta")
        codes, scales = quantize(weight.detach(), narrow)
        made.codes, made.scales = _fixed(codes), _fixed(scales)
        return made.train(linear.training)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight."""
        return self.out_features, self.in_features

    @property
    def narrow_bytes(self) -> int:
        """What codes and scales take, whoever keeps them."""
        kept = zip(
            (self.narrow.code_shape(*self.shape), self.narrow.scale_shape(*self.shape)),
            (self.narrow.code_dtype, self.narrow.scale_dtype),
            strict=True,
        )
        return sum(torch.empty(shape, dtype=dtype, device="meta").nbytes for shape, dtype in kept)

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Codes and scales of some rows."""
        if (keeper := self.keeper) is not None:
            return keeper.rows(first, last)
        return self.codes.detach()[first:last], self.scales.detach()[first:last]

    def dense(self, first: int = 0, last: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """What some rows stand for, or all, (rows, columns)."""
        last = self.out_features if last is None else last
        if (keeper := self.keeper) is None:
            return dequantize(*self.rows(first, last), self.narrow, self.in_features).to(dtype)
        wide = torch.empty((last - first, self.in_features), dtype=dtype, device="cpu")
        keeper.widen(first, last, wide)
        return wide

    def forward(self, inputs: Tensor) -> Tensor:
        """The product, from as many rows at once as are cheap to make wide."""
        step = min(self.out_features, max(1, BLOCK_WEIGHTS // self.in_features))
        # One piece of memory for all of them, where nobody looks at it again to find gradients.
        room, keeper = None, self.keeper
        if keeper is not None and not torch.is_grad_enabled():
            room = torch.empty((step, self.in_features), dtype=inputs.dtype, device="cpu")
        pieces: list[Tensor] = []
        for first in range(0, self.out_features, step):
            last = min(first + step, self.out_features)
            bias = None if self.bias is None else self.bias[first:last]
            if keeper is None or room is None:
                weight = self.dense(first, last, inputs.dtype)
            else:
                weight = room[: last - first]
                keeper.widen(first, last, weight)
            pieces.append(nn.functional.linear(inputs, weight, bias))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def lend(self, keeper: Keeper) -> None:
        """Give codes and scales up to somebody who has copied them."""
        self.keeper = keeper
        self._parameters["codes"] = self._parameters["scales"] = None

    def take_back(self) -> None:
        """Have codes and scales for itself again."""
        if self.keeper is not None:
            codes, scales = self.keeper.rows(0, self.out_features)
            self.codes, self.scales = _fixed(codes), _fixed(scales)
            self.keeper = None

    def extra_repr(self) -> str:
        """What `print(model)` tells."""
        group = f", group={self.narrow.group}" if self.narrow.weights == "int4" else ""
        told = (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )
        return f"{told}, weights={self.narrow.weights}{group}"

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles are made of: they have lent nothing."""
        state = dict(self.__dict__)
        if self.keeper is not None:
            codes, scales = self.rows(0, self.out_features)
            state["keeper"] = None
            state["_parameters"] = {**self._parameters, "codes": _fixed(codes), "scales": _fixed(scales)}
        return state

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves go through; what would change codes and scales into other numbers leaves them as they are."""
        self.take_back()
        before = {
            "codes": self.codes.detach(),
            "scales": self.scales.detach(),
        }  # `_apply` exchanges their data
        cast("Any", super())._apply(fn, recurse)
        for name, old in before.items():
            new = self._parameters[name]
            if new is not None and new.dtype != old.dtype:
                self._parameters[name] = _fixed(old.to(new.device))
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        theirs = cast("Any", super())
        theirs._save_to_state_dict(destination, prefix, keep_vars)
        if self.keeper is not None:
            codes, scales = self.rows(0, self.out_features)
            destination[f"{prefix}codes"], destination[f"{prefix}scales"] = codes, scales

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.take_back()
        self.changes += 1
        theirs = cast("Any", super())
        theirs._load_from_state_dict(*args, **kwargs)


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def is_narrow(model: nn.Module) -> bool:
    """Whether any layer of a model is stored narrow."""
    return any(isinstance(module, NarrowLinear) for module in model.modules())
