"""What the documentation shows is what happens; generated pages are current; links lead somewhere."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from functools import cache
from pathlib import Path

import pytest
from tests.structure.pages import FENCE, Reader, blocks
from tests.structure.repository import ROOT, relative

DOCS = ROOT / "docs"
GOLDEN = ROOT / "tests" / "golden"
MADE = "<!-- Made by "
# Written beside what they tell, with tests of their own.
APART = {"log.md", "native-decode.md", "parity.md"}
PAGES = [
    page
    for page in sorted(DOCS.glob("**/*.md"))
    if page.relative_to(DOCS).as_posix() not in APART and not page.read_text("utf-8").startswith(MADE)
]
RUN = [page for page in PAGES if any(not block.reason for block in blocks(page.read_text("utf-8")))]
ANY_FENCE = re.compile(r"^```(?:bash|python|yaml|json|sh|shell|console|py)\b", re.MULTILINE)
FENCED = re.compile(r"^```(\w*).*?\n(?:.*\n)*?```$", re.MULTILINE)
INDENTED_COMMAND = re.compile(r"^ {4}(?:beholder|python|torchrun|pip|curl|make) .*", re.MULTILINE)

# Checkpoints that a reader has: tiny ones in the published layouts, under names as they were published.
RANDOM = {
    "llava-v1.5-7b": "llava-1.5-7b",
    "internvl-chat-7b": "internvl-chat-7b",
    "360VL-8B": "360vl-8b",
    "cogvlm-chat-hf": "cogvlm-chat",
}
COPIED = {
    "llava-v1.5-7b-lora": "llava/lora/llava-tiny-lora",
    "llava-v1.5-7b-pretrain": "llava/stage1/llava-tiny-pretrain",
    "vicuna-7b-v1.5": "llava/lora/vicuna-tiny",
    "clip-vit-tiny-patch14-56": "llava/llava/clip-vit-tiny-patch14-56",
    "cogvlm-chat-sat": "cogvlm/sat",
    "vicuna-tokenizer": "cogvlm/tokenizer",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory):
    """Gives a checkpoint by its published name; made when it is first asked for."""
    from tests.unit.test_random_weights import tiny

    from beholder.families.random_weights import write_random

    folder = tmp_path_factory.mktemp("weights")

    @cache
    def find(name: str) -> Path:
        if name in RANDOM:
            write_random(RANDOM[name], folder / name, layers=1, dtype="float32", changes=tiny(RANDOM[name]))
        else:
            shutil.copytree(GOLDEN / COPIED[name], folder / name)
        return folder / name

    return find


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights):
    """Somebody in an empty folder, offline, with the examples and the checkpoints that a page speaks of."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def start(text: str) -> Reader:
        shutil.copytree(
            ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__")
        )
        (tmp_path / "weights").mkdir()
        spoken_of = {name for name in (*RANDOM, *COPIED) if re.search(rf"weights/{re.escape(name)}\b", text)}
        if spoken_of & {"llava-v1.5-7b-lora", "llava-v1.5-7b-pretrain"}:
            # The stand-ins name their base and tower by these names, beside themselves.
            (tmp_path / "weights" / "vicuna-tiny").symlink_to(weights("vicuna-7b-v1.5"))
            spoken_of.add("clip-vit-tiny-patch14-56")
        for name in spoken_of:
            (tmp_path / "weights" / name).symlink_to(weights(name))
        monkeypatch.chdir(tmp_path)
        somebody.append(Reader())
        return somebody[-1]

    somebody: list[Reader] = []
    yield start
    for one in somebody:
        one.leave()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=relative)
def test_the_page_runs(page: Path, reader):
    text = page.read_text(encoding="utf-8")
    somebody = reader(text)
    for block in blocks(text):
        if not block.reason:
            somebody.follow(block)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_fence_is_read(page: Path):
    """A block in a form that is not known would be skipped without a word."""
    text = page.read_text(encoding="utf-8")
    assert len(FENCE.findall(text)) == len(ANY_FENCE.findall(text))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_command_stands_in_a_block_with_a_language(page: Path):
    """A block without one, or one made by indenting, would be neither run nor marked."""
    text = page.read_text(encoding="utf-8")
    assert all(FENCED.findall(text)), "a block has no language"
    assert not INDENTED_COMMAND.findall(FENCED.sub("", text))


