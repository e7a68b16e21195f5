"""Commands inside the sentences and tables of the pages: verbs, options, recipes and benchmarks exist.

Blocks are run by `test_docs` and `test_readme`; this is for what cannot be run there, such as a training of
hours.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from tests.structure.repository import ROOT, relative

from beholder.cli import VERBS, aliases
from beholder.cli.commands import commands

PAGES = [
    page
    for page in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")))
    if page.name != "CHANGELOG.md"
]
SPOKEN = re.compile(r"`(?:torchrun [^`]* -m )?beholder ([^`]+)`")
FREE = {"--help", "--debug", "--version"}
# What stands for something of the reader's, or for any of several.
OPEN = re.compile(r"^[A-Z…<{/.]|[/.]|^…$")


@cache
def options() -> dict[str, set[str]]:
    """Of every verb its options, and the flags of the original programs, which are understood by all."""
    old = set(re.findall(r"--[a-z][\w-]*", Path(aliases.__file__).read_text(encoding="utf-8")))
    return {one.name: old.union(*(option.flags for option in one.options)) for one in commands()}


def verb_of(words: list[str]) -> str | None:
    for count in (2, 1):
        if " ".join(words[:count]) in VERBS:
            return " ".join(words[:count])
    return None


def wrong(spoken: str) -> str:
    """What of a command does not exist; empty where all does."""
    words = spoken.replace("[", " ").replace("]", " ").split()
    if words[0] in ("help", "VERB") or words[0] in FREE:
        return ""
    verb = verb_of(words)
    if verb is None:
        group = [name for name in VERBS if name.startswith(f"{words[0]} ")]
        return "" if group and len(words) == 1 else f"no verb {words[0]!r}"
    rest = words[len(verb.split()) :]
    flags = [word.split("=")[0] for word in rest if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word)]
    if missing := [flag for flag in flags if flag not in options()[verb] | FREE]:
        return f"{verb} has no {', '.join(missing)}"
    first = next((word for word in rest if not word.startswith("-")), "")
    return "" if not first or (OPEN.search(first) and "/" not in first) else named_wrong(verb, first)


def named_wrong(verb: str, name: str) -> str:
    """A recipe or benchmark that is named and does not exist."""
    from beholder.evaluation.tasks import TASKS
    from beholder.training.stages import recipe_names

    if verb == "train" and "/" in name and "…" not in name and name not in recipe_names():
        return f"there is no recipe {name}"
    if verb == "eval" and re.fullmatch(r"[a-z][a-z-]+", name) and name not in TASKS:
        return f"there is no benchmark {name}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_what_is_spoken_of_exists(page: Path):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    told = {spoken: wrong(spoken) for spoken in SPOKEN.findall(text)}
    assert not {spoken: what for spoken, what in told.items() if what}


@pytest.mark.parametrize(
    "spoken", ["aks P Q", "ask P Q --modle M", "train llava-1.5/nothing", "eval nothing-known --model M"]
)
def test_what_does_not_exist_is_found(spoken: str):
    assert wrong(spoken)
