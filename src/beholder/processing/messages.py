"""Conversations as other programs write them, with OpenAI or transformers content parts, read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from PIL.Image import Image

from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.processing.images import open_picture

# Where a part of type "image" may hold its picture; exactly one of them.
IMAGE_KEYS = ("image", "url", "path", "base64")

PictureOpener = Callable[[Any], Image]


def read_messages(
    conversation: Iterable[Message | Mapping[str, Any]] | str, *, opener: PictureOpener = open_picture
) -> tuple[Message, ...]:
    """Messages of a conversation; plain text is one user message. It must end with what the user said.

    `opener` turns what stands for a picture into a picture; a server passes one that fetches safely.
    """
    if isinstance(conversation, str):
        conversation = [Message.user(conversation)]
    messages = tuple(
        read_message(given, number, opener) for number, given in enumerate(conversation, start=1)
    )
    if not messages:
        raise InputError("the conversation is empty; it needs at least one user message")
    if messages[-1].role != "user":
        raise InputError(f"the last message is from the {messages[-1].role}; it must be the user's question")
    for number, message in enumerate(messages, start=1):
        if message.role == "user" and not message.pictures and not message.text.strip():
            raise InputError(
                "the question is empty" if number == len(messages) else f"message {number} is empty"
            )
    return messages


def read_message(given: Message | Mapping[str, Any], number: int, opener: PictureOpener) -> Message:
    """One turn; `number` is what an error message calls it."""
    if isinstance(given, Message):
        return _with_opened_pictures(given, opener)
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f'message {number} is a {type(given).__name__}; give {{"role": ..., "content": ...}}'
        )
    if unknown := sorted(
        key for key, value in given.items() if key not in ("role", "content") and value is not None
    ):
        raise InputError(f"message {number} has unknown fields {unknown}; known: role, content")
    content = given.get("content")
    if isinstance(content, str):
        content = [content]
    if not isinstance(content, Sequence):
        raise InputError(f"message {number} has no content; it must be a text or a list of parts")
    parts = tuple(_read_part(part, number, opener) for part in cast("Sequence[Any]", content))
    return Message(given.get("role", ""), parts)


def _with_opened_pictures(message: Message, opener: PictureOpener) -> Message:
    """The message as it is where its pictures were opened already; a file that Pillow opened was not."""
    if all(map(_is_opened, message.pictures)):
        return message
    parts = (part if isinstance(part, str) or _is_opened(part) else opener(part) for part in message.parts)
    return Message(message.role, tuple(parts))


def _is_opened(picture: Any) -> bool:
    """Whether it is plain RGB with nothing noted beside it, which is how `open_picture` leaves one."""
    return type(picture) is Image and picture.mode == "RGB" and not picture.info


def _read_part(part: Any, number: int, opener: PictureOpener) -> str | Image:
    """One content part. A bare string is text, a bare picture a picture."""
    if isinstance(part, str):
        return part
    if isinstance(part, Image):
        return opener(part)
    if not isinstance(part, Mapping):
        raise InputError(
            f"message {number} holds a {type(part).__name__}; parts are texts, pictures or mappings"
        )
    fields = cast("Mapping[str, Any]", part)
    kind = fields.get("type")
    if kind == "text":
        return _text(fields, number)
    if kind == "image_url":
        return opener(_image_url(fields, number))
    if kind == "image":
        return opener(_image(fields, number))
    raise InputError(f"message {number} has a part of type {kind!r}; known types: text, image_url, image")


def _text(fields: Mapping[str, Any], number: int) -> str:
    text = fields.get("text")
    if not isinstance(text, str):
        raise InputError(f"message {number} has a text part without a text")
    return text


def _image_url(fields: Mapping[str, Any], number: int) -> str:
    value = fields.get("image_url")
    url = cast("Mapping[str, Any]", value).get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str):
        raise InputError(
            f'message {number} has an image_url part without a url; write {{"image_url": {{"url": ...}}}}'
        )
    return url


def _image(fields: Mapping[str, Any], number: int) -> Any:
    held = [key for key in IMAGE_KEYS if fields.get(key) is not None]
    if len(held) != 1:
        raise InputError(
            f"message {number} has an image part with {len(held)} pictures; "
            f"give exactly one of {', '.join(IMAGE_KEYS)}"
        )
    value = fields[held[0]]
    return f"data:image/png;base64,{value}" if held[0] == "base64" else value