@pytest.mark.parametrize("name", sorted(runpy.run_path(str(DOCS / "make_reference.py"))["PAGES"]))
def test_generated_pages_are_current(name: str):
    maker = runpy.run_path(str(DOCS / "make_reference.py"))
    assert (DOCS / name).read_text(encoding="utf-8") == maker["made"](name), "run docs/make_reference.py"


@pytest.mark.parametrize("bits", [8, 4])
def test_the_bytes_of_quantised_weights_are_those_that_a_run_took(bits: int):
    """The sum that the page of sizes is made of, for the built-in model, whose bytes a record has."""
    from beholder import families
    from beholder.checkpoints.loader import plan
    from beholder.mini import FOLDER

    family = families.identify_folder(FOLDER)
    maker = runpy.run_path(str(DOCS / "sizes_page.py"))
    model = maker["weightless"](family, plan(FOLDER, family).config)
    records = (ROOT / "benchmarks" / "results").glob(f"quantize-{bits}bit-*.json")
    told = [json.loads(path.read_text("utf-8")) for path in records]
    values = [record["values"] for record in told if record["subject"] == "beholder-mini"]
    assert values
    for value in values:
        width = int(value["bytes_dense"] / sum(tensor.numel() for tensor in model.parameters()))
        assert maker["bytes_quantized"](model, bits, width) == value["bytes_quantized"]


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"([\w/.-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.glob("**/*.md")}
    assert there <= listed, f"not in mkdocs.yml: {sorted(there - listed)}"


def test_every_page_is_linked_to_places_that_are_there():
    """Anchors as well; the site's own build checks them too, where it is installed."""
    for page in DOCS.glob("**/*.md"):
        text = page.read_text(encoding="utf-8")
        for link, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)#([\w-]+)\)", text):
            target = (page.parent / link) if link else page
            assert anchor in anchors(target), f"{relative(page)}: {link}#{anchor}"


@cache
def anchors(page: Path) -> set[str]:
    """Names that a link may end in: of headings, and those that are given."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    given = set(re.findall(r"\{ *#([\w-]+) *\}", text))
    titles = re.findall(r"^#+ (.+?)(?: *\{.*\})?$", text, re.MULTILINE)
    return given | {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_the_site_is_built_without_a_warning(tmp_path: Path):
    pytest.importorskip("mkdocs", reason="the site needs mkdocs-material: pip install 'beholder[docs]'")
    import os
    import subprocess
    import sys

    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*build, "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(https?://(?!github\.com)[^"]+\.(?:js|css|woff2?))"', home)


def test_every_code_of_an_error_has_its_section():
    from beholder.core.troubles import TROUBLES

    sections = re.findall(
        r"^### .*\{ *#([\w-]+) *\}$", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE
    )
    codes = [trouble.code for trouble in TROUBLES]
    assert sorted(set(codes)) == sorted(codes)
    assert set(codes) <= set(sections), f"no section: {sorted(set(codes) - set(sections))}"


@pytest.mark.parametrize("block", [
    block for block in blocks((DOCS / "troubleshooting.md").read_text(encoding="utf-8"))
    if block.fails_with and block.output and "help: " in block.output
] if (DOCS / "troubleshooting.md").is_file() else [], ids=lambda block: block.label)  # fmt: skip
def test_a_printed_error_says_where_to_read(block):
    """An error on the page that has a code leads to the section it stands in."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    code = re.search(r"help: docs/troubleshooting\.md#([\w-]+)", block.output)[1]
    before = text[: text.index(block.output)]
    assert re.findall(r"\{ *#([\w-]+) *\}", before)[-1] == code
