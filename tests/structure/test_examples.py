"""The sample picture is what its script draws, and the scripts of examples/ and benchmarks/ can be read."""

from __future__ import annotations

import runpy

import numpy as np
import pytest
from PIL import Image
from tests.structure.repository import ROOT, relative


def test_sample_picture_is_what_its_script_draws():
    drawn = runpy.run_path(str(ROOT / "examples" / "draw_shapes.py"))["draw"]()
    stored = Image.open(ROOT / "examples" / "shapes.png")
    assert stored.size == drawn.size
    difference = np.abs(np.asarray(stored, dtype=float) - np.asarray(drawn, dtype=float))
    # Another FreeType may place an edge differently; a wrong shape or colour is far above this.
    assert difference.mean() < 0.5


PROGRAMS = [path for path in sorted(ROOT.glob("benchmarks/*.py")) if "__main__" in path.read_text("utf-8")]


@pytest.mark.parametrize("path", PROGRAMS, ids=relative)
def test_benchmarks_can_be_imported_without_measuring(path, monkeypatch):
    """They parse their arguments and measure only when run as programs."""
    monkeypatch.syspath_prepend(str(path.parent))  # where Python looks when it runs a program
    assert callable(runpy.run_path(str(path), run_name="benchmark")["main"])
