"""LLaVA's processor: conversations to ids and views, for asking and training, as transformers has it.

The original tokenises what stands between two pictures as texts of their own (tokenizer_image_token in
llava/mm_utils.py, haotian-liu/LLaVA, c121f04), with the blank that SentencePiece puts before a text; so does
this. Unlike the original it never reads a special token, or a picture, in what a user wrote.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoTokenizer

from beholder.checkpoints.lora import is_adapter
from beholder.checkpoints.reader import has_weights
from beholder.core.errors import CheckpointError, ConfigError
from beholder.core.hub import find_checkpoint
from beholder.families.llava.config import BeholderLlavaConfig
from beholder.families.llava.prompts import prompt_ids
from beholder.families.llava.templates import (
    DEFAULT,
    END,
    START,
    ChatTemplate,
    template_for,
    template_named,
    templates,
)
from beholder.families.llava.tiles import slots_of
from beholder.families.llava.views import LlavaImageProcessor
from beholder.grounding.boxes import Frame
from beholder.processing.conversations import ConversationProcessor
from beholder.processing.pieces import Marking, PieceEncoder
from beholder.processing.templates import Segment
from beholder.processing.tokens import Encoded

PICTURE = "<image>"
PATCH = "<im_patch>"
# What llava-hf's own processor writes into processor_config.json beside what is ours.
THEIRS = {
    "processor_class", "auto_map", "num_additional_image_tokens", "patch_size",
    "vision_feature_select_strategy",
    "image_seq_length",
}  # fmt: skip


class LlavaProcessor(ConversationProcessor):
    """Tokenizer, views and template of one LLaVA or InternVL-Chat checkpoint.

    `template_name` is the name of a conversation template; `marking` the rule for blanks after special tokens
    and `begins` whether a prompt starts with the begin-of-text token, None for the tokenizer's own.
    """

    title = "LLaVA"

    def __init__(
        self,
        image_processor: LlavaImageProcessor | None = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        template_name: str = DEFAULT,
        marking: Marking | None = None,
        begins: bool | None = None,
        image_token: str = PICTURE,
        image_token_id: int = 32000,
        slots_per_picture: int = 576,
        use_start_end: bool = False,
        merge: dict[str, Any] | None = None,
    ) -> None:
        self.template_name = template_name
        self.begins = getattr(tokenizer, "add_bos_token", True) is not False if begins is None else begins
        self.image_token = image_token
        self.slots_per_picture = slots_per_picture
        self.use_start_end = use_start_end
        self.merge = merge
        self._template = replace(template_named(template_name), has_start_end=use_start_end)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token_id = image_token_id
        self.pieces = PieceEncoder.of(tokenizer, marking)
        self.marking: Marking = self.pieces.marking

    @property
    def template(self) -> ChatTemplate:
        """The conversation template in use."""
        return self._template

    @property
    def template_names(self) -> tuple[str, ...]:
        """The conversation templates that there are, each by its first name and the one in use by its own."""
        firsts = {template.names[0] for template in templates().values()}
        return tuple(sorted((firsts - set(self.template.names)) | {self.template_name}))

    def with_template(self, name: str) -> LlavaProcessor:
        """The same processor with another conversation template."""
        return type(self)(
            self.image_processor,
            self.tokenizer,
            template_name=name,
            marking=self.marking,
            begins=self.begins,
            image_token=self.image_token,
            image_token_id=self.image_token_id,
            slots_per_picture=self.slots_per_picture,
            use_start_end=self.use_start_end,
            merge=self.merge,
        )

    @property
    def terminators(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        ends = (self.tokenizer.eos_token_id, self.pieces.special_id(self.template.stop_text))
        return tuple(dict.fromkeys(end for end in ends if end is not None))

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer and are no token of their own."""
        text = self.template.stop_text.strip()
        is_token = not text or self.pieces.special_id(text) is not None
        return () if is_token else (text,)

    @property
    def padding_id(self) -> int:
        """The id that fills up shorter rows: the published code takes the unknown token."""
        given = self.tokenizer.pad_token_id
        return (self.tokenizer.unk_token_id or 0) if given is None else given

    def box_frame(self, width: int, height: int) -> Frame:
        """What the fractions of an answered box refer to on a picture of this size."""
        return self.image_processor.box_frame(width, height)

    def slots(self, picture: Image.Image) -> int:
        """One view's features, or those of all tiles."""
        if self.merge is None:
            return self.slots_per_picture
        return slots_of(
            picture.size, TileSettings(self.image_processor, self.slots_per_picture, **self.merge)
        )

    def picture_inputs(self, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        """The pictures' views and, where they are cut into tiles, their sizes."""
        return self.image_processor.inputs(pictures) if pictures else {}

    def segment_ids(self, segments: Sequence[Segment], slots: Sequence[int]) -> Encoded:
        """Begin of text and the ids of a rendered conversation."""
        found = self.pieces.encode(segments, slots, self.image_token_id)
        begin = self.beginning
        return Encoded(
            [*begin, *found.input_ids],
            [*(False for _ in begin), *found.trained],
            [(start + len(begin), length) for start, length in found.picture_spans],
        )

    @property
    def beginning(self) -> list[int]:
        """What stands before every prompt."""
        begin = self.tokenizer.bos_token_id
        return [begin] if self.begins and begin is not None else []

    def prompt_ids(self, text: str, add_special_tokens: bool | None) -> list[int]:
        """Ids of a rendered prompt as the original has them, with one placeholder for each picture."""
        begin = [] if add_special_tokens is False else self.beginning
        literal = self.tokenizer.bos_token
        if begin and literal and text.startswith(literal) and add_special_tokens is None:
            text = text.removeprefix(literal)
        return [*begin, *prompt_ids(text, self.pieces, self.image_token, self.image_token_id)]

    @property
    def model_input_names(self) -> list[str]:
        """What the model's forward takes from this processor."""
        sizes = ["image_sizes"] if self.image_processor.cuts_tiles else []
        return ["input_ids", "attention_mask", "pixel_values", *sizes]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> LlavaProcessor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Open a folder or hub id: what this class saved, llava-hf's files, or a published checkpoint.

        Settings come from the arguments, then from processor_config.json, then from config.json. `tokenizer`
        (one, or the folder or hub id of one) may be given for a checkpoint that has none of its own, as an
        adapter.
        """
        fields = set(inspect.signature(cls.__init__).parameters) - {"self", "image_processor", "tokenizer"}
        given = {name: kwargs.pop(name) for name in fields & kwargs.keys()}
        tokenizer, base = kwargs.pop("tokenizer", None), kwargs.pop("base", None)
        folder = find_checkpoint(pretrained_model_name_or_path)
        stored = _stored_settings(folder, fields)
        config = BeholderLlavaConfig.from_pretrained(folder)
        views = stored.pop("image_processor", None)
        settings = _settings(config) | stored | given
        sides = {"padding_side": "left", **kwargs}
        if isinstance(tokenizer, (str, Path)):
            tokenizer = AutoTokenizer.from_pretrained(find_checkpoint(tokenizer, what="tokenizer"), **sides)
        if tokenizer is None:
            tokenizer = open_tokenizer(folder, base, sides)
        if tokenizer is None:
            raise CheckpointError(f"{folder} has no tokenizer.model and no tokenizer.json")
        add_tokens(tokenizer, config)
        image_processor = (
            LlavaImageProcessor(**views) if views else LlavaImageProcessor.from_model_config(config)
        )
        return cls(image_processor, tokenizer, **settings)


class TileSettings:
    """The few settings that tell how many slots the tiles of a picture take."""

    def __init__(
        self, views: LlavaImageProcessor, tile_slots: int, patch_side: int, patch_merge_type: str
    ) -> None:
        self.picture_side = views.side
        self.image_grid_pinpoints = views.grid_pinpoints
        self.tile_slots = tile_slots
        self.patch_side = patch_side
        self.patch_merge_type = patch_merge_type


def _settings(config: BeholderLlavaConfig) -> dict[str, Any]:
    merge = {"patch_side": config.patch_side, "patch_merge_type": config.patch_merge_type}
    return {
        "template_name": template_for(config),
        "image_token_id": config.image_token_id,
        "slots_per_picture": config.tile_slots,
        "use_start_end": config.use_start_end,
        "merge": merge if config.cuts_tiles else None,
    }


def _stored_settings(folder: Path, fields: set[str]) -> dict[str, Any]:
    """What processor_config.json says, llava-hf's own settings aside: they follow from config.json."""
    file = folder / "processor_config.json"
    if not file.is_file():
        return {}
    stored = json.loads(file.read_text("utf-8"))
    if stored.get("processor_class") == "LlavaProcessor" and "template_name" not in stored:
        return {}
    if unknown := sorted(stored.keys() - fields - THEIRS - {"image_processor", "tokenizer"}):
        raise ConfigError(f"processor_config.json has unknown settings: {', '.join(unknown)}")
    return {name: value for name, value in stored.items() if name in fields | {"image_processor"}}


def open_tokenizer(folder: Path, base: str | Path | None, options: dict[str, Any]) -> Any:
    """The checkpoint's tokenizer, or its base model's; None where neither has one."""
    from beholder.families.llava.sources import base_of

    if _has_tokenizer(folder):
        return AutoTokenizer.from_pretrained(folder, **options)
    if base is None and has_weights(folder) and not is_adapter(folder):
        return None
    place = base_of(folder, base)
    return AutoTokenizer.from_pretrained(place, **options) if _has_tokenizer(place) else None


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))


def add_tokens(tokenizer: Any, config: BeholderLlavaConfig) -> None:
    """Give a published tokenizer the tokens that the published loader adds, and `<image>` after all others.

    The vocabulary of the model decides: what would have no row of its own is not added.
    """
    wanted = [PATCH] if config.use_patch_token else []
    wanted += [START, END] if config.use_start_end else []
    for token in wanted:
        if len(tokenizer) < config.image_token_id:
            tokenizer.add_tokens([token], special_tokens=True)
    if len(tokenizer) == config.image_token_id:
        tokenizer.add_tokens([PICTURE], special_tokens=True)
