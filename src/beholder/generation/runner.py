"""Runs the model over what it is given: a piece of one prompt, or one token of each of several requests.

Decides nothing. Everything here happens in inference mode, which ends before the caller's code goes on.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beholder.generation.attention import NAME, attention_configs, implementation, register
from beholder.generation.blocks import BlockTable
from beholder.generation.cache import Store, StoredView
from beholder.generation.features import Embedder
from beholder.generation.prompt import POSITIONS, Prompt

log = logging.getLogger("beholder")


class Runner:
    """One model and the memory for its keys and values.

    `direct` lets rows that answer attend one by one where their keys stand; without it they are gathered side
    by side under a mask. Left out, it is used on the CPU where the model's attention can be replaced.
    """

    def __init__(self, model: Any, store: Store, embedder: Embedder, *, direct: bool | None = None) -> None:
        self.model = model
        self.store = store
        self.embedder = embedder
        parameters = inspect.signature(model.forward).parameters
        takes_more = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        self._keeps = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._configs = attention_configs(model)
        self.direct = takes_more and (model.device.type == "cpu" if direct is None else direct)
        if self.direct:
            register()

    @property
    def _kinds(self) -> set[str]:
        """How the layers attend now; that may be changed at any time."""
        return {config._attn_implementation for config in self._configs} or {"eager"}

    @property
    def _is_sdpa(self) -> bool:
        """Everything but "eager" is run as "sdpa": other implementations take no mask in four dimensions."""
        return self._kinds != {"eager"}

    @torch.inference_mode()
    def read(self, prompt: Prompt, table: BlockTable, start: int, stop: int) -> Tensor:
        """Run positions `start` to `stop` of one request; the scores of the last of them, (1, vocabulary)."""
        view = StoredView(self.store, [table], [start], stop - start, direct=False)
        inputs = self._prompt_inputs(prompt, start, stop)
        mask = self._causal_mask(start, stop)
        scores = self._forward(inputs, view, mask)
        if stop >= prompt.length:
            prompt.embeddings = None
        return scores

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Prompt], tables: Sequence[BlockTable]) -> Tensor:
        """Run the last token of each request; the scores after each, (rows, vocabulary)."""
        starts = [len(prompt.ids) - 1 for prompt in prompts]
        device = self.model.device
        inputs = {
            "input_ids": torch.tensor([[prompt.ids[-1]] for prompt in prompts], device=device),
            POSITIONS: torch.tensor(
                [[prompt.position(start)] for prompt, start in zip(prompts, starts, strict=True)],
                device=device,
            ),
        }
        if self.direct and self._kinds == {"sdpa"}:
            view = StoredView(self.store, tables, starts, 1, direct=True)
            scores = self._forward_direct(inputs, view)
            if view.attended == view.updated:
                return scores
            # The layers did not ask the attention they were told to, so what they computed is wrong.
            log.info("attention of %s cannot be replaced; rows are gathered", type(self.model).__name__)
            self.direct = False
        view = StoredView(self.store, tables, starts, 1, direct=False)
        return self._forward(inputs, view, self._length_mask(starts, view.longest))

    def _forward_direct(self, inputs: dict[str, Any], view: StoredView) -> Tensor:
        # A mask in four dimensions is passed on as it is; the attention that reads none needs none made.
        unread = torch.empty((1, 1, 1, 1), dtype=torch.bool, device=self.model.device)
        with implementation(self._configs, NAME):
            return self._forward({**inputs, "stored": view}, view, unread)

    def _forward(self, inputs: dict[str, Any], view: StoredView, mask: Tensor | None) -> Tensor:
        if not self._kinds <= {"sdpa", "eager", NAME}:
            with implementation(self._configs, "sdpa"):
                return self._forward(inputs, view, mask)
        output = self.model(
            **inputs, attention_mask=mask, past_key_values=view, use_cache=True, **self._keeps
        )
        return output.logits[:, -1]

    def _prompt_inputs(self, prompt: Prompt, start: int, stop: int) -> dict[str, Any]:
        """Ids or embeddings of a piece, with the tensors that are cut along with it."""
        device = self.model.device
        inputs: dict[str, Any] = dict(self._placed(prompt.whole))
        positions = [prompt.position(index) for index in range(start, stop)]
        inputs[POSITIONS] = torch.tensor([positions], device=device)
        inside = min(stop, prompt.length)
        for name, tensor in prompt.per_token.items():
            said = torch.zeros((1, stop - max(inside, start)), dtype=tensor.dtype)
            inputs[name] = torch.cat([tensor[:, start:inside].cpu(), said], dim=1).to(device)
        ids = torch.tensor([prompt.ids[start:stop]], device=device)
        if not any(picture.last >= start for picture in prompt.pictures) or start >= prompt.length:
            return {**inputs, "input_ids": ids}
        pieces = [self._embeddings(prompt, start)[:, start:inside]]
        if stop > inside:
            pieces.append(self.model.get_input_embeddings()(ids[:, inside - start :]))
        return {**inputs, "inputs_embeds": torch.cat(pieces, dim=1)}

    def _embeddings(self, prompt: Prompt, start: int) -> Tensor:
        """Made once for all pieces of a prompt; again if it is now read from further ahead."""
        if prompt.embeddings is None or start < prompt.embedded_from:
            prompt.embeddings, prompt.embedded_from = self.embedder.embed(prompt, start), start
        return prompt.embeddings

    def _placed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        placed = {}
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                dtype = self.model.dtype if value.is_floating_point() else value.dtype
                value = value.to(device=self.model.device, dtype=dtype)
            placed[name] = value
        return placed

    def _causal_mask(self, start: int, stop: int) -> Tensor | None:
        """(1, 1, new, all): each new token sees everything up to itself; None where the attention knows."""
        if self._is_sdpa and (start == 0 or stop - start == 1):
            return None
        places = torch.arange(stop, device=self.model.device)
        return self._as_mask((places[None] <= places[start:, None])[None, None])

    def _length_mask(self, starts: Sequence[int], longest: int) -> Tensor:
        """(rows, 1, 1, all): each row sees what it has."""
        lasts = torch.tensor(starts, device=self.model.device)
        places = torch.arange(longest, device=self.model.device)
        return self._as_mask((places[None] <= lasts[:, None])[:, None, None])

    def _as_mask(self, is_seen: Tensor) -> Tensor:
        """What the model's attention takes: true or false for "sdpa", else numbers to add."""
        if self._is_sdpa:
            return is_seen
        dtype = self.model.dtype
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=is_seen.device)
        return torch.zeros_like(is_seen, dtype=dtype).masked_fill(~is_seen, hidden)
