"""Conversations in other programs' forms become messages, or an error that says which message is wrong."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.processing.messages import read_messages

RED = Image.new("RGB", (3, 2), "red")


def data_url() -> str:
    held = io.BytesIO()
    RED.save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def test_a_text_is_one_question():
    assert read_messages("hello") == (Message.user("hello"),)


def test_openai_parts_keep_their_order():
    part = {"type": "image_url", "image_url": {"url": data_url(), "detail": "high"}}
    (message,) = read_messages([{"role": "user", "content": [{"type": "text", "text": "a"}, part, "b"]}])
    assert [part if isinstance(part, str) else part.size for part in message.parts] == ["a", (3, 2), "b"]
    assert message.pictures[0].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("form", ["url", "plain url", "image", "array", "path", "base64", "bare"])
def test_every_form_of_a_picture(form, tmp_path: Path):
    RED.save(tmp_path / "red.png")
    part = {
        "url": {"type": "image", "url": data_url()},
        "plain url": {"type": "image_url", "image_url": data_url()},
        "image": {"type": "image", "image": RED},
        "array": {"type": "image", "image": np.asarray(RED)},
        "path": {"type": "image", "path": str(tmp_path / "red.png")},
        "base64": {"type": "image", "base64": data_url().partition(",")[2]},
        "bare": RED,
    }[form]
    (message,) = read_messages([{"role": "user", "content": [part]}])
    assert message.pictures[0].getpixel((2, 1)) == (255, 0, 0)


def test_turns_and_messages_may_be_mixed():
    given = [
        {"role": "system", "content": "be brief"},
        Message.user("one"),
        {"role": "assistant", "content": [{"type": "text", "text": "two"}], "refusal": None},
        {"role": "user", "content": "three"},
    ]
    roles = [(message.role, message.text) for message in read_messages(given)]
    assert roles == [("system", "be brief"), ("user", "one"), ("assistant", "two"), ("user", "three")]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "the conversation is empty"),
        ("  ", "the question is empty"),
        ([Message.user("a"), Message.assistant("b")], "the last message is from the assistant"),
        ([Message.user(" "), Message.assistant("b"), Message.user("c")], "message 1 is empty"),
        ([{"role": "user"}], "message 1 has no content"),
        ([{"role": "tool", "content": "x"}], "unknown role 'tool'"),
        ([{"role": "user", "content": "x", "nmae": "y"}], r"unknown fields \['nmae'\]"),
        ([{"role": "user", "content": [{"type": "video", "video": "x"}]}], "part of type 'video'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "text part without a text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "without a url"),
        ([{"role": "user", "content": [{"type": "image", "url": "a", "path": "b"}]}], "with 2 pictures"),
        ([{"role": "user", "content": [{"type": "image"}]}], "with 0 pictures"),
        ([{"role": "user", "content": [3]}], "holds a int"),
        (["hello"], "message 1 is a str"),
    ],
)
def test_what_cannot_be_read_is_named(given, sentence):
    with pytest.raises(InputError, match=sentence):
        read_messages(given)


def test_pictures_in_messages_are_opened_as_elsewhere(tmp_path: Path):
    """A file that Pillow opened still lies on its side, and may be transparent."""
    exif = Image.Exif()
    exif[0x0112] = 6
    RED.save(tmp_path / "turned.jpg", exif=exif)
    clear = Image.new("RGBA", (3, 2), (0, 0, 0, 0))
    (message,) = read_messages(
        [Message.user(Image.open(tmp_path / "turned.jpg"), clear, tmp_path / "turned.jpg", RED)]  # type: ignore[arg-type]
    )
    assert [picture.size for picture in message.pictures] == [(2, 3), (3, 2), (2, 3), (3, 2)]
    assert message.pictures[1].getpixel((0, 0)) == (255, 255, 255)
    assert message.pictures[3] is RED
    (again,) = read_messages([message])
    assert again is message


def test_a_question_may_be_a_picture_alone():
    assert read_messages([{"role": "user", "content": [RED]}])[0].text == ""


def test_a_caller_can_replace_how_pictures_are_opened():
    seen: list[object] = []

    def opener(source: object) -> Image.Image:
        seen.append(source)
        return RED

    read_messages(
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}],
        opener=opener,
    )
    assert seen == ["/etc/passwd"]
