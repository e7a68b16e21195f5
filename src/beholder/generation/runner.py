"""Runs the model over what it is given: a piece of one prompt, the ends of several, or one token of each.

Decides nothing. Everything here happens in inference mode, which ends before the caller's code goes on.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from beholder.core.errors import ConfigError
from beholder.generation.attention import NAME, attention_configs, implementation, register
from beholder.generation.blocks import BlockTable
from beholder.generation.cache import Store, StoredView
from beholder.generation.compiled import CompiledDecode
from beholder.generation.features import Embedder
from beholder.generation.last_layer import LastLayer
from beholder.generation.native.decode import NativeDecode
from beholder.generation.packed import PackedWeights
from beholder.generation.prompt import POSITIONS, Prompt

log = logging.getLogger("beholder")


class Runner:
    """One model and the memory for its keys and values.

    `direct` lets rows that answer attend one by one where their keys stand; without it they are gathered side
    by side under a mask. Left out, it is used on the CPU where the model's attention can be replaced.
    `compiled` is how rows that answer are run in fixed shapes instead, see `CompiledDecode`.
    """

    def __init__(
        self,
        model: Any,
        store: Store,
        embedder: Embedder,
        packed: PackedWeights,
        native: NativeDecode | None = None,
        *,
        direct: bool | None = None,
        compiled: str | None = None,
    ) -> None:
        self.model = model
        self.store = store
        self.embedder = embedder
        self.packed = packed
        self.native = native
        self._last_layer = LastLayer(model)
        self._is_native: bool | None = None  # whether rows that answer are run natively; None: look again
        self.device = store.device
        parameters = inspect.signature(model.forward).parameters
        takes_more = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        self._keeps_some = "logits_to_keep" in parameters
        self._none = torch.empty(0, dtype=torch.long, device=self.device)
        # A mask in four dimensions is passed on as it is; the attention that reads none needs none made.
        self._unread = torch.empty((1, 1, 1, 1), dtype=torch.bool, device=self.device)
        self._configs = attention_configs(model)
        # Whether rows that answer may attend in our way, which repeats no keys.
        self.folds = takes_more
        self.direct = takes_more and (self.device.type == "cpu" if direct is None else direct)
        self.compiled: CompiledDecode | None = None
        if compiled is not None:
            if not takes_more or direct or self._kinds != {"sdpa"}:
                raise ConfigError(
                    "compile needs a model whose attention is sdpa and can be replaced, and rows that are "
                    "not direct; leave compile or direct out"
                )
            self.compiled = CompiledDecode(model, store, compiled)
        if takes_more:
            register()

    def forget(self) -> None:
        """Weights may have changed in ways that nobody sees."""
        self._is_native = None
        if self.native is not None:
            self.native.forget()

    def release(self) -> None:
        """Give native decode's memory and threads back; nothing is run afterwards."""
        if self.native is not None:
            self.native.release()

    @property
    def _kinds(self) -> set[str]:
        """How the layers attend now; that may be changed at any time."""
        return {config._attn_implementation for config in self._configs} or {"eager"}

    @property
    def _is_sdpa(self) -> bool:
        """Everything but "eager" is run as "sdpa": other implementations take no mask in four dimensions."""
        return self._kinds != {"eager"}

    @torch.inference_mode()
    def read(
        self, prompt: Prompt, table: BlockTable, start: int, stop: int, *, wanted: bool = True
    ) -> Tensor | None:
        """Run positions `start` to `stop` of one request; the scores of the last of them, (1, vocabulary).

        None if they are not `wanted`, which only the last piece's are; then they are not computed either.
        """
        self._is_native = None
        inputs = self._prompt_inputs(prompt, start, stop)
        if self._reads_natively(prompt, stop - start):
            scores = self._read_natively(prompt, inputs, table, stop)
        else:
            view = StoredView(self.store, [table], [start], stop - start, direct=False)
            mask = self._causal_mask(start, stop)
            with self.packed.used("decode", pack=False), self._last_layer.shortened(wanted=wanted):
                scores = self._forward(inputs, view, mask, wanted=wanted)
        if stop >= prompt.length:
            prompt.features.clear()
        return scores if wanted else None

    def _reads_natively(self, prompt: Prompt, count: int) -> bool:
        reads = self.native is not None and self.native.reads(count) and not self.stands_alone(prompt)
        return reads and self._is_native_now()

    def _read_natively(self, prompt: Prompt, inputs: dict[str, Any], table: BlockTable, stop: int) -> Tensor:
        assert self.native is not None
        positions = inputs[POSITIONS][0].tolist()
        embeddings = inputs.get("inputs_embeds")
        tokens = prompt.ids[stop - len(positions) : stop] if embeddings is None else embeddings[0]
        return self.native.read(tokens, positions, table, stop, self.store)

    def _is_native_now(self) -> bool:
        """Looked at once after something was read: at every step it would take a part of a small one's
        time."""
        if self._is_native is None:
            self._is_native = self.native is not None and self.native.is_ready()
            if self.native is not None and self.native.gave_up:
                self.native = None
                self.packed.spare_nothing()
        return self._is_native

    @torch.inference_mode()
    def read_together(
        self, prompts: Sequence[Prompt], tables: Sequence[BlockTable], starts: Sequence[int]
    ) -> Tensor:
        """Run the rest of each of several prompts side by side; the scores of their ends, (rows, vocabulary).

        Shorter rests are filled up in front. For prompts of which `stands_alone` says no.
        """
        self._is_native = None
        rests = [prompt.length - start for prompt, start in zip(prompts, starts, strict=True)]
        longest = max(rests)
        filler = [longest - rest for rest in rests]
        view = StoredView(self.store, tables, starts, longest, direct=False, filler=filler)
        rows = torch.tensor([[start - fill] for start, fill in zip(starts, filler, strict=True)])
        places = (rows + torch.arange(longest)).clamp(min=0)  # of fillers any will do that sees something
        seen = torch.arange(view.longest)[None, None] <= places[:, :, None]
        inputs = self._side_by_side(prompts, starts, filler)
        with self.packed.used("decode", pack=False), self._last_layer.shortened(wanted=True):
            scores = self._scores(inputs, view, self._as_mask(seen[:, None].to(self.device)))
        for prompt in prompts:
            prompt.features.clear()
        return scores

    def _side_by_side(
        self, prompts: Sequence[Prompt], starts: Sequence[int], filler: Sequence[int]
    ) -> dict[str, Any]:
        """The rests of prompts as rows of one length: ids, or embeddings where one shows a picture."""
        positions = [
            [0] * fill + [prompt.position(index) for index in range(start, prompt.length)]
            for prompt, start, fill in zip(prompts, starts, filler, strict=True)
        ]
        inputs: dict[str, Any] = {POSITIONS: torch.tensor(positions, device=self.device)}
        if not any(prompt.shown(start, prompt.length) for prompt, start in zip(prompts, starts, strict=True)):
            ids = [
                [prompt.ids[start]] * fill + prompt.ids[start:]
                for prompt, start, fill in zip(prompts, starts, filler, strict=True)
            ]
            return {**inputs, "input_ids": torch.tensor(ids, device=self.device)}
        pieces = [
            self.embedder.embed(prompt, start, prompt.length)
            for prompt, start in zip(prompts, starts, strict=True)
        ]
        filled = [pad(piece, (0, 0, fill, 0)) for piece, fill in zip(pieces, filler, strict=True)]
        return {**inputs, "inputs_embeds": torch.cat(filled)}

    @staticmethod
    def stands_alone(prompt: Prompt) -> bool:
        """Whether its forward takes something that other prompts' rows could not stand beside."""
        return bool(prompt.whole or prompt.per_token)

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Prompt], tables: Sequence[BlockTable]) -> Tensor:
        """Run the last token of each request; the scores after each, (rows, vocabulary)."""
        starts = [len(prompt.ids) - 1 for prompt in prompts]
        ids = [prompt.ids[-1] for prompt in prompts]
        positions = [prompt.position(start) for prompt, start in zip(prompts, starts, strict=True)]
        if self.native is not None and self._is_native_now():
            return self.native.answer(ids, positions, tables, starts, self.store)
        if self.compiled is not None:
            with implementation(self._configs, NAME):
                return self.compiled.run(ids, positions, tables, starts)
        both = torch.tensor([*ids, *positions], device=self.device).view(2, -1, 1)
        inputs = {"input_ids": both[0], POSITIONS: both[1]}
        with self.packed.used("decode", pack=True):
            return self._answer(inputs, tables, starts)

    def _answer(self, inputs: dict[str, Any], tables: Sequence[BlockTable], starts: Sequence[int]) -> Tensor:
        can_fold = self.folds and self._kinds == {"sdpa"}
        if can_fold and self.direct:
            view = StoredView(self.store, tables, starts, 1, direct=True)
            scores = self._forward_folded(inputs, view, self._unread)
            if view.attended == view.updated:
                return scores
            # The layers did not ask the attention they were told to, so what they computed is wrong.
            log.info("attention of %s cannot be replaced; rows are gathered", type(self.model).__name__)
            self.direct = self.folds = can_fold = False
        view = StoredView(self.store, tables, starts, 1, direct=False)
        mask = self._length_mask(starts, view.longest)
        if can_fold:
            return self._forward_folded(inputs, view, mask)
        return self._scores(inputs, view, mask)

    def _forward_folded(self, inputs: dict[str, Any], view: StoredView, mask: Tensor) -> Tensor:
        with implementation(self._configs, NAME):
            return self._scores({**inputs, "stored": view}, view, mask)

    def _scores(self, inputs: dict[str, Any], view: StoredView, mask: Tensor | None) -> Tensor:
        scores = self._forward(inputs, view, mask)
        assert scores is not None
        return scores

    def _forward(
        self, inputs: dict[str, Any], view: StoredView, mask: Tensor | None, *, wanted: bool = True
    ) -> Tensor | None:
        if not self._kinds <= {"sdpa", "eager", NAME}:
            with implementation(self._configs, "sdpa"):
                return self._forward(inputs, view, mask, wanted=wanted)
        keeps = {"logits_to_keep": 1 if wanted else self._none} if self._keeps_some else {}
        output = self.model(**inputs, attention_mask=mask, past_key_values=view, use_cache=True, **keeps)
        return output.logits[:, -1] if wanted else None

    def _prompt_inputs(self, prompt: Prompt, start: int, stop: int) -> dict[str, Any]:
        """Ids or embeddings of a piece, with the tensors that are cut along with it."""
        device = self.device
        inputs: dict[str, Any] = dict(self._placed(prompt.whole))
        positions = [prompt.position(index) for index in range(start, stop)]
        inputs[POSITIONS] = torch.tensor([positions], device=device)
        inside = min(stop, prompt.length)
        for name, tensor in prompt.per_token.items():
            said = torch.zeros((1, stop - max(inside, start)), dtype=tensor.dtype)
            inputs[name] = torch.cat([tensor[:, start:inside].cpu(), said], dim=1).to(device)
        ids = torch.tensor([prompt.ids[start:stop]], device=device)
        if not prompt.shown(start, stop):
            return {**inputs, "input_ids": ids}
        pieces = [self.embedder.embed(prompt, start, inside)]
        if stop > inside:
            pieces.append(self.model.get_input_embeddings()(ids[:, inside - start :]))
        return {**inputs, "inputs_embeds": torch.cat(pieces, dim=1)}

    def _placed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        placed = {}
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                dtype = self.model.dtype if value.is_floating_point() else value.dtype
                value = value.to(device=self.device, dtype=dtype)
            placed[name] = value
        return placed

    def _causal_mask(self, start: int, stop: int) -> Tensor | None:
        """(1, 1, new, all): each new token sees everything up to itself; None where the attention knows."""
        if self._is_sdpa and (start == 0 or stop - start == 1):
            return None
        places = torch.arange(stop, device=self.device)
        return self._as_mask((places[None] <= places[start:, None])[None, None])

    def _length_mask(self, starts: Sequence[int], longest: int) -> Tensor:
        """(rows, 1, 1, all): each row sees what it has."""
        lasts = torch.tensor(starts, device=self.device)
        places = torch.arange(longest, device=self.device)
        return self._as_mask((places[None] <= lasts[:, None])[:, None, None])

    def _as_mask(self, is_seen: Tensor) -> Tensor:
        """What the model's attention takes: true or false for "sdpa", else numbers to add."""
        if self._is_sdpa:
            return is_seen
        dtype = self.model.dtype
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=is_seen.device)
        return torch.zeros_like(is_seen, dtype=dtype).masked_fill(~is_seen, hidden)
