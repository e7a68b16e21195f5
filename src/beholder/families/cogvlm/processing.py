"""CogVLM's processor: conversations to ids, token types and pixels, as transformers has it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from PIL import Image
from transformers import AutoConfig, AutoTokenizer, BatchFeature, ProcessorMixin

from beholder.core.errors import CheckpointError, ConfigError, InputError
from beholder.core.hub import find_checkpoint
from beholder.core.types import Message
from beholder.families.cogvlm.config import CogVLMConfig, TemplateName
from beholder.families.cogvlm.routing import LANGUAGE, VISION
from beholder.families.cogvlm.spelling import as_trained, ids_of
from beholder.families.cogvlm.templates import PICTURE_MARK, CogVLMTemplate
from beholder.families.cogvlm.views import CogVLMImageProcessor, flat_pictures
from beholder.grounding.boxes import Frame
from beholder.processing.images import open_picture
from beholder.processing.labels import labels_from
from beholder.processing.messages import read_message
from beholder.processing.templates import Segment, rendered_text
from beholder.processing.tokens import Encoded, control_id, encode, left_pad

log = logging.getLogger("beholder")
# The published checkpoints hold no tokenizer; they were trained with this one.
VICUNA = "lmsys/vicuna-7b-v1.5"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
# Stands for a picture that need not be opened.
BLANK = Image.new("RGB", (1, 1))
# Arguments of transformers' own method that ask for nothing, or for what happens here anyway.
HARMLESS = frozenset(
    {"sanitize_control_tokens", "load_audio_from_video", "add_special_tokens", "padding_side"}
)


class CogVLMProcessor(ProcessorMixin):
    """Tokenizer, view and template of one CogVLM checkpoint.

    A picture takes `slots_per_picture` positions, which hold the padding id; `token_type_ids` marks them.
    """

    def __init__(
        self,
        image_processor: CogVLMImageProcessor | None = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        template: TemplateName = "chat",
        slots_per_picture: int = 1227,
        image_token_id: int = 0,
    ) -> None:
        self.template: TemplateName = template
        self.slots_per_picture = slots_per_picture
        self.image_token_id = image_token_id
        self.image_token = PICTURE_MARK
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        CogVLMTemplate(template)

    most_pictures = 1
    template_names = get_args(TemplateName)

    @property
    def rendering(self) -> CogVLMTemplate:
        """The template in use."""
        return CogVLMTemplate(self.template)

    def with_template(self, name: TemplateName) -> CogVLMProcessor:
        """The same processor with another template."""
        return type(self)(
            self.image_processor,
            self.tokenizer,
            template=name,
            slots_per_picture=self.slots_per_picture,
            image_token_id=self.image_token_id,
        )

    @property
    def terminators(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return (control_id(self.tokenizer, "</s>"),)

    @property
    def padding_id(self) -> int:
        """The id that fills up shorter rows: the one that a picture's slots hold."""
        return self.image_token_id

    def box_frame(self, width: int, height: int) -> Frame:
        """What the fractions of an answered box refer to on a picture of this size."""
        return self.image_processor.box_frame(width, height)

    def encode(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> BatchFeature:
        """One conversation as tensors: ids, mask, `token_type_ids` and, with a picture, `pixel_values`."""
        encoded, pictures = self._encoded(messages, add_generation_prompt)
        return self._batch([encoded], pictures, return_tensors="pt", padding=False)

    def encode_training(self, messages: Sequence[Message]) -> dict[str, Any]:
        """One conversation as a training sample: its last answer is trained, the end token included."""
        if not messages or messages[-1].role != "assistant":
            raise InputError("a training conversation must end with the answer that is to be learned")
        encoded, pictures = self._encoded(messages, False)
        return {
            "input_ids": encoded.input_ids,
            "token_type_ids": token_types(encoded),
            "labels": labels_from(encoded),
            "pixel_values": self.image_processor.stack(pictures) if pictures else None,
        }

    def _encoded(self, messages: Sequence[Message], opened: bool) -> tuple[Encoded, list[Image.Image]]:
        segments = CogVLMTemplate(self.template).render(messages, add_generation_prompt=opened)
        pictures = [picture for message in messages for picture in message.pictures]
        return self._ids(segments), pictures

    def _ids(self, segments: Sequence[Segment]) -> Encoded:
        """Ids of segments that are tokenised one by one: the word-start mark stands before each of them."""
        whole = Encoded()
        for segment in segments:
            slots = [self.slots_per_picture] if segment.kind == "picture" else []
            if segment.kind == "text":
                segment = replace(segment, text=as_trained(segment.text, self.tokenizer))
            piece = encode([segment], self.tokenizer, slots, self.image_token_id)
            begin = len(whole.input_ids)
            whole.picture_spans.extend((begin + start, length) for start, length in piece.picture_spans)
            whole.append(piece.input_ids, piece.trained)
        return whole

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
            raise InputError("CogVLM's ways to write conversations are fixed; set processor.template instead")
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
        return_tensors = None if return_tensors == "auto" else return_tensors
        batch = self._batch(
            [self._ids(segments) for segments in prompts],
            [picture for row in rows for message in row for picture in message.pictures],
            return_tensors=return_tensors,
            padding=bool(return_tensors) if padding is None else padding,
            with_trained=return_assistant_tokens_mask,
        )
        return batch if return_dict else batch["input_ids"]

    def _turns(self, conversation: Any, with_pictures: bool) -> list[Message]:
        """Messages of one conversation. In a prompt without ids only the places of pictures count."""
        if not with_pictures:
            conversation = [_without_pictures(turn) for turn in conversation]
        return [read_message(turn, number, open_picture) for number, turn in enumerate(conversation, start=1)]

    def _prompt(self, messages: Sequence[Message], opened: bool, continued: bool) -> list[Segment]:
        """Segments of a conversation; a continued one stays open after its last words."""
        template = CogVLMTemplate(self.template)
        segments = template.render(messages, add_generation_prompt=opened and not continued)
        return segments[:-1] if continued and segments[-1].kind == "control" else segments

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

        The text is taken as rendered, so special tokens in it count; the begin token is added where missing.
        """
        _reject(kwargs, "the processor")
        if text is None:
            if images is None:
                raise InputError("give the processor a text, pictures, or both")
            return self.image_processor(images, return_tensors=return_tensors)
        texts = [text] if isinstance(text, str) else text
        rows = [self._expanded(row, add_special_tokens is not False) for row in texts]
        pictures = [open_picture(picture) for picture in flat_pictures(images)]
        places = sum(len(row.picture_spans) for row in rows)
        if places != len(pictures):
            raise InputError(
                f"the text has places for {places} pictures and {len(pictures)} were given; "
                f"write {self.image_token} where a picture stands, or use apply_chat_template"
            )
        return self._batch(rows, pictures, return_tensors=return_tensors, padding=padding)

    def _expanded(self, text: str, with_begin: bool) -> Encoded:
        """Ids of a rendered prompt with each picture's mark replaced by its slots."""
        begin = self.tokenizer.bos_token
        row = Encoded()
        if begin is not None and (with_begin or text.startswith(begin)):
            row.append([self.tokenizer.bos_token_id], [False])
            text = text.removeprefix(begin)
        for number, piece in enumerate(text.split(self.image_token)):
            if number:
                row.picture_spans.append((len(row.input_ids), self.slots_per_picture))
                row.append([self.image_token_id] * self.slots_per_picture, [False] * self.slots_per_picture)
            ids = ids_of(piece, self.tokenizer)
            row.append(ids, [False] * len(ids))
        return row

    def _batch(
        self,
        rows: Sequence[Encoded],
        pictures: Sequence[Image.Image],
        *,
        return_tensors: str | None,
        padding: bool | str,
        with_trained: bool = False,
    ) -> BatchFeature:
        """Rows side by side, filled on the left where asked for."""
        if padding not in (True, False, "longest", "do_not_pad"):
            raise InputError(f"padding is {padding!r}; use True, False, 'longest' or 'do_not_pad'")
        columns = {
            "input_ids": ([row.input_ids for row in rows], self.padding_id),
            "token_type_ids": ([token_types(row) for row in rows], LANGUAGE),
            "attention_mask": ([[1] * len(row.input_ids) for row in rows], 0),
        }
        if with_trained:
            columns["assistant_masks"] = ([[int(token) for token in row.trained] for row in rows], 0)
        is_padded = padding in (True, "longest")
        data: dict[str, Any] = {
            name: left_pad(values, fill) if is_padded else values for name, (values, fill) in columns.items()
        }
        if pictures:
            data["pixel_values"] = self.image_processor.stack(pictures)
        return BatchFeature(data, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """What the model's forward takes from this processor."""
        return ["input_ids", "token_type_ids", "attention_mask", "pixel_values"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> CogVLMProcessor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Open a folder or hub id: what this class saved, or a published checkpoint.

        Settings come from the arguments, then from processor_config.json, then from config.json. A checkpoint
        without a tokenizer gets Vicuna's; `tokenizer` names another folder or hub id for it.
        """
        fields = set(inspect.signature(cls.__init__).parameters) - {"self", "image_processor", "tokenizer"}
        given = {name: kwargs.pop(name) for name in fields & kwargs.keys()}
        tokenizer = _tokenizer(pretrained_model_name_or_path, kwargs)
        stored, _ = cls.get_processor_dict(pretrained_model_name_or_path, **kwargs)
        view = stored.pop("image_processor", None)
        if unknown := sorted(stored.keys() - fields - {"processor_class", "auto_map"}):
            raise ConfigError(f"processor_config.json has unknown settings: {', '.join(unknown)}")
        settings = {name: stored[name] for name in fields & stored.keys()} | given
        if view is None or not {"template", "slots_per_picture", "image_token_id"} <= settings.keys():
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)
            if not isinstance(config, CogVLMConfig):
                raise ConfigError(f"config.json is of type {config.model_type!r}; CogVLM's is needed")
            for name in ("template", "slots_per_picture", "image_token_id"):
                settings.setdefault(name, getattr(config, name))
            view = {"side": config.vision_config.image_size} if view is None else view
        return cls(CogVLMImageProcessor(**view), tokenizer, **settings)


def _tokenizer(place: Any, options: dict[str, Any]) -> Any:
    """The checkpoint's tokenizer, or the one named, or Vicuna's. `options` loses what is meant for it."""
    source = options.pop("tokenizer", None)
    if source is not None and not isinstance(source, (str, Path)):
        return source
    if source is None:
        folder = Path(place)
        has_own = not folder.is_dir() or any((folder / name).is_file() for name in TOKENIZER_FILES)
        source = place if has_own else VICUNA
    # Whoever pads with the tokenizer alone, as pipelines do, must fill on the left as well.
    sides = {"padding_side": "left", **options}
    try:
        if source == VICUNA:
            log.info("%s has no tokenizer; %s is used", place, VICUNA)
            source = find_checkpoint(VICUNA, what="tokenizer")
        return AutoTokenizer.from_pretrained(source, **sides)
    except CheckpointError as error:
        raise ConfigError(f"{place} has no tokenizer: {error}; or put tokenizer.model into it") from error
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the tokenizer of {place} cannot be opened from {source} ({first}); put tokenizer.model of "
            f"{VICUNA} into the checkpoint's folder"
        ) from error


def token_types(encoded: Encoded) -> list[int]:
    """1 at the slots of pictures, 0 everywhere else."""
    types = [LANGUAGE] * len(encoded.input_ids)
    for start, length in encoded.picture_spans:
        types[start : start + length] = [VISION] * length
    return types


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
