"""CogVLM's processor: conversations to ids, token types and pixels, as transformers has it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from PIL import Image
from transformers import AutoConfig, AutoTokenizer

from beholder.core.errors import CheckpointError, ConfigError, InputError
from beholder.core.hub import find_checkpoint
from beholder.core.types import Message
from beholder.families.cogvlm.config import CogVLMConfig, TemplateName
from beholder.families.cogvlm.routing import LANGUAGE, VISION
from beholder.families.cogvlm.spelling import as_trained, ids_of
from beholder.families.cogvlm.templates import PICTURE_MARK, CogVLMTemplate
from beholder.families.cogvlm.views import CogVLMImageProcessor
from beholder.grounding.boxes import Frame
from beholder.processing.conversations import ConversationProcessor
from beholder.processing.templates import Segment
from beholder.processing.tokens import Encoded, control_id, encode

log = logging.getLogger("beholder")
# The published checkpoints hold no tokenizer; they were trained with this one.
VICUNA = "lmsys/vicuna-7b-v1.5"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


class CogVLMProcessor(ConversationProcessor):
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

    title = "CogVLM"
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

    def slots(self, picture: Image.Image) -> int:
        """How many positions a picture takes: always as many."""
        return self.slots_per_picture

    def encode_training(self, messages: Sequence[Message]) -> dict[str, Any]:
        """One conversation as a training sample: its last answer is trained, the end token included."""
        if not messages or messages[-1].role != "assistant":
            raise InputError("a training conversation must end with the answer that is to be learned")
        return super().encode_training(messages)

    def segment_ids(self, segments: Sequence[Segment], slots: Sequence[int]) -> Encoded:
        """Ids of segments that are tokenised one by one: the word-start mark stands before each of them."""
        whole, left = Encoded(), iter(slots)
        for segment in segments:
            if segment.kind == "text":
                segment = replace(segment, text=as_trained(segment.text, self.tokenizer))
            shown = [next(left)] if segment.kind == "picture" else []
            piece = encode([segment], self.tokenizer, shown, self.image_token_id)
            begin = len(whole.input_ids)
            whole.picture_spans.extend((begin + start, length) for start, length in piece.picture_spans)
            whole.append(piece.input_ids, piece.trained)
        return whole

    def per_token(self, row: Encoded) -> dict[str, tuple[list[int], int]]:
        """`token_type_ids`, which tell pictures from words."""
        return {"token_type_ids": (token_types(row), LANGUAGE)}

    def _prompt(self, messages: Sequence[Message], opened: bool, continued: bool) -> list[Segment]:
        """Segments of a conversation; a continued one stays open after its last words."""
        segments = self.rendering.render(messages, add_generation_prompt=opened and not continued)
        return segments[:-1] if continued and segments[-1].kind == "control" else segments

    def prompt_pieces(self, text: str, add_special_tokens: bool | None) -> list[list[int]]:
        """Ids of a rendered prompt between its pictures; the begin token is added where missing."""
        begin = self.tokenizer.bos_token
        first: list[int] = []
        if begin is not None and (add_special_tokens is not False or text.startswith(begin)):
            first.append(self.tokenizer.bos_token_id)
            text = text.removeprefix(begin)
        pieces = [ids_of(piece, self.tokenizer) for piece in text.split(self.image_token)]
        return [first + pieces[0], *pieces[1:]]

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
        if source != place:
            log.info("tokenizer of %s: that of %s", place, source)
            source = find_checkpoint(source, what="tokenizer")
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
