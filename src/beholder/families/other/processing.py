"""The processor of any model that transformers has, with the few methods that the rest of the house calls.

Templates, placeholders and pixels are the processor's own. Where it reads the placeholder of a picture in
what a user wrote, the prompt would have another picture than was given, so such a text is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beholder.core.errors import CheckpointError, ConfigError, InputError
from beholder.core.hub import find_checkpoint
from beholder.core.types import Message
from beholder.grounding.boxes import Frame

NO_TOKEN = -1  # what no id is


class OtherProcessor:
    """Wraps a processor: `encode` for conversations, `terminators`, and where boxes are measured."""

    title = "the model's own processor"
    stop: tuple[str, ...] = ()

    def __init__(self, processor: Any, config: Any, terminators: Sequence[int]) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.terminators = tuple(terminators)
        self.image_token_id = _image_token_id(processor, config)
        self.image_token = _image_token(processor, self.image_token_id)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> OtherProcessor:
        """Open a folder or hub id; `options` are those of transformers' AutoProcessor."""
        from transformers import AutoConfig

        if options.pop("base", None) is not None:
            raise ConfigError("base= is for adapters and projectors of known families")
        if options.pop("tokenizer", None) is not None:
            raise ConfigError(
                "another tokenizer is for known families; this model's comes with its processor"
            )
        place = find_checkpoint(folder)
        config = AutoConfig.from_pretrained(place)
        processor = _open(place, config, options)
        if getattr(processor, "tokenizer", None) is None:
            raise CheckpointError(f"{place} has no processor with a tokenizer, so nothing can be asked of it")
        return cls(processor, config, _terminators(place, config, processor.tokenizer))

    @property
    def has_template(self) -> bool:
        """Whether the checkpoint says how a conversation is written down."""
        return bool(getattr(self.processor, "chat_template", None))

    def encode(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> Any:
        """One conversation as the tensors that the model takes, (1, length) ids among them."""
        for message in messages:
            if self.image_token and self.image_token in message.text:
                raise InputError(
                    f"the text holds {self.image_token}, which this model's processor reads as a picture; "
                    "write it otherwise"
                )
        if self.has_template:
            return self.processor.apply_chat_template(
                [_turn(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        return self._plain(messages)

    def _plain(self, messages: Sequence[Message]) -> Any:
        """Without a template there is one way to ask: pictures, and the text as it is."""
        if len(messages) != 1 or messages[0].role != "user":
            raise InputError(
                "this model has no chat template, so it takes one user message and no system message; "
                f"there are {len(messages)} messages"
            )
        pictures = list(messages[0].pictures)
        return self(text=messages[0].text or None, images=pictures or None, return_tensors="pt")

    def __call__(self, text: str | None = None, images: Any = None, **options: Any) -> Any:
        """The wrapped processor itself; a text without a picture goes to the tokenizer."""
        if images is None:
            return self.tokenizer(text, **options)
        return self.processor(images=images, text=text, **options)

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """The wrapped processor's."""
        return self.processor.apply_chat_template(conversation, **options)

    def encode_training(self, messages: Sequence[Message]) -> dict[str, Any]:
        """ConfigError: which tokens are answers follows from a template that is known here."""
        raise ConfigError("only the known families can be trained; this model runs as transformers has it")

    def box_frame(self, width: int, height: int) -> Frame:
        """Fractions of a box are taken as those of the picture itself."""
        return Frame.picture(width, height)


def _turn(message: Message) -> dict[str, Any]:
    """A message as transformers' templates read it."""
    parts = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
        for part in message.parts
    ]
    return {"role": message.role, "content": parts}


def _open(folder: Path, config: Any, options: Mapping[str, Any]) -> Any:
    """The processor; where videos need torchvision and it is not here, the same without videos."""
    from transformers import AutoProcessor
    from transformers.utils.import_utils import is_torchvision_available

    try:
        if is_torchvision_available() or (found := _class_of(folder, config)) is None:
            return AutoProcessor.from_pretrained(folder, **options)
        if all("video" not in name for name in found.get_attributes()):
            return found.from_pretrained(folder, **options)
        return _for_pictures(found).from_pretrained(folder, **options)
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise CheckpointError(f"the processor in {folder} cannot be opened: {reason}") from error


def _class_of(folder: Path, config: Any) -> Any:
    """The processor's class as the files name it, or as transformers knows it by the model type."""
    # The names lie in a file of their own in some releases; those here are completed.
    from transformers.models.auto.processing_auto import (
        PROCESSOR_MAPPING_NAMES,  # pyright: ignore[reportPrivateImportUsage]
        processor_class_from_name,
    )

    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        path = folder / file
        named = json.loads(path.read_text("utf-8")).get("processor_class") if path.is_file() else None
        if named and (found := processor_class_from_name(named)) is not None:
            return found
    named = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    return processor_class_from_name(named) if named else None


def _for_pictures(processor_class: Any) -> Any:
    """A processor's class without the part for videos: it alone needs torchvision."""

    class ForPictures(processor_class):
        video_processor = None

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in processor_class.get_attributes() if "video" not in name]

    ForPictures.__name__ = processor_class.__name__  # files and registries know it by this name
    return ForPictures


def _terminators(folder: Path, config: Any, tokenizer: Any) -> list[int]:
    """The ids that end an answer in transformers' own `generate`; the tokenizer's where nobody says."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
    else:
        ends = getattr(config.get_text_config(), "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _image_token_id(processor: Any, config: Any) -> int:
    for owner in (processor, config):
        for name in ("image_token_id", "image_token_index"):
            if isinstance(found := getattr(owner, name, None), int):
                return found
    return NO_TOKEN


def _image_token(processor: Any, token_id: int) -> str | None:
    if isinstance(found := getattr(processor, "image_token", None), str):
        return found
    if token_id == NO_TOKEN:
        return None
    name = processor.tokenizer.convert_ids_to_tokens(token_id)
    return name if isinstance(name, str) else None
