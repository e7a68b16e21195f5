"""The documentation as a reader uses it: blocks are run in the order of a page, in a folder of its own.

In one process, so that a page takes seconds: `beholder` commands go through its `main`, Python blocks share
their names down the page. What a line leaves running with an & (a server) is a process of its own, and so are
torchrun's. A bash line that is nothing of what is known here must say why it is not run.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FENCE = re.compile(
    r"(?:<!-- (?P<mark>not run here|fails with): (?P<word>[^>]+) -->\n+)?"
    r"^```(?P<language>bash|python|yaml|json)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```\n"
    r"(?:\n*```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
# Where the pages serve; somebody else may have that port here, so a free one stands for it.
PORT = re.compile(r"(?<=127\.0\.0\.1:)8000\b|(?<=--port )8000\b")


@dataclass(frozen=True)
class Block:
    """One fenced block: shown only, written to a file, or run; what it prints, if the page says."""

    language: str
    code: str
    title: str | None
    output: str | None
    reason: str | None
    fails_with: int

    @property
    def label(self) -> str:
        """Its first line."""
        return (self.title or self.code.splitlines()[0])[:60]


def blocks(page: str) -> list[Block]:
    """The blocks of a page that are code."""
    return [
        Block(
            m["language"], m["code"], m["title"], m["output"],
            m["word"] if m["mark"] == "not run here" else None,
            int(m["word"]) if m["mark"] == "fails with" else 0,
        )
        for m in FENCE.finditer(page)
    ]  # fmt: skip


class Reader:
    """Somebody who types what a page shows, in an empty folder with the examples in it."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.running: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])

    def leave(self) -> None:
        """End what is still running."""
        for process in self.running:
            process.kill()
            process.wait()

    def follow(self, block: Block) -> None:
        """Do what a block shows, and compare what it prints with what the page says."""
        if not block.title and block.language in ("yaml", "json"):
            return
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.code, encoding="utf-8")
            return
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = self._run(block)
        assert code == block.fails_with, f"exit code {code}, not {block.fails_with}:\n{err.getvalue()}"
        if block.output is not None:
            shown = err.getvalue() if block.fails_with else out.getvalue()
            assert alike(shown, block.output), f"the page says\n{block.output}\nand it printed\n{shown}"

    def _run(self, block: Block) -> int:
        text = PORT.sub(self.port, block.code)
        if block.language == "python":
            exec(compile(text, block.label, "exec"), self.names)
            return 0
        for line in logical_lines(text):
            if code := self._line(line):
                return code
        return 0

    def _line(self, words: list[str]) -> int:
        if words[-1] == "&":
            called = [sys.executable, "-m", *words[:-1]]
            self.running.append(subprocess.Popen(called, stdin=subprocess.DEVNULL))
            return 0
        if words == ["kill", "$!"]:
            last = self.running.pop()
            last.terminate()
            return last.wait(120)
        return command(words)


def alike(printed: str, told: str) -> bool:
    """Equal to the letter, except that … in the page stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in told.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def logical_lines(code: str) -> Iterator[list[str]]:
    """The words of every command, with lines joined that end in a backslash."""
    for line in code.replace("\\\n", " ").splitlines():
        splitter = shlex.shlex(line, posix=True, punctuation_chars="|>")
        splitter.whitespace_split = True
        if words := list(splitter):
            yield words


def command(words: list[str]) -> int:
    """Run one line: what stands before a | is the input, what stands after a > the file."""
    if "|" in words:
        place = words.index("|")
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            code = command(words[:place])
        with given(text.getvalue()):
            return code or command(words[place + 1 :])
    if ">" in words:
        place = words.index(">")
        with Path(words[place + 1]).open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            return command(words[:place])
    if words[0] not in COMMANDS:
        raise AssertionError(f"{words[0]} is not run here; mark the block or teach tests/structure/pages.py")
    return COMMANDS[words[0]](words[1:])


@contextlib.contextmanager
def given(text: str) -> Iterator[None]:
    """Let standard input be a text."""
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(text.encode()))
    try:
        yield
    finally:
        sys.stdin = before


def _beholder(words: list[str]) -> int:
    from beholder.cli import main

    return main(words)


def _python(words: list[str]) -> int:
    before, sys.argv = sys.argv, words
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
    return 0


def _torchrun(words: list[str]) -> int:
    return _called([sys.executable, "-m", "torch.distributed.run", *words])


def _curl(words: list[str]) -> int:
    return _called(["curl", "--noproxy", "*", *words])


def _called(words: list[str]) -> int:
    """A program of its own, told as if it had spoken here."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=500)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


def _echo(words: list[str]) -> int:
    sys.stdout.write(" ".join(words) + "\n")
    return 0


def _cat(words: list[str]) -> int:
    for name in words:
        sys.stdout.write(Path(name).read_text(encoding="utf-8"))
    return 0


def _head(words: list[str]) -> int:
    count, name = int(words[1]), words[2]
    sys.stdout.write("\n".join(Path(name).read_text(encoding="utf-8").splitlines()[:count]) + "\n")
    return 0


def _ls(words: list[str]) -> int:
    names = sorted(path.name for path in Path(words[0] if words else ".").iterdir())
    sys.stdout.write("\n".join(names) + "\n")
    return 0


def _mkdir(words: list[str]) -> int:
    Path(words[-1]).mkdir(parents=True, exist_ok=True)
    return 0


def _cp(words: list[str]) -> int:
    source, target = Path(words[-2]), Path(words[-1])
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "beholder": _beholder,
    "python": _python,
    "torchrun": _torchrun,
    "curl": _curl,
    "echo": _echo,
    "cat": _cat,
    "head": _head,
    "ls": _ls,
    "mkdir": _mkdir,
    "cp": _cp,
}
