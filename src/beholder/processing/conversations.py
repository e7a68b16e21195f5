"""What the processors of all families do alike: conversations, prompts and batches, as transformers has them.

A family says how it renders a conversation, what ids its text has, and how many placeholders stand for a
picture; the rest is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.processing.images import flat_pictures, open_picture, open_pictures
from beholder.processing.labels import labels_from
from beholder.processing.messages import read_message
from beholder.processing.templates import Segment, Template, rendered_text
from beholder.processing.tokens import Encoded, left_pad

# Stands for a picture that need not be opened.
BLANK = Image.new("RGB", (1, 1))
# Arguments of transformers' own method that ask for nothing, or for what happens here anyway.
HARMLESS = frozenset(
    {"sanitize_control_tokens", "load_audio_from_video", "add_special_tokens", "padding_side"}
)


class ConversationProcessor(ProcessorMixin):
    """Base of the families' processors. Placeholders stand for each picture; its features overwrite them."""

    title: str  # the family's name for people
    image_token: str
    image_token_id: int
    tokenizer: Any
    image_processor: Any
    template: Any

    @property
    def rendering(self) -> Template:
        """How conversations are written down; a family whose `template` is but a name resolves it."""
        return self.template

    @property
    def padding_id(self) -> int:
        """The id that fills up shorter rows."""
        raise NotImplementedError

    def slots(self, picture: Image.Image) -> int:
        """How many placeholders stand for a picture."""
        raise NotImplementedError

    def segment_ids(self, segments: Sequence[Segment], slots: Sequence[int]) -> Encoded:
        """Ids of a rendered conversation; the n-th picture takes `slots[n]` placeholders."""
        raise NotImplementedError

    def prompt_ids(self, text: str, add_special_tokens: bool | None) -> list[int]:
        """Ids of a prompt that is rendered already, with one placeholder for each picture."""
        raise NotImplementedError

    def prompt_pieces(self, text: str, add_special_tokens: bool | None) -> list[list[int]]:
        """The same cut at the pictures; for a family whose placeholder is an id that text may have too."""
        pieces: list[list[int]] = [[]]
        for token in self.prompt_ids(text, add_special_tokens):
            if token == self.image_token_id:
                pieces.append([])
            else:
                pieces[-1].append(token)
        return pieces

    def per_token(self, row: Encoded) -> dict[str, tuple[list[int], int]]:
        """Further numbers that the model takes of each token, by name, with what fills shorter rows."""
        return {}

    def picture_inputs(self, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        """The tensors that the model takes of opened pictures; none where there are no pictures."""
        return {"pixel_values": self.image_processor.stack(pictures)} if pictures else {}

    def encode(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> BatchFeature:
        """One conversation as tensors: `input_ids`, `attention_mask` and, with pictures, `pixel_values`."""
        encoded, pictures = self._encoded(messages, add_generation_prompt=add_generation_prompt)
        return self._batch([encoded], pictures, return_tensors="pt", padding=False)

    def encode_training(self, messages: Sequence[Message]) -> dict[str, Any]:
        """One conversation as a training sample: every answer is trained, with what ends it."""
        encoded, pictures = self._encoded(messages, add_generation_prompt=False)
        sample = {"input_ids": encoded.input_ids, "labels": labels_from(encoded), "pixel_values": None}
        further = {name: values for name, (values, _) in self.per_token(encoded).items()}
        return sample | further | self.picture_inputs(pictures)

    def _encoded(
        self, messages: Sequence[Message], *, add_generation_prompt: bool
    ) -> tuple[Encoded, list[Any]]:
        segments = self.rendering.render(messages, add_generation_prompt=add_generation_prompt)
        pictures = [picture for message in messages for picture in message.pictures]
        return self._ids(segments, pictures), pictures

    def _ids(self, segments: Sequence[Segment], pictures: Sequence[Image.Image]) -> Encoded:
        return self.segment_ids(segments, [self.slots(picture) for picture in pictures])

    # Of transformers' arguments those that mean something here; most of them by name alone.
    def apply_chat_template(  # pyright: ignore[reportIncompatibleMethodOverride]
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
            raise InputError(f"{self.title} writes conversations in its own way; leave chat_template out")
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
        encoded = [self._ids(segments, shown) for segments, shown in zip(prompts, pictures, strict=True)]
        return_tensors = None if return_tensors == "auto" else return_tensors
        batch = self._batch(
            encoded,
            [picture for shown in pictures for picture in shown],
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
        segments = self.rendering.render(messages, add_generation_prompt=opened and not continued)
        return segments[:-1] if continued else segments

    # As above.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
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
        texts = [text] if isinstance(text, str) else text
        rows = [self.prompt_pieces(row, add_special_tokens) for row in texts]
        pictures = open_pictures(flat_pictures(images))
        places = sum(len(pieces) - 1 for pieces in rows)
        if places != len(pictures):
            raise InputError(
                f"the text has places for {places} pictures and {len(pictures)} were given; "
                f"write {self.image_token} where a picture stands, or use apply_chat_template"
            )
        slots = iter([self.slots(picture) for picture in pictures])
        return self._batch(
            [self._expanded(pieces, slots) for pieces in rows],
            pictures,
            return_tensors=return_tensors,
            padding=padding,
        )

    def _expanded(self, pieces: Sequence[Sequence[int]], slots: Iterator[int]) -> Encoded:
        """One row of the pieces, with a picture's placeholders between each two of them."""
        row = Encoded()
        for number, piece in enumerate(pieces):
            if number:
                count = next(slots)
                row.picture_spans.append((len(row.input_ids), count))
                row.append([self.image_token_id] * count, [False] * count)
            row.append(piece, [False] * len(piece))
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
            "attention_mask": ([[1] * len(row.input_ids) for row in rows], 0),
        }
        further = [self.per_token(row) for row in rows]
        for name, (_, fill) in further[0].items() if further else ():
            columns[name] = ([row[name][0] for row in further], fill)
        if with_trained:
            columns["assistant_masks"] = ([[int(token) for token in row.trained] for row in rows], 0)
        is_padded = padding in (True, "longest")
        data: dict[str, Any] = {
            name: left_pad(values, fill) if is_padded else values for name, (values, fill) in columns.items()
        }
        return BatchFeature(data | self.picture_inputs(pictures), tensor_type=return_tensors)


def _reject(options: Mapping[str, Any], who: str) -> None:
    """No option is taken and then ignored."""
    if unknown := sorted(name for name, value in options.items() if value and name not in HARMLESS):
        raise InputError(f"{who} cannot use {', '.join(unknown)}; leave it out")


def _without_pictures(turn: Any) -> Any:
    """A turn whose pictures are blank: where only their places count, nothing is opened."""
    if not _is_mapping(turn) or not isinstance(turn.get("content"), (list, tuple)):
        return turn
    return {**turn, "content": [BLANK if _is_picture(part) else part for part in turn["content"]]}


def _is_mapping(told: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(told, Mapping)


def _is_picture(part: Any) -> bool:
    return _is_mapping(part) and part.get("type") in ("image", "image_url")
