"""`beholder chat`: a conversation in a pipe, its commands, and Ctrl-C."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.scripted_engine import scripted
from tests.tiny_checkpoint import make_tiny_checkpoint

from beholder.api import VLM, load
from beholder.cli import main
from beholder.core.errors import CapacityError
from beholder.core.types import Sampling
from beholder.generation.request import Request


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> VLM:
    folder = make_tiny_checkpoint(
        tmp_path_factory.mktemp("tiny"), llama3_tokenizer, max_position_embeddings=512
    )
    return load(folder, device="cpu")


class Script:
    """A model that says what a test wants, and remembers what it was asked."""

    def __init__(self, vlm: VLM) -> None:
        self.vlm = vlm
        self.answers: list[str] = []
        self.seen: list[list[tuple[str, str, int]]] = []
        self.sampling: list[Sampling] = []
        self.interrupt_after: int | None = None

    def encode(self, messages: Any, **_: Any) -> Any:
        self.seen.append([(message.role, message.text, len(message.pictures)) for message in messages])
        return type(self.vlm.processor).encode(self.vlm.processor, messages)

    def submit(self, _inputs: Any, sampling: Sampling, terminators: Any, _mask: Any = None) -> Request:
        self.sampling.append(sampling)
        return scripted(self._tokens(), sampling, terminators)

    def _tokens(self) -> Iterator[int]:
        text = self.answers.pop(0) if self.answers else "yes"
        ids = self.vlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        for place, token in enumerate(ids):
            if place == self.interrupt_after:
                raise KeyboardInterrupt
            yield token
        yield self.vlm.processor.terminators[0]


@pytest.fixture
def script(vlm: VLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    script = Script(vlm)
    monkeypatch.setattr(vlm.processor, "encode", script.encode, raising=False)
    monkeypatch.setattr(vlm.engine, "submit", script.submit)
    monkeypatch.setattr("beholder.api.load", lambda *_, **__: vlm)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 20), "red").save("red.png")
    Image.new("RGB", (20, 20), "blue").save("blue.png")
    return script


@pytest.fixture
def talk(script: Script, monkeypatch: pytest.MonkeyPatch, capsys):
    """Runs the chat over some lines; returns exit code, answers and messages."""

    def run(*lines: str, arguments: tuple[str, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["chat", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_answers_to_stdout_without_prompts(script: Script, talk):
    script.answers = ["one", "two"]
    assert talk("first?", "", "second?") == (0, "one\ntwo\n", "")
    assert script.seen == [
        [("user", "first?", 0)],
        [("user", "first?", 0), ("assistant", "one", 0), ("user", "second?", 0)],
    ]


def test_a_picture_goes_with_the_first_question_only(script: Script, talk):
    talk("what?", "and?", arguments=("red.png",))
    assert script.seen[1] == [("user", "what?", 1), ("assistant", "yes", 0), ("user", "and?", 0)]


def test_image_starts_a_new_conversation(script: Script, talk):
    _, _, told = talk("/image red.png", "what?", "/image blue.png", "what?")
    assert told == "showing red.png\nshowing blue.png\n"
    assert script.seen == [[("user", "what?", 1)], [("user", "what?", 1)]]


@pytest.mark.parametrize(
    "line",
    [
        "/image my red.png", '/image "my red.png"', "/image 'my red.png'", "/image my\\ red.png",
        "/image\tmy red.png ", "/image ~/my red.png",
    ],
)  # fmt: skip
def test_a_picture_whose_name_has_a_blank(script: Script, talk, line, monkeypatch: pytest.MonkeyPatch):
    """As people type it, and as terminals write it when a file is dropped on them."""
    Path("red.png").rename("my red.png")
    monkeypatch.setenv("HOME", str(Path.cwd()))
    code, _, told = talk(line, "what?")
    assert (code, script.seen) == (0, [[("user", "what?", 1)]]), told


def test_a_picture_that_cannot_be_shown_keeps_the_talk(script: Script, talk):
    talk("what?", "/image nowhere.png", "and?", arguments=("red.png",))
    assert script.seen[1] == [("user", "what?", 1), ("assistant", "yes", 0), ("user", "and?", 0)]


def test_a_picture_from_a_camera_is_shown_upright(script: Script, talk, vlm: VLM, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save("camera.jpg", exif=exif)
    sizes: list[tuple[int, int]] = []
    encode = vlm.processor.encode
    monkeypatch.setattr(
        vlm.processor,
        "encode",
        lambda messages: sizes.extend(picture.size for picture in messages[0].pictures) or encode(messages),
    )
    talk("what?", "/image camera.jpg", "what?", arguments=("camera.jpg",))
    assert sizes == [(20, 40), (20, 40)]


@pytest.mark.parametrize("word", ["/clear", "clear", "CLEAR"])
def test_clear_keeps_the_picture(script: Script, talk, word):
    talk("what?", word, "again?", arguments=("red.png",))
    assert script.seen[1] == [("user", "again?", 1)]


@pytest.mark.parametrize("word", ["/stop", "stop"])
def test_stop_leaves(script: Script, talk, word):
    assert talk("what?", word, "more?")[:2] == (0, "yes\n")
    assert len(script.seen) == 1
    assert talk("/image nowhere.png", word)[0] == 1  # what failed before counts


def test_system(script: Script, talk):
    talk("a?", "/system Be brief.", "b?", "/system", "c?", arguments=("--system", "Be kind."))
    assert [seen[0] for seen in script.seen] == [
        ("system", "Be kind.", 0),
        ("system", "Be brief.", 0),
        ("user", "a?", 0),
    ]


def test_regen_replaces_the_last_answer(script: Script, talk):
    script.answers = ["one", "two", "three"]
    _, out, _ = talk("a?", "/regen", "b?")
    assert out == "one\ntwo\nthree\n"
    assert script.seen[1] == [("user", "a?", 0)]
    assert script.seen[2] == [("user", "a?", 0), ("assistant", "two", 0), ("user", "b?", 0)]


def test_params(script: Script, talk):
    _, _, told = talk(
        "/params temperature=0.5 seed=3", "a?", "/params seed=none", "b?", arguments=("--max-tokens", "9")
    )
    assert [(given.max_tokens, given.temperature, given.seed) for given in script.sampling] == [
        (9, 0.5, 3),
        (9, 0.5, None),
    ]
    assert "temperature=0.5" in told
    assert "seed=3" in told


def test_boxes_are_drawn(script: Script, talk):
    """The picture of 40 x 20 is padded to a square: the box is its right half, (20, 0) to (40, 20)."""
    script.answers = ["[[500,250,999,750]]"]
    code, _, told = talk("where?", "/boxes", "/boxes here.png", arguments=("red.png",))
    assert code == 0
    assert told == "wrote red-boxes.png\nwrote here.png\n"
    with Image.open("red-boxes.png") as drawn:
        assert drawn.size == (40, 20)
        assert drawn.getpixel((20, 10)) != (255, 0, 0)
        assert drawn.getpixel((10, 10)) == (255, 0, 0)


def test_save_writes_a_conversation_that_can_be_asked_again(script: Script, talk, vlm: VLM):
    code, _, _ = talk(
        "what?", "/save talk.json", "more?", "/save talk.json", arguments=("red.png", "--system", "Be kind.")
    )
    assert code == 0
    saved = json.loads(Path("talk.json").read_text())
    assert saved["model"] == vlm.name
    assert saved["sampling"]["max_tokens"] == 512
    assert [message["role"] for message in saved["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert saved["messages"][1]["content"] == [
        {"type": "image_url", "image_url": {"url": "red.png"}},
        {"type": "text", "text": "what?"},
    ]
    assert vlm.chat(saved["messages"][:-1]).text == "yes"
    assert script.seen[-1] == script.seen[-2]


def test_any_trouble_with_one_question_keeps_the_talk(script: Script, talk, vlm: VLM, monkeypatch):
    submit = script.submit

    def full_once(*given: Any) -> Request:
        monkeypatch.setattr(vlm.engine, "submit", submit)
        raise CapacityError("the queue is full")

    monkeypatch.setattr(vlm.engine, "submit", full_once)
    assert talk("what?", "what?") == (1, "yes\n", "error: the queue is full\n")


def test_bytes_that_are_no_text(script: Script, vlm: VLM, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9?\nstill there?\n"), "utf-8"))
    assert main(["chat"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "yes\n"
    assert "half of one" in captured.err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/imgae x", "there is no command /imgae; did you mean /image?"),
        ("/image", "/image needs a file or a URL"),
        ("/image nowhere.png", "no such file: nowhere.png"),
        ("/regen", "there is no answer yet"),
        ("/boxes", "the last answer has no boxes"),
        ("/save", "/save needs a file name"),
        ("/save red.png", "red.png exists"),
        ("/save no/where.json", "cannot be written"),
        ("/params heat=1", r"unknown sampling settings \['heat'\]"),
        ("/params temperature", "not of the form name=value"),
        ("/params temperature=hot", "'hot' is not a number"),
        ("/params temperature=-1", "temperature is -1.0"),
        ("/params stop_ids=5", "stop_ids cannot be set here"),
        ("/", "there is no command /; /help lists the commands"),
        ("caf\udce9?", "half of one; give it in UTF-8"),
    ],
)
def test_mistakes_are_told_and_the_talk_goes_on(script: Script, talk, line, sentence):
    code, out, told = talk(line, "still there?")
    assert (code, out) == (1, "yes\n")
    assert told.startswith("error: ")
    assert re.search(sentence, told)
    with Image.open("red.png") as picture:
        assert picture.size == (40, 20)


def test_ctrl_c_ends_the_answer_and_not_the_talk(script: Script, talk):
    script.answers = ["one two three four", "fine"]
    script.interrupt_after = 2
    code, out, told = talk("count!", "/params", "and?")
    assert code == 0
    first = out.splitlines()[0]
    assert "one two three four".startswith(first)
    assert first != "one two three four"
    assert "(stopped)" in told
    assert script.seen[1][1] == ("assistant", first, 0)


def test_ctrl_c_before_the_first_word_leaves_the_question_unasked(script: Script, talk):
    script.interrupt_after = 0
    talk("count!", "count!", arguments=("red.png",))
    assert script.seen == [[("user", "count!", 1)], [("user", "count!", 1)]]


def test_a_prompt_that_is_too_long_keeps_the_talk(script: Script, talk):
    code, out, told = talk("x" * 2000, "short?")
    assert (code, out) == (1, "yes\n")
    assert "the limit is 512" in told
    assert script.seen[1] == [("user", "short?", 0)]


def test_help(talk):
    _, out, told = talk("/help")
    assert out == ""
    for command in ("/image", "/clear", "/system", "/regen", "/boxes", "/save", "/params", "/stop"):
        assert command in told


def test_a_terminal_gets_prompts(script: Script, monkeypatch: pytest.MonkeyPatch, capsys):
    lines: Iterator[str | type[BaseException]] = iter(["hello?", KeyboardInterrupt, EOFError])

    def read(prompt: str) -> str:
        assert prompt == "> "
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    assert main(["chat"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "yes\n\n"
    assert "/help lists the commands" in captured.err
    assert "stop or Ctrl-D leaves" in captured.err
