"""A user's program, checked by pyright against the package's types: it passes, and mistakes are found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import beholder
from beholder import VLM, Answer, Box, InputError, Message

vlm: VLM = beholder.load("somewhere", device="cpu", quantize="4bit")
answer: Answer = vlm.ask("street.jpg", "What does the sign say?", max_tokens=8)
text: str = answer.text
tokens: int = answer.usage.picture_tokens
boxes: tuple[Box, ...] = vlm.ground("street.jpg", "a dog").boxes
for piece in vlm.stream([Message.user("street.jpg"), Message.assistant("A street."), Message.user("Sure?")]):
    print(piece.upper())
try:
    vlm.chat([{"role": "user", "content": "Hello"}])
except InputError as error:
    print(error)
"""
WRONG = PROGRAM + "number: int = answer.text\nvlm.answer_me()\n"


def errors(program: str, folder: Path) -> list[str]:
    """What pyright, at its strictest, says of a file that lies outside of the repository."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "program.py"],
        cwd=folder, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    told = json.loads(done.stdout)["generalDiagnostics"]
    return [one["message"] for one in told if one["severity"] == "error"]


@pytest.mark.slow
def test_a_users_program_is_clean(tmp_path: Path):
    pytest.importorskip("pyright")
    assert errors(PROGRAM, tmp_path) == []


@pytest.mark.slow
def test_what_is_wrong_in_it_is_found(tmp_path: Path):
    pytest.importorskip("pyright")
    found = errors(WRONG, tmp_path)
    assert len(found) >= 2
    assert any("answer_me" in message for message in found)
