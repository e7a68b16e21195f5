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
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.structure.pages import Block, blocks
from tests.structure.repository import ROOT, relative

PAGES = ("README.md", "README.zh.md")
PAGE = [
    (name, block)
    for name in PAGES
    for block in blocks((ROOT / name).read_text(encoding="utf-8"))
    if block.language in ("bash", "python")
]
PORT = "8000"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An empty folder with the examples in it: what the README's reader has, and no checkout to lean on."""
    found = {name: tmp_path_factory.mktemp("reader") for name in PAGES}
    for folder in found.values():
        shutil.copytree(ROOT / "examples", folder / "examples")
    return found


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "block"), PAGE, ids=[f"{name} {block.code.splitlines()[0][:60]}" for name, block in PAGE]
)
def test_block_runs(name: str, block: Block, folders: dict[str, Path]):
    if block.reason:
        pytest.skip(block.reason)
    folder, code = folders[name], block.code.replace(PORT, free_port())
    programs = Path(sys.executable).parent
    command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, code],
        cwd=folder,
        env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    if block.output is not None:
        assert done.stdout.strip() == block.output.strip()


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


def test_both_pages_show_the_web_page():
    picture = ROOT / "docs" / "pictures" / "web-page.png"
    assert picture.stat().st_size < 150_000
    assert all("docs/pictures/web-page.png" in (ROOT / name).read_text(encoding="utf-8") for name in PAGES)


def test_every_verb_is_in_the_table():
    from beholder.cli import VERBS

    page = (ROOT / "README.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([a-z]+(?: [a-z]+)?)", page, re.MULTILINE))
    assert told == set(VERBS)


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=relative)
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
