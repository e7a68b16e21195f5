"""The quick start printed on 360VL's model card, on top of our own model: old names in, our names onwards.

Nothing else may need this file. Its prompts hold one -200 per picture where ours hold all slots of the
picture, and its pictures come as `images`. Follows qh360_vl/model (360CVGroup/360VL, ad6a11c).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from beholder.core.errors import InputError
from beholder.families.qh360vl.config import QH360VLConfig

if TYPE_CHECKING:
    from PIL.Image import Image

    from beholder.families.qh360vl.views import QH360VLImageProcessor

PICTURE = -200
IGNORED = -100


class VisionTowerHandle:
    """What `model.get_vision_tower()` gave: here a view of the tower that the model has loaded already."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def is_loaded(self) -> bool:
        """Always: the weights came with the checkpoint."""
        return True

    def load_model(self) -> None:
        """Nothing is left to load."""

    @property
    def image_processor(self) -> QH360VLImageProcessor:
        """What turns a picture into this model's views."""
        from beholder.families.qh360vl.views import QH360VLImageProcessor

        return QH360VLImageProcessor.from_model_config(self._model.config)

    def to(self, *args: Any, **kwargs: Any) -> VisionTowerHandle:
        """Move the tower, as `torch.nn.Module.to` does."""
        self._model.model.vision_tower.to(*args, **kwargs)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """(views, 3, S, S) pixels -> (views, patches, width) features."""
        return self._model.model.see(images)


class QuickStart:
    """Mixin: the methods that the published quick start calls on the model."""

    config: QH360VLConfig

    def get_vision_tower(self) -> VisionTowerHandle:
        """The tower under its old interface."""
        return VisionTowerHandle(self)

    def process_images_slid_window(self, image: Image, image_processor: QH360VLImageProcessor) -> Tensor:
        """The five views of a picture: (5, 3, S, S)."""
        return image_processor.stack([image])[0]

    def build_conversation_input_ids(
        self, tokenizer: Any, query: str, image: Image, image_processor: QH360VLImageProcessor
    ) -> dict[str, Tensor]:
        """One question about one picture: `input_ids` (1, n) with one -200, and `image` (1, 5, 3, S, S)."""
        from beholder.core.types import Message
        from beholder.families.qh360vl.processing import QH360VLProcessor

        processor = QH360VLProcessor(
            image_processor,
            tokenizer,
            slots_per_picture=self.config.slots_per_picture,
            image_token=tokenizer.convert_ids_to_tokens(self.config.image_token_id),
        )
        encoded = processor.encode([Message.user(image, query)])
        ids = encoded["input_ids"][0]
        first = int((ids == processor.image_token_id).int().argmax())
        after = ids[first + processor.slots_per_picture :]
        return {
            "input_ids": torch.cat([ids[:first], ids.new_tensor([PICTURE]), after])[None],
            "image": encoded["pixel_values"],
        }

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, images: Any = None, **kwargs: Any) -> Any:
        """As in transformers; with `images`, or -200 in the ids, as in the published code.

        What comes back then begins with the ids as they were given, -200 once per picture.
        """
        ids = kwargs.get("input_ids") if inputs is None else inputs
        if images is None and not (isinstance(ids, Tensor) and bool((ids == PICTURE).any())):
            return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]
        if ids is None:
            raise InputError("images need input_ids, where -200 marks the place of each")
        kwargs.pop("input_ids", None)
        expanded = expand(self.config, ids, images, kwargs.pop("attention_mask", None), pad_left=True)
        out = super().generate(*args, **expanded, **kwargs)  # type: ignore[misc]
        sequences = out if isinstance(out, Tensor) else out.sequences
        prompts = ids.to(sequences.device).repeat_interleave(len(sequences) // len(ids), 0)
        whole = torch.cat([prompts, sequences[:, expanded["input_ids"].shape[1] :]], dim=1)
        if isinstance(out, Tensor):
            return whole
        out.sequences = whole
        return out


def expand(
    config: QH360VLConfig,
    ids: Tensor,
    images: Tensor | Sequence[Tensor] | None,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    pad_left: bool = False,
) -> dict[str, Tensor]:
    """Rows with -200 and `images` as our model's inputs, padded on the right (or left) to one length.

    As in the published code, pictures are counted through the batch, and a row without a picture uses one up.
    """
    pictures = _pictures_used(ids, [] if images is None else list(images))
    mask = torch.ones_like(ids) if mask is None else mask
    columns = {"input_ids": (ids, config.image_token_id, 0), "attention_mask": (mask, 1, 0)}
    if labels is not None:
        columns["labels"] = (labels, IGNORED, IGNORED)
    repeats = torch.where(ids == PICTURE, slots_of(config, pictures), 1)
    batch: dict[str, Tensor] = {}
    for name, (column, at_picture, padding) in columns.items():
        values = column.masked_fill(ids == PICTURE, at_picture)
        rows = [row.repeat_interleave(count) for row, count in zip(values, repeats, strict=True)]
        if pad_left:  # what was padding on the right must not end up between the prompt and the answer
            kept = [keep.repeat_interleave(count).bool() for keep, count in zip(mask, repeats, strict=True)]
            rows = [row[keep] for row, keep in zip(rows, kept, strict=True)]
        side = "left" if pad_left else "right"
        batch[name] = pad_sequence(rows, batch_first=True, padding_value=padding, padding_side=side)
    if pictures:
        batch["pixel_values"] = torch.stack(pictures)
    return batch


def slots_of(config: QH360VLConfig, pictures: Sequence[Tensor]) -> int:
    """The slots of each picture: single views among five-view ones take one projector's."""
    is_single = any(picture.ndim == 3 for picture in pictures)
    return config.projector_config.slots if is_single else config.slots_per_picture


def _pictures_used(ids: Tensor, images: list[Tensor]) -> list[Tensor]:
    """The pictures that rows refer to, in order; rows without a mark use one up and do not show it."""
    marks = (ids == PICTURE).sum(1).tolist()
    needed = sum(max(1, count) for count in marks)
    if needed > len(images) and (images or sum(marks)):
        raise InputError(
            f"{len(images)} images were given and the rows need {needed}: "
            "one for each -200, and one for each row that has none"
        )
    used: list[Tensor] = []
    place = 0
    for count in marks:
        used += images[place : place + count]
        place += max(1, count)
    return used
