"""What a server tells of a model: its limits, and what it makes of a conversation, from prompt to pixels."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from beholder.checkpoints.narrow import quantization
from beholder.core.types import Message
from beholder.processing.templates import rendered_text
from beholder.serving.errors import APIError

if TYPE_CHECKING:
    from beholder.api import VLM

PICTURE = "<image>"  # stands for a picture in a prompt that is shown


def describe(vlm: VLM) -> dict[str, Any]:
    """What a client may want to know of a model before it asks."""
    processor = vlm.processor
    told: dict[str, Any] = {
        "family": vlm.family.name,
        "context": vlm.context,
        "template": template_name(processor),
        "templates": list(template_names(processor)),
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "device": str(vlm.model.device),
        "quantization": quantization(vlm.model),
        "preprocessing": fingerprint(processor),
    }
    most = most_pictures(processor, vlm.context)
    return told if most is None else {**told, "pictures_per_request": most}


def most_pictures(processor: Any, context: int) -> int | None:
    """How many pictures a request may have: what the family allows, and what fits into the context."""
    allowed = getattr(processor, "most_pictures", None)
    slots = getattr(processor, "slots_per_picture", None)
    limits = [allowed, (context - 1) // slots if slots else None]
    return min((limit for limit in limits if limit is not None), default=None)


def fingerprint(processor: Any) -> str:
    """Equal where two processors make the same of every picture and conversation."""
    inner = processor if hasattr(processor, "to_dict") else processor.processor
    settings = json.dumps(inner.to_dict(), sort_keys=True, default=str)
    vocabulary = json.dumps(processor.tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(f"{settings}\n{vocabulary}".encode()).hexdigest()[:16]


def template_name(processor: Any) -> str:
    """The way in which conversations are written down."""
    name = getattr(processor, "template_name", None) or getattr(processor, "template", None)
    if name is None:
        return "the checkpoint's own"
    return name if isinstance(name, str) else type(name).__name__


def template_names(processor: Any) -> tuple[str, ...]:
    """The ways that a request may choose from; none where there is only one."""
    return tuple(getattr(processor, "template_names", ()))


def with_template(vlm: VLM, name: str | None) -> VLM:
    """The same model, on the same engine, with another of its templates; None leaves it as it is."""
    if name is None:
        return vlm
    known = template_names(vlm.processor) or (template_name(vlm.processor),)
    if name not in known:
        raise APIError(
            400, f"this model has no template {name[:100]!r}; it has {', '.join(known)}",
            code="invalid_value", param="template",
        )  # fmt: skip
    if name == template_name(vlm.processor):
        return vlm
    return vlm.with_template(name)


def explain(vlm: VLM, messages: Sequence[Message]) -> dict[str, Any]:
    """What a model gets of a conversation: ids, the prompt in segments, and where its pictures stand."""
    ids: list[int] = vlm.processor.encode(messages)["input_ids"][0].tolist()
    segments = _segments(vlm.processor, messages, ids)
    place, spans = 0, list[tuple[int, int]]()
    for is_picture, length in _runs(vlm.processor, ids):
        if is_picture:
            spans.append((place, place + length))
        place += length
    return {
        "count": len(ids),
        "max_model_len": vlm.context,
        "tokens": ids,
        "prompt": "".join(PICTURE if kind == "picture" else text for kind, text in segments),
        "picture_spans": spans,
        "segments": [{"kind": kind, "text": text} for kind, text in segments],
    }


def _segments(processor: Any, messages: Sequence[Message], ids: Sequence[int]) -> list[tuple[str, str]]:
    """The prompt as the template writes it; of one that cannot say, as its ids read."""
    template: Any = getattr(processor, "rendering", None) or getattr(processor, "template", None)
    if hasattr(template, "render"):
        rendered = template.render(messages, add_generation_prompt=True)
        return [(segment.kind, rendered_text([segment], "")) for segment in rendered]
    told: list[tuple[str, str]] = []
    place = 0
    for is_picture, length in _runs(processor, ids):
        text = "" if is_picture else processor.tokenizer.decode(list(ids[place : place + length]))
        told.append(("picture" if is_picture else "text", text))
        place += length
    return told


def _runs(processor: Any, ids: Sequence[int]) -> list[tuple[bool, int]]:
    """How many ids in a row are a picture's, and are not."""
    marked = groupby(ids, lambda token: token == processor.image_token_id)
    return [(is_picture, len(list(run))) for is_picture, run in marked]


def views(vlm: VLM, messages: Sequence[Message]) -> list[list[str]] | None:
    """Every picture as the model's tower sees it, as PNG data URLs; None where that cannot be told.

    Pixels are counted back from what the processor made of them, so this shows what really is computed with.
    """
    processor = vlm.processor
    pixels = processor.encode(messages).get("pixel_values")
    if pixels is None:
        return []
    shown = getattr(processor, "image_processor", None) or getattr(
        getattr(processor, "processor", None), "image_processor", None
    )
    mean, deviation = (getattr(shown, name, None) for name in ("image_mean", "image_std"))
    values = pixels.float().numpy()
    if mean is None or deviation is None or values.ndim < 4 or values.shape[-3] != 3:
        return None
    channels = np.asarray(deviation).reshape(3, 1, 1), np.asarray(mean).reshape(3, 1, 1)
    bytes_ = np.clip(np.rint((values * channels[0] + channels[1]) * 255), 0, 255).astype(np.uint8)
    # Where pictures have different numbers of tiles, zeros fill up the rest; those are no views.
    return [
        [_png(shown) for shown, value in zip(_flat(painted), _flat(picture), strict=True) if value.any()]
        for painted, picture in zip(bytes_, values, strict=True)
    ]


def _flat(picture: Any) -> Any:
    return picture.reshape(-1, *picture.shape[-3:])


def _png(view: Any) -> str:
    """A (3, height, width) array as a data URL."""
    held = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0))).save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")
