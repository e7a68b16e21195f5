"""What README.md shows is what happens.

Every bash block is run and every python block too, in the order of the page and in one folder, unless a
comment `<!-- not run here: the reason -->` stands right above it. A text block right below a block is its
output, to the letter.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.structure.pages import Block, blocks
from tests.structure.repository import ROOT, relative

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = [block for block in blocks(README) if block.language in ("bash", "python")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the examples in it: what the README's reader has, and no checkout to lean on."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("block", PAGE, ids=lambda block: block.code.splitlines()[0][:60])
def test_block_runs(block: Block, folder: Path):
    if block.reason:
        pytest.skip(block.reason)
    programs = Path(sys.executable).parent
    command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, block.code],
        cwd=folder,
        env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    if block.output is not None:
        assert done.stdout.strip() == block.output.strip()


def test_the_page_has_both_kinds():
    kinds = {block.language for block in PAGE if not block.reason}
    assert kinds == {"bash", "python"}
    assert any(block.output for block in PAGE)


def test_every_fence_is_read():
    """A block in a form that the pattern above does not know would be skipped without a word."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(PAGE) == len(re.findall(r"^```(?:bash|python|sh|console|py)\b", page, re.MULTILINE))


def test_every_verb_is_in_the_table():
    from beholder.cli import VERBS

    page = (ROOT / "README.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([a-z]+(?: [a-z]+)?)", page, re.MULTILINE))
    assert told == set(VERBS)


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=relative)
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
