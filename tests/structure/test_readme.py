"""What README.md and README.zh.md show is what happens.

Every bash block is run and every python block too, in the order of the page and in one folder per page,
unless a comment `<!-- not run here: the reason -->` stands right above it. A text block right below a block
is its output, to the letter. Where a page serves on port 8000, a free one is used.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from tests.structure.pages import blocks
from tests.structure.repository import ROOT, relative

PAGES = ("README.md", "README.zh.md")
PAGE = [
    (name, block)
    for name in PAGES
    for block in blocks((ROOT / name).read_text(encoding="utf-8"))
    if block.language in ("bash", "python")
]
PORT = "8000"


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def run(command: list[str], folder: Path) -> tuple[int, str, str]:
    """Status, output and errors; what the block left running ends with it."""
    programs = Path(sys.executable).parent
    env = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(timeout=600)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for file in (said, errors):
            file.seek(0)
        return status, said.read(), errors.read()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_from_start_to_end(name: str, tmp_path: Path):
    """In an empty folder with the examples in it: what the reader has, and no checkout to lean on."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for block in (block for page, block in PAGE if page == name and not block.reason):
        code = block.code.replace(PORT, free_port())
        is_bash = block.language == "bash"
        command = ["bash", "-euo", "pipefail", "-c"] if is_bash else [sys.executable, "-c"]
        status, said, errors = run([*command, code], tmp_path)
        assert status == 0, f"{code}\n{said}\n{errors}"
        if block.output is not None:
            assert said.strip() == block.output.strip(), code


def test_the_page_has_both_kinds():
    for name in PAGES:
        kinds = {block.language for page, block in PAGE if page == name and not block.reason}
        assert kinds == {"bash", "python"}
    assert any(block.output for _, block in PAGE)


def test_every_fence_is_read():
    """A block in a form that the pattern above does not know would be skipped without a word."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
    assert len(PAGE) == len(re.findall(r"^```(?:bash|python|sh|console|py)\b", text, re.MULTILINE))


def test_the_table_of_families_shows_its_records():
    assert runpy.run_path(str(ROOT / "docs" / "families_table.py"))["main"](["--check"]) == 0


MEASURED = ("scale.md", "serving.md", "native-decode.md", "training.md", "how-to/quantize.md")


@pytest.mark.parametrize("page", MEASURED)
def test_the_tables_of_measurements_show_their_records(page, tmp_path, monkeypatch):
    main = runpy.run_path(str(ROOT / "docs" / "measured.py"))["main"]
    assert main(["--check"]) == 0
    told = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (tmp_path / "how-to").mkdir()
    for name in MEASURED:
        (tmp_path / name).write_text((ROOT / "docs" / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / page).write_text(told.replace("<!-- measured: end", "| of old | 1 | | |\n<!-- measured: end"))
    monkeypatch.setitem(main.__globals__, "HERE", tmp_path)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert (tmp_path / page).read_text(encoding="utf-8") == told


def test_both_pages_show_the_web_page():
    picture = ROOT / "docs" / "pictures" / "web-page.png"
    assert picture.stat().st_size < 150_000
    assert all("docs/pictures/web-page.png" in (ROOT / name).read_text(encoding="utf-8") for name in PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_every_verb_is_in_the_table(name: str):
    from beholder.cli import VERBS

    page = (ROOT / name).read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([a-z]+(?: [a-z]+)?)", page, re.MULTILINE))
    assert told == set(VERBS)


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=relative)
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
