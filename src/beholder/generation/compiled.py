"""One token for each of several requests in fixed shapes, compiled: on a GPU a step is then one graph.

Rows and stored places are filled up to the next power of two, so there are few shapes; each is compiled when
it first comes. Filling rows write to the null block and read from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from beholder.core.errors import ConfigError
from beholder.generation.attention import folded
from beholder.generation.blocks import BlockTable
from beholder.generation.cache import Store, stored_places
from beholder.generation.fused import FusedLinears
from beholder.generation.kept import Kept

# What torch.compile calls modes; with the first, a GPU's kernels are launched together as one CUDA graph.
MODES = ("reduce-overhead", "default", "max-autotune", "max-autotune-no-cudagraphs")
BACKENDS = ("eager", "aot_eager", "inductor")
FEWEST_PLACES = 256
MOST_SHAPES = 64  # rows and places double from shape to shape, so this is more than there can be


class FixedView(Cache):
    """Keys and values of (rows, places) for one forward in fixed shapes; every row grows by one token."""

    is_compileable = False  # pyright: ignore[reportAssignmentType]  # a property there, an attribute of other caches

    def __init__(self, keys: list[Kept], values: list[Kept], new_B: Tensor, all_BT: Tensor) -> None:
        super().__init__(layers=[])
        self.keys = keys
        self.values = values
        self.new_B = new_B
        self.all_BT = all_BT

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store (B, H, 1, D) keys and values; all of the rows', (B, H, T, D), come back."""
        found: list[Tensor] = []
        for memory, new_BH1D in ((self.keys[layer_idx], key_states), (self.values[layer_idx], value_states)):
            memory.write(self.new_B, new_BH1D[:, :, 0].transpose(0, 1))
            rows = memory.gathered(self.all_BT.flatten())
            found.append(rows.unflatten(1, self.all_BT.shape).transpose(0, 1))
        return found[0], found[1]

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
    ) -> Tensor:
        """See `Stored.attend`."""
        return folded(query, key, value, mask, scaling)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Stored places without the new one."""
        return self.all_BT.shape[1] - 1

    def get_query_offset(self, layer_idx: int | None = 0) -> int:
        """Where the new token stands in a row without filling."""
        return self.all_BT.shape[1] - 1

    def get_mask_sizes(self, query_length: int, layer_idx: int | None = 0) -> tuple[int, int]:
        """Length of what attention sees, and where that begins."""
        return self.all_BT.shape[1], 0

    def get_max_length(self, layer_idx: int = 0) -> int:
        """No limit of its own."""
        return -1


class CompiledDecode:
    """The model's forward over one token per row, through `torch.compile`, with fused linears.

    `how` is one of torch's modes or, to see what each part of the compiler does, of its backends.
    """

    def __init__(self, model: Any, store: Store, how: str) -> None:
        if how not in (*MODES, *BACKENDS):
            raise ConfigError(f"compile is {how!r}; known: {', '.join((*MODES, *BACKENDS))}")
        self.store = store
        chosen: dict[str, Any] = {"mode": how} if how in MODES else {"backend": how}
        keeps = {"logits_to_keep": 1} if _keeps_some(model) else {}

        def step(
            ids_B1: Tensor, positions_B1: Tensor, mask_B11T: Tensor, new_B: Tensor, all_BT: Tensor
        ) -> Tensor:
            view = FixedView(store.keys, store.values, new_B, all_BT)
            output = model(
                input_ids=ids_B1,
                position_ids=positions_B1,
                attention_mask=mask_B11T,
                past_key_values=view,
                stored=view,
                use_cache=True,
                **keeps,
            )
            return output.logits[:, -1]

        self._step: Callable[..., Tensor] = torch.compile(step, dynamic=False, **chosen)
        self._marked = 0
        self._fused = FusedLinears(model)
        for fusion in self._fused.fusions:
            for tensor in fusion.tensors:  # else a CUDA graph would copy them at every step
                torch._dynamo.mark_static_address(tensor)

    def run(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        tables: Sequence[BlockTable],
        starts: Sequence[int],
    ) -> Tensor:
        """(rows, vocabulary) scores after the last token of each request; valid until the next call."""
        count, device = len(ids), self.store.device
        rows = power_above(count)
        length = power_above(max(FEWEST_PLACES, max(starts) + 1))
        filling = [0] * (rows - count)
        lasts = torch.tensor([*starts, *filling])
        is_seen = torch.arange(length)[None] <= lasts[:, None]
        new = [table.place(start) for table, start in zip(tables, starts, strict=True)]
        inputs = (
            torch.tensor([*ids, *filling])[:, None],
            torch.tensor([*positions, *filling])[:, None],
            is_seen[:, None, None],
            torch.tensor([*new, *filling]),
            stored_places(tables, [start + 1 for start in starts], rows, length),
        )
        self._mark()
        if device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # what the last step gave may be overwritten
        with self._fused.used(), torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):
            return self._step(*(tensor.to(device) for tensor in inputs))[:count]

    def _mark(self) -> None:
        """Say that the memory of keys and values stays where it is: a CUDA graph may then write to it."""
        memory = self.store.tensors
        if len(memory) > self._marked:
            for tensor in memory:
                torch._dynamo.mark_static_address(tensor)
            self._marked = len(memory)


def power_above(count: int) -> int:
    """The smallest power of two that is not below."""
    return 1 << (count - 1).bit_length()


def _keeps_some(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters
