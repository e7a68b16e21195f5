"""How the code looks everywhere: documented, no drawers, no traces of the machine it was written on."""

from __future__ import annotations

import ast
import re

import pytest
from tests.structure.repository import (
    PACKAGE,
    module_name,
    package_modules,
    parsed,
    public_definitions,
    relative,
    repository_files,
)

# Files nobody can summarise.
DRAWERS = {"utils.py", "util.py", "common.py", "helpers.py", "helper.py", "misc.py"}

# Written in halves, so that this file does not contain what it forbids.
TRACES = ["/" + "work/", "../" + "shared", "/" + "root/", "/" + "home/", "/" + "opt/wheels", "C:" + "\\Users"]

TEXT_ENDINGS = {"", ".json", ".jsonl", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}

# Methods of torch.nn.Module and transformers.PreTrainedModel that every model has.
DECLARED_ELSEWHERE = {
    "forward", "get_decoder", "get_input_embeddings", "get_output_embeddings",
    "prepare_inputs_for_generation", "set_decoder", "set_input_embeddings", "set_output_embeddings",
}  # fmt: skip

FAMILY_WORDS = re.compile(r"360|llava|internvl|intern_vit|cogvlm|vicuna|eva2", re.IGNORECASE)
MECHANISMS = ("processing", "checkpoints", "generation", "grounding")


@pytest.mark.parametrize("path", package_modules(), ids=relative)
def test_everything_public_is_documented(path):
    tree = parsed(path)
    undocumented = [node.name for node in public_definitions(tree) if _needs_words(node)]
    if not ast.get_docstring(tree):
        undocumented.insert(0, "the module itself")
    assert not undocumented, f"{relative(path)}: no docstring on {', '.join(undocumented)}"


def _needs_words(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """What a library's base class declares is documented there, and so are overloads at the first of them."""
    decorators = {ast.unparse(decorator).split("(")[0].split(".")[-1] for decorator in node.decorator_list}
    declared_elsewhere = node.name in DECLARED_ELSEWHERE or decorators & {"overload", "override", "setter"}
    return ast.get_docstring(node) is None and not declared_elsewhere


def test_no_drawers():
    found = [relative(path) for path in repository_files() if path.name in DRAWERS]
    assert not found, f"give these files a name that says what is in them: {found}"


def test_no_traces_of_a_machine():
    found = []
    for path in repository_files():
        if path.suffix in TEXT_ENDINGS:
            text = path.read_text(encoding="utf-8")
            found += [f"{relative(path)} says {trace}" for trace in TRACES if trace in text]
    assert not found, "\n".join(found)


def test_large_files_are_weights_or_goldens():
    found = [
        relative(path)
        for path in repository_files()
        if path.stat().st_size > 500_000
        and not (path.suffix == ".safetensors" and ("mini" in path.parts or "golden" in path.parts))
        and not (path.suffix == ".pt" and "golden" in path.parts)
    ]
    assert not found, f"over 500 kB: {found}"


def test_built_in_weights_stay_small():
    size = sum(path.stat().st_size for path in (PACKAGE / "mini").rglob("*") if path.is_file())
    assert size <= 25_000_000, f"mini/ holds {size / 1e6:.1f} MB; 25 MB is the most the package may carry"


@pytest.mark.parametrize(
    "path",
    [path for path in package_modules() if path.relative_to(PACKAGE).parts[0] in MECHANISMS],
    ids=relative,
)
def test_mechanisms_know_no_family(path):
    """Docstrings may cite the official file that a function reproduces; names and strings may not know it."""
    tree = parsed(path)
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    words = [
        word
        for node in ast.walk(tree)
        for word in _words_of(node)
        if id(node) not in told and FAMILY_WORDS.search(word)
    ]
    assert not words, f"{module_name(path)} speaks of a family: {words}"


def _words_of(node: ast.AST) -> list[str]:
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word) | ast.keyword(arg=str(word)):
            return [word]
        case ast.FunctionDef(name=word) | ast.ClassDef(name=word) | ast.alias(name=word):
            return [word]
        case ast.Constant(value=str(word)):
            return [word]
    return []
