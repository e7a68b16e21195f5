"""Every cell of the notebooks runs, in order and in an empty folder, and prints what is kept below it."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.structure.repository import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))

pytestmark = pytest.mark.slow


def run_cell(source: str, names: dict[str, Any]) -> str:
    """What a code cell prints; its last expression's value too, as Jupyter shows it."""
    told = io.StringIO()
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(told):
        exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
            if value is not None:
                told.write(f"{value!r}\n")
    return told.getvalue()


def kept_output(cell: dict[str, Any]) -> str:
    """The text that the notebook shows below a cell."""
    told = ""
    for output in cell["outputs"]:
        told += "".join(output["text"] if "text" in output else output["data"]["text/plain"])
        told += "" if told.endswith("\n") else "\n"
    return told


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["laboratory.ipynb", "tutorial.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert run_cell(source, names) == kept_output(cell), source
