"""360VL's processor: conversations to ids and views, for asking and training, as transformers has it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers import AutoConfig, AutoTokenizer

from beholder.core.errors import ConfigError
from beholder.core.hub import find_checkpoint
from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.templates import (
    END_OF_TEXT,
    END_OF_TURN,
    PICTURE_TOKEN,
    PUBLISHED_SYSTEM_PROMPT,
    Llama3Template,
)
from beholder.families.qh360vl.views import QH360VLImageProcessor
from beholder.grounding.boxes import Frame
from beholder.processing.conversations import ConversationProcessor
from beholder.processing.templates import Segment
from beholder.processing.tokens import Encoded, control_id, encode


class QH360VLProcessor(ConversationProcessor):
    """Tokenizer, views and template of one 360VL checkpoint.

    `slots_per_picture` placeholders stand for each picture; the model overwrites them with its features.
    """

    title = "360VL"

    def __init__(
        self,
        image_processor: QH360VLImageProcessor | None = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        system_prompt: str = PUBLISHED_SYSTEM_PROMPT,
        slots_per_picture: int = 1152,
        image_token: str = PICTURE_TOKEN,
    ) -> None:
        self.system_prompt = system_prompt
        self.slots_per_picture = slots_per_picture
        self.image_token = image_token
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token_id = control_id(tokenizer, image_token)

    @property
    def template(self) -> Llama3Template:
        """The chat format with this checkpoint's system prompt."""
        return Llama3Template(self.system_prompt)

    @property
    def terminators(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return control_id(self.tokenizer, END_OF_TURN), control_id(self.tokenizer, END_OF_TEXT)

    @property
    def padding_id(self) -> int:
        """The id that fills up shorter rows; where the tokenizer names none, the published one."""
        given = self.tokenizer.pad_token_id
        return control_id(self.tokenizer, END_OF_TEXT) if given is None else given

    def box_frame(self, width: int, height: int) -> Frame:
        """What the fractions of an answered box refer to on a picture of this size."""
        return self.image_processor.box_frame(width, height)

    def slots(self, picture: Image.Image) -> int:
        """The same for every picture."""
        return self.slots_per_picture

    def segment_ids(self, segments: Sequence[Segment], slots: Sequence[int]) -> Encoded:
        """Ids of a rendered conversation; a user's text stays literal."""
        return encode(segments, self.tokenizer, slots, self.image_token_id)

    def prompt_ids(self, text: str, add_special_tokens: bool | None) -> list[int]:
        """Ids of a rendered prompt; begin of text is added where it is missing."""
        if add_special_tokens is None:
            begin = self.tokenizer.bos_token
            add_special_tokens = begin is None or not text.startswith(begin)
        return self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]

    @property
    def model_input_names(self) -> list[str]:
        """What the model's forward takes from this processor."""
        return ["input_ids", "attention_mask", "pixel_values"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> QH360VLProcessor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Open a folder or hub id: what this class saved, or a published checkpoint (config and tokenizer).

        Settings come from the arguments, then from processor_config.json, then from config.json. `tokenizer`
        names another folder or hub id for it.
        """
        fields = set(inspect.signature(cls.__init__).parameters) - {"self", "image_processor", "tokenizer"}
        given = {name: kwargs.pop(name) for name in fields & kwargs.keys()}
        named = kwargs.pop("tokenizer", None)
        words = pretrained_model_name_or_path if named is None else find_checkpoint(named, what="tokenizer")
        stored, _ = cls.get_processor_dict(pretrained_model_name_or_path, **kwargs)
        views = stored.pop("image_processor", None)
        if unknown := sorted(stored.keys() - fields - {"processor_class", "auto_map"}):
            raise ConfigError(f"processor_config.json has unknown settings: {', '.join(unknown)}")
        settings = {name: stored[name] for name in fields & stored.keys()} | given
        # Whoever pads with the tokenizer alone, as pipelines do, must fill on the left as well.
        sides = {"padding_side": "left", **kwargs}
        tokenizer = AutoTokenizer.from_pretrained(words, **sides)
        if views is not None and "slots_per_picture" in settings:
            return cls(QH360VLImageProcessor(**views), tokenizer, **settings)
        config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)
        if not isinstance(config, QH360VLConfig):
            raise ConfigError(f"config.json is of type {config.model_type!r}; a 360VL checkpoint is needed")
        settings.setdefault("slots_per_picture", config.slots_per_picture)
        image_processor = (
            QH360VLImageProcessor(**views) if views else QH360VLImageProcessor.from_model_config(config)
        )
        processor = cls(image_processor, tokenizer, **settings)
        if processor.image_token_id != config.image_token_id:
            raise ConfigError(
                f"{processor.image_token} is {processor.image_token_id} in the tokenizer and config.json has "
                f"image_token_id {config.image_token_id}; the tokenizer belongs to another model"
            )
        return processor
