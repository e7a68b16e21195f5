"""360VL's processor: conversations to ids and views, for asking and training, as transformers has it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, BatchFeature, ProcessorMixin

from beholder.core.errors import ConfigError, InputError
from beholder.core.types import Message
from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.templates import (
    END_OF_TEXT,
    END_OF_TURN,
    PICTURE_TOKEN,
    PUBLISHED_SYSTEM_PROMPT,
    Llama3Template,
)
from beholder.families.qh360vl.views import QH360VLImageProcessor, flat_pictures
from beholder.grounding.boxes import Frame
from beholder.processing.images import open_picture
from beholder.processing.labels import labels_from
from beholder.processing.messages import read_message
from beholder.processing.templates import Segment, rendered_text
from beholder.processing.tokens import Encoded, control_id, encode, left_pad

# Stands for a picture that need not be opened.
BLANK = Image.new("RGB", (1, 1))
# Arguments of transformers' own method that ask for nothing, or for what happens here anyway.
HARMLESS = frozenset(
    {"sanitize_control_tokens", "load_audio_from_video", "add_special_tokens", "padding_side"}
)


class QH360VLProcessor(ProcessorMixin):
    """Tokenizer, views and template of one 360VL checkpoint.

    `slots_per_picture` placeholders stand for each picture; the model overwrites them with its features.
    """

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

    def encode(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> BatchFeature:
        """One conversation as tensors: `input_ids`, `attention_mask` and, with pictures, `pixel_values`."""
        encoded, pictures = self._encoded(messages, add_generation_prompt=add_generation_prompt)
        data = {
            "input_ids": torch.tensor([encoded.input_ids]),
            "attention_mask": torch.ones((1, len(encoded.input_ids)), dtype=torch.long),
        }
        if pictures:
            data["pixel_values"] = self.image_processor.stack(pictures)
        return BatchFeature(data)

    def encode_training(self, messages: Sequence[Message]) -> dict[str, Any]:
        """One conversation as a training sample: every answer is trained, its end-of-turn token included."""
        encoded, pictures = self._encoded(messages, add_generation_prompt=False)
        return {
            "input_ids": encoded.input_ids,
            "labels": labels_from(encoded),
            "pixel_values": self.image_processor.stack(pictures) if pictures else None,
        }

    def _encoded(
        self, messages: Sequence[Message], *, add_generation_prompt: bool
    ) -> tuple[Encoded, list[Any]]:
        segments = self.template.render(messages, add_generation_prompt=add_generation_prompt)
        pictures = [picture for message in messages for picture in message.pictures]
        return self._ids(segments, len(pictures)), pictures

    def _ids(self, segments: Sequence[Segment], pictures: int) -> Encoded:
        return encode(segments, self.tokenizer, [self.slots_per_picture] * pictures, self.image_token_id)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        padding: bool | str | None = None,
        return_assistant_tokens_mask: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """One conversation or a batch, as text, ids, or (`return_dict`) everything the model takes.

        Unlike a Jinja template this keeps a user's text literal: a special token spelled in it stays text.
        """
        if chat_template is not None:
            raise InputError("360VL writes conversations in one way only; leave chat_template out")
        options = {**kwargs, **(processor_kwargs or {})}
        padding = options.pop("padding", padding)
        return_tensors = options.pop("return_tensors", return_tensors)
        _reject(options, "apply_chat_template")
        if not conversation:
            raise InputError("the conversation is empty; it needs at least one message")

        is_batch = not isinstance(conversation[0], (Mapping, Message))
        rows = [self._turns(row, tokenize) for row in (conversation if is_batch else [conversation])]
        prompts = [self._prompt(row, add_generation_prompt, continue_final_message) for row in rows]
        if not tokenize:
            texts = [rendered_text(segments, self.image_token) for segments in prompts]
            return texts if is_batch else texts[0]
        pictures = [[picture for message in row for picture in message.pictures] for row in rows]
        encoded = [self._ids(segments, len(shown)) for segments, shown in zip(prompts, pictures, strict=True)]
        return_tensors = None if return_tensors == "auto" else return_tensors
        batch = self._batch(
            [row.input_ids for row in encoded],
            [picture for shown in pictures for picture in shown],
            trained=[row.trained for row in encoded] if return_assistant_tokens_mask else None,
            return_tensors=return_tensors,
            padding=bool(return_tensors) if padding is None else padding,
        )
        return batch if return_dict else batch["input_ids"]

    def _turns(self, conversation: Any, with_pictures: bool) -> list[Message]:
        """Messages of one conversation. In a prompt without ids only the places of pictures count."""
        if not with_pictures:
            conversation = [_without_pictures(turn) for turn in conversation]
        return [read_message(turn, number, open_picture) for number, turn in enumerate(conversation, start=1)]

    def _prompt(self, messages: Sequence[Message], opened: bool, continued: bool) -> list[Segment]:
        """Segments of a conversation; a continued one stays open after its last words."""
        segments = self.template.render(messages, add_generation_prompt=opened and not continued)
        return segments[:-1] if continued else segments

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        padding: bool | str = False,
        return_tensors: str | None = None,
        add_special_tokens: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Rendered prompts and their pictures as model inputs; `image_token` stands where a picture stands.

        The text is taken as rendered, so special tokens in it count; begin of text is added where missing.
        """
        _reject(kwargs, "the processor")
        if text is None:
            if images is None:
                raise InputError("give the processor a text, pictures, or both")
            return self.image_processor(images, return_tensors=return_tensors)
        rows = [
            self._expanded(row, add_special_tokens) for row in ([text] if isinstance(text, str) else text)
        ]
        pictures = [open_picture(picture) for picture in flat_pictures(images)]
        places = sum(row.count(self.image_token_id) for row in rows) // self.slots_per_picture
        if places != len(pictures):
            raise InputError(
                f"the text has places for {places} pictures and {len(pictures)} were given; "
                f"write {self.image_token} where a picture stands, or use apply_chat_template"
            )
        return self._batch(rows, pictures, return_tensors=return_tensors, padding=padding)

    def _expanded(self, text: str, add_special_tokens: bool | None) -> list[int]:
        """Ids of a rendered prompt with each picture's token repeated."""
        if add_special_tokens is None:
            begin = self.tokenizer.bos_token
            add_special_tokens = begin is None or not text.startswith(begin)
        ids = self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        repeats = {self.image_token_id: self.slots_per_picture}
        return [token for token in ids for _ in range(repeats.get(token, 1))]

    def _batch(
        self,
        rows: Sequence[Sequence[int]],
        pictures: Sequence[Image.Image],
        *,
        return_tensors: str | None,
        padding: bool | str,
        trained: Sequence[Sequence[bool]] | None = None,
    ) -> BatchFeature:
        """Rows side by side, filled on the left where asked for."""
        if padding not in (True, False, "longest", "do_not_pad"):
            raise InputError(f"padding is {padding!r}; use True, False, 'longest' or 'do_not_pad'")
        columns = {
            "input_ids": (rows, self.padding_id),
            "attention_mask": ([[1] * len(row) for row in rows], 0),
        }
        if trained is not None:
            columns["assistant_masks"] = ([[int(token) for token in row] for row in trained], 0)
        is_padded = padding in (True, "longest")
        data: dict[str, Any] = {
            name: left_pad(values, fill) if is_padded else [list(row) for row in values]
            for name, (values, fill) in columns.items()
        }
        if pictures:
            data["pixel_values"] = self.image_processor.stack(pictures)
        return BatchFeature(data, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """What the model's forward takes from this processor."""
        return ["input_ids", "attention_mask", "pixel_values"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> QH360VLProcessor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Open a folder or hub id: what this class saved, or a published checkpoint (config and tokenizer).

        Settings come from the arguments, then from processor_config.json, then from config.json.
        """
        fields = set(inspect.signature(cls.__init__).parameters) - {"self", "image_processor", "tokenizer"}
        given = {name: kwargs.pop(name) for name in fields & kwargs.keys()}
        stored, _ = cls.get_processor_dict(pretrained_model_name_or_path, **kwargs)
        views = stored.pop("image_processor", None)
        if unknown := sorted(stored.keys() - fields - {"processor_class", "auto_map"}):
            raise ConfigError(f"processor_config.json has unknown settings: {', '.join(unknown)}")
        settings = {name: stored[name] for name in fields & stored.keys()} | given
        # Whoever pads with the tokenizer alone, as pipelines do, must fill on the left as well.
        sides = {"padding_side": "left", **kwargs}
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **sides)
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


def _reject(options: Mapping[str, Any], who: str) -> None:
    """No option is taken and then ignored."""
    if unknown := sorted(name for name, value in options.items() if value and name not in HARMLESS):
        raise InputError(f"{who} cannot use {', '.join(unknown)}; leave it out")


def _without_pictures(turn: Any) -> Any:
    """A turn whose pictures are blank: where only their places count, nothing is opened."""
    if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), (list, tuple)):
        return turn
    return {**turn, "content": [BLANK if _is_picture(part) else part for part in turn["content"]]}


def _is_picture(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in ("image", "image_url")
