"""How conversations, states and errors look on the page: messages for the chat, and small pieces of HTML."""

from __future__ import annotations

import atexit
import hashlib
import io
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from beholder.serving.web.boxes import boxed_picture, boxed_places
from beholder.serving.web.conversation import Conversation, Turn
from beholder.serving.web.texts import say

KEPT_SECONDS = 24 * 3600.0


class Shelf:
    """Files that browsers are shown, in a temporary folder by their content; old ones are thrown away."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="beholder-web-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.swept = time.time()

    def put(self, held: bytes, suffix: str) -> str:
        """The path of a file with these bytes."""
        return self.keep(hashlib.sha256(held).hexdigest()[:32], suffix, lambda: held)

    def keep(self, name: str, suffix: str, make: Callable[[], bytes]) -> str:
        """The path of a file of that name, whose bytes are only made if it is not there."""
        path = self.folder / f"{name}.{suffix}"
        if not path.exists():
            made = path.with_suffix(f".{uuid.uuid4().hex}")
            made.write_bytes(make())
            made.replace(path)  # nobody is shown half a file
        os.utime(path)
        self._sweep()
        return str(path)

    def put_image(self, image: Image.Image) -> str:
        """The path of a picture, without loss."""
        return self.put(as_png(image), "png")

    def _sweep(self) -> None:
        now = time.time()
        if now - self.swept < KEPT_SECONDS / 24:
            return
        self.swept = now
        for path in self.folder.iterdir():
            if now - path.stat().st_mtime > KEPT_SECONDS:
                path.unlink(missing_ok=True)


def messages(conversation: Conversation, shelf: Shelf) -> list[tuple[int, dict[str, Any]]]:
    """The messages of the chat, each with the number of its turn: pictures, question, answer, boxes.

    The chat takes text for HTML, so that what was written is escaped to be shown as it was written.
    """
    shown: list[tuple[int, dict[str, Any]]] = []
    for number, turn in enumerate(conversation.turns):
        for picture in turn.pictures:
            path = shelf.keep(picture.digest, picture.kind, lambda picture=picture: picture.held)
            shown.append((number, _file("user", path)))
        if turn.question:
            shown.append((number, {"role": "user", "content": escape(turn.question, quote=False)}))
        if turn.answer is not None:
            shown.append((number, {"role": "assistant", "content": escape(turn.answer, quote=False)}))
        if turn.boxes:
            for place in boxed_places(conversation, number):
                path = shelf.keep(
                    _name_of_boxes(conversation, number, place), "png",
                    lambda number=number, place=place: as_png(boxed_picture(conversation, number, place)),
                )  # fmt: skip
                shown.append((number, _file("assistant", path)))
    return shown


def as_png(image: Image.Image) -> bytes:
    """A picture as a file, without loss."""
    held = io.BytesIO()
    image.save(held, "PNG")
    return held.getvalue()


def _name_of_boxes(conversation: Conversation, number: int, place: int) -> str:
    """A name for a picture with a turn's boxes: it is drawn once, and not with every word that comes."""
    turn = conversation.turns[number]
    told = f"{conversation.pictures[place].digest} {place} {turn.answer} {turn.boxes}"
    return hashlib.sha256(told.encode("utf-8", "replace")).hexdigest()[:32]


def chat(conversation: Conversation, shelf: Shelf) -> list[dict[str, Any]]:
    """The same without the numbers."""
    return [message for _, message in messages(conversation, shelf)]


def written(shown: Any) -> str:
    """What was written, from how the chat has it: where a message is edited it stands escaped as above.

    Gradio gives a text, or a list of parts with texts.
    """
    text = shown if isinstance(shown, str) else "".join(str(part["text"]) for part in shown)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _file(role: str, path: str) -> dict[str, Any]:
    return {"role": role, "content": {"path": path}}


def note(text: str, *, is_error: bool = False) -> str:
    """A line below the chat."""
    if is_error:
        return f'<div class="note bad" role="alert">{escape(text)}</div>'
    return f'<div class="note" role="status">{escape(text)}</div>'


def outcome(turn: Turn, language: str) -> str:
    """What is said of a complete answer: time and tokens, and whether it was cut."""
    usage: dict[str, Any] = dict(turn.usage or {})
    seconds = turn.seconds or 0.0
    if usage:
        details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
        pictures = details.get("picture_tokens", 0)
        told = say(
            "done", language, seconds=seconds, prompt=usage.get("prompt_tokens"), pictures=pictures,
            answer=usage.get("completion_tokens"),
        )  # fmt: skip
    else:
        told = say("done_without_counts", language, seconds=seconds)
    if turn.reason == "length":
        told += " · " + say("cut", language)
    return note(told)


def model_choices(models: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Names for the list of models, those that are not ready marked."""
    return [(_label(model), str(model.get("id"))) for model in models]


def _label(model: Mapping[str, Any]) -> str:
    name = str(model.get("id"))
    return name if model.get("state", "ready") == "ready" else f"{name} ({model['state']})"


def model_note(model: Mapping[str, Any] | None, language: str) -> str:
    """What is true of a model now; why, where it is not ready."""
    if model is None:
        return note(say("no_models", language), is_error=True)
    name, state = str(model.get("id")), model.get("state", "ready")
    if state != "ready":
        reason = model.get("reason") or say("loading", language)
        return note(say("not_ready", language, model=name, reason=reason), is_error=state == "failed")
    told = say("ready", language, model=name)
    if "context" in model:
        facts = {key: model.get(key) for key in ("family", "context", "dtype")}
        told += " " + say("facts", language, pictures=model.get("pictures_per_request"), **facts)
    return note(told)


def prompt_html(told: Mapping[str, Any], language: str) -> str:
    """The prompt with its special tokens and pictures marked, every character of it visible."""
    spans = iter(told.get("picture_spans") or [])
    pieces: list[str] = []
    number = 0
    for segment in told.get("segments") or [{"kind": "text", "text": told.get("prompt", "")}]:
        kind, text = segment["kind"], segment["text"]
        if kind == "picture":
            number += 1
            start, end = next(spans, (0, 0))
            text = f"{say('picture', language)} {number}: {start} – {end}"
        pieces.append(f'<span class="{escape(kind)}">{escape(text)}</span>')
    names = "".join(
        f'<span class="{kind}">{escape(say(kind, language))}</span> '
        for kind in ("text", "control", "picture")
    )
    return f'<div class="legend">{names}</div><pre class="prompt">{"".join(pieces)}</pre>'


def counts(told: Mapping[str, Any], language: str) -> str:
    """How many tokens there are, and what they stand for."""
    spans: list[list[int]] = told.get("picture_spans") or []
    pictures = sum(end - start for start, end in spans)
    places = ", ".join(f"{start} – {end}" for start, end in spans) or say("no_spans", language)
    return say(
        "counts", language, count=told["count"], limit=told.get("max_model_len"), pictures=pictures,
        spans=places, text=told["count"] - pictures,
    )  # fmt: skip
