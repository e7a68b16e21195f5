"""The quick start printed in CogVLM's document, on top of our own model: old names in, our names onwards.

The published code takes pictures as `images`, a list per row. Follows the remote code of
THUDM/cogvlm-chat-hf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from beholder.core.errors import InputError
from beholder.families.cogvlm.config import CogVLMConfig
from beholder.families.cogvlm.routing import LANGUAGE, VISION, rotary_positions, vision_experts
from beholder.families.cogvlm.spelling import ids_of
from beholder.processing.labels import IGNORED

if TYPE_CHECKING:
    from PIL.Image import Image

History = Sequence[tuple[str, str]]


class QuickStart:
    """Mixin: the method that the published quick start calls, and `generate` with the published arguments."""

    config: CogVLMConfig

    def build_conversation_input_ids(
        self,
        tokenizer: Any,
        *,
        query: str,
        history: History | None = None,
        images: Sequence[Image] | None = None,
        template_version: str | None = None,
        answer: str | None = None,
    ) -> dict[str, Any]:
        """One question as tensors without a batch axis, as in the published code.

        `input_ids`, `token_type_ids`, `attention_mask`, `labels` (None without an `answer`), and `images`: a
        list of one (3, S, S) float32 picture, or what was given where there is none.
        """
        from beholder.families.cogvlm.templates import question_text
        from beholder.families.cogvlm.views import CogVLMImageProcessor

        if images is not None and len(images) > 1:
            raise InputError(f"CogVLM looks at one picture per question; {len(images)} were given")
        text = question_text(template_version or self.config.template, query, history or ())
        slots = self.config.slots_per_picture if images else 0
        prompt = ids_of(text, tokenizer)
        target = [] if answer is None else [*ids_of(answer, tokenizer), tokenizer.eos_token_id]
        before = [tokenizer.bos_token_id, *[self.config.image_token_id] * slots, *prompt]
        types = [LANGUAGE, *[VISION] * slots, *[LANGUAGE] * (len(prompt) + len(target))]
        pixels: Any = images
        if images:
            pixels = list(CogVLMImageProcessor.from_model_config(self.config).stack(images))
        return {
            "input_ids": torch.tensor([*before, *target]),
            "token_type_ids": torch.tensor(types),
            "attention_mask": torch.ones(len(types), dtype=torch.long),
            "images": pixels,
            "labels": None if answer is None else torch.tensor([*[IGNORED] * len(before), *target]),
        }

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, images: Any = None, **kwargs: Any) -> Any:
        """As in transformers; positions and experts are told from `token_type_ids` of the whole prompt.

        `images` is the published form of `pixel_values`. Without an `attention_mask` every token counts,
        because the slots of a picture hold the id that padding has.
        """
        ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if images is not None:
            kwargs["pixel_values"] = flat_images(images, ids, kwargs.get("pixel_values"))
            if kwargs["pixel_values"] is None:
                del kwargs["pixel_values"]
        types = kwargs.get("token_type_ids")
        if types is not None:
            if kwargs.get("attention_mask") is None:
                kwargs["attention_mask"] = torch.ones_like(types)
            if kwargs.get("position_ids") is None:
                kwargs["position_ids"] = rotary_positions(types, kwargs["attention_mask"])
            if kwargs.get("vision_expert_mask") is None:
                kwargs["vision_expert_mask"] = vision_experts(types)
        filled = _with_other_padding(ids, types, kwargs.get("attention_mask"), self.config)
        out = super().generate(filled, *args, **kwargs)  # type: ignore[misc]
        if filled is not ids and ids is not None:
            sequences = out if isinstance(out, Tensor) else out.sequences
            rows = ids.to(sequences.device).repeat_interleave(len(sequences) // len(ids), 0)
            sequences[:, : ids.shape[1]] = rows
        return out


def _with_other_padding(
    ids: Tensor | None, types: Tensor | None, mask: Tensor | None, config: CogVLMConfig
) -> Tensor | None:
    """Ids whose padding does not look like the slots of a picture, which transformers counts by their id."""
    if ids is None or types is None or mask is None or not bool((types == VISION).any()):
        return ids
    padding = mask == 0
    return ids.masked_fill(padding, config.text_config.bos_token_id) if bool(padding.any()) else ids


def flat_images(images: Any, input_ids: Tensor | None, pixel_values: Tensor | None) -> Tensor | None:
    """(pictures, 3, S, S) of a list of lists, one per row; None where no row has a picture."""
    if pixel_values is not None:
        raise InputError("give either images or pixel_values, which are two names for one thing")
    if input_ids is not None and len(images) not in (0, len(input_ids)):
        raise InputError(
            f"images has {len(images)} entries and the batch {len(input_ids)} rows; give a list for every row"
        )
    pictures = [picture for row in images for picture in (row if row is not None else ())]
    return torch.stack(pictures) if pictures else None
