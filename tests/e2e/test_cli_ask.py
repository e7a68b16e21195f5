"""`beholder ask` from the command line to the answer, and every bad input to its sentence."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.tiny_checkpoint import make_tiny_checkpoint

from beholder.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> str:
    return str(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), llama3_tokenizer))


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


class Stdin:
    """A standard input that holds bytes."""

    def __init__(self, held: bytes) -> None:
        self.buffer = io.BytesIO(held)

    def read(self) -> str:
        return self.buffer.read().decode()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "beholder", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_text_goes_to_stdout_and_nothing_else(model, picture):
    done = run("ask", picture, "What is this?", "-m", model, "--max-tokens", "6")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""


def test_json(model, picture, capsys):
    assert (
        main(["ask", picture, "What is this?", "-m", model, "--json", "--max-tokens", "6", "--device", "cpu"])
        == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"text", "finish_reason", "usage", "timings", "boxes", "scores"}
    assert answer["scores"] in ([], None)
    assert answer["usage"]["completion_tokens"] == 6


def test_sampling_options_arrive(model, picture, capsys):
    def ask(*options: str) -> str:
        assert main(["ask", picture, "What?", "-m", model, "--max-tokens", "6", *options]) == 0
        return capsys.readouterr().out

    greedy = ask()
    assert ask("--temperature", "5", "--seed", "1") != greedy
    assert ask("--temperature", "5", "--seed", "1") == ask("--temperature", "5", "--seed", "1")
    assert ask("--temperature", "5", "--top-k", "1") == greedy


def test_picture_and_question_from_stdin(model, picture, capsys, monkeypatch: pytest.MonkeyPatch):
    def ask(image: str, question: str) -> str:
        assert main(["ask", image, question, "-m", model, "--max-tokens", "6"]) == 0
        return capsys.readouterr().out

    plain = ask(picture, "What?")
    monkeypatch.setattr(sys, "stdin", Stdin(Path(picture).read_bytes()))
    assert ask("-", "What?") == plain
    monkeypatch.setattr(sys, "stdin", Stdin(b"What?"))
    assert ask(picture, "-") == plain
    assert main(["ask", "-", "-", "-m", model]) == 2
    monkeypatch.setattr(sys, "stdin", Stdin(b"caf\xe9?"))
    assert main(["ask", picture, "-", "-m", model]) == 2
    assert "the text on stdin is not UTF-8 (byte 4)" in capsys.readouterr().err


def test_the_old_flags_still_ask(model, picture, capsys):
    assert (
        main(
            [
                "ask",
                "--model-path",
                model,
                "--image-file",
                picture,
                "--query",
                "What?",
                "--max_new_tokens",
                "6",
            ]
        )
        == 0
    )
    captured = capsys.readouterr()
    assert "hint: --model-path is --model here" in captured.err
    assert main(["ask", picture, "What?", "-m", model, "--max-tokens", "6"]) == 0
    assert capsys.readouterr().out == captured.out


def bad_inputs(folder: Path, picture: str) -> dict[str, tuple[list[str], int, str]]:
    """What is wrong -> arguments, exit code, part of the sentence."""
    whole = Path(picture).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("hello")
    (folder / "bare").mkdir()
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text('{"model_type": "nobody-3"}')
    question = "What?"
    return {
        "no such file": (["no.png", question], 1, "no such file: no.png"),
        "truncated": ([str(folder / "cut.png"), question], 1, "truncated or damaged"),
        "0 bytes": ([str(folder / "empty.png"), question], 1, "is empty (0 bytes)"),
        "text named .png": ([str(folder / "text.png"), question], 1, "is not a picture"),
        "a folder": ([str(folder), question], 1, "is a directory"),
        "empty question": ([picture, " "], 2, "the question is empty"),
        "no question": ([picture], 2, "Missing argument"),
        "unknown model": ([picture, question, "-m", "nonesuch"], 1, "no folder 'nonesuch'"),
        "no network": ([picture, question, "-m", "owner/name"], 1, "the hub cannot be reached"),
        "no config": ([picture, question, "-m", str(folder / "bare")], 1, "has no config.json"),
        "other family": ([picture, question, "-m", str(folder / "other")], 2, "'nobody-3'"),
        "impossible setting": ([picture, question, "--temperature", "-1"], 2, "temperature is -1.0"),
        "unknown device": ([picture, question, "--device", "tpu"], 2, "device 'tpu' is not here"),
        "base of a whole model": ([picture, question, "--base", "owner/name"], 2, "which has no base"),
        "not UTF-8": ([picture, "caf\udce9?"], 1, "give it in UTF-8"),
        "no path": (["", question], 1, "the path of the picture is empty"),
        "not a number": ([picture, question, "--top-k", "few"], 2, "'--top-k'"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "no such file", "truncated", "0 bytes", "text named .png", "a folder", "empty question",
        "no question", "unknown model", "no network", "no config", "other family", "impossible setting",
        "unknown device", "base of a whole model", "not UTF-8", "no path", "not a number",
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    name, model, picture, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    arguments, code, sentence = bad_inputs(tmp_path, picture)[name]
    arguments += [] if "-m" in arguments else ["-m", model]
    assert main(["ask", *arguments]) == code
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    told = captured.err.splitlines()
    if not told[0].startswith("Usage:"):
        assert len(told) <= 2
        assert all(line.startswith("help: docs/troubleshooting.md#") for line in told[1:])


def test_a_prompt_longer_than_the_context(model, picture, capsys):
    assert main(["ask", picture, "x" * 1000, "-m", model]) == 1
    assert "and the limit is 192; shorten the text" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    """`beholder ... | head` with a reader that reads nothing."""
    script = f"{sys.executable} -m beholder --help | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
