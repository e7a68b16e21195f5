"""360VL's preprocessing against what the original code made of the same pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from beholder.families.qh360vl.views import QH360VLImageProcessor
from beholder.processing.images import open_picture

GOLDEN = Path(__file__).parent.parent / "golden" / "360vl"
RECORDED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "preprocess.json").read_text())


def prepared(case: str, plan: str) -> np.ndarray:
    """The views of a recorded case, `picture` or `picture.mode`."""
    name, _, mode = case.partition(".")
    aspect = "anything else" if mode == "nopad" else "pad"
    return QH360VLImageProcessor(aspect=aspect, plan=plan).views(open_picture(GOLDEN / f"images/{name}.png"))


@pytest.mark.parametrize("case", RECORDED)
def test_five_views_bit_for_bit(case: str):
    views = prepared(case, "five")
    assert list(views.shape) == RECORDED[case]["shape"]
    assert views.dtype == np.dtype("<f4")
    assert hashlib.sha256(views.tobytes()).hexdigest() == RECORDED[case]["sha256_float32"]


@pytest.mark.parametrize("case", RECORDED)
def test_single_view_bit_for_bit(case: str):
    view = prepared(case, "single")
    assert [1, *view.shape] == RECORDED[case]["single_shape"]
    assert hashlib.sha256(view.tobytes()).hexdigest() == RECORDED[case]["single_sha256_float32"]


@pytest.mark.parametrize("case", RECORDED)
def test_recorded_pixels(case: str):
    """Says where pixels differ when the sums above do not hold, for instance with another Pillow."""
    stored = case.replace("square.nopad", "square.pad")  # the square picture is the same in both modes
    recorded = {
        name.removeprefix(f"{stored}."): values
        for name, values in load_file(GOLDEN / "preprocess.safetensors").items()
        if name.startswith(f"{stored}.")
    }
    views, single = prepared(case, "five"), prepared(case, "single")
    assert len(recorded) == 7
    for number in range(5):
        name, step, most = (f"view{number}_s64", 5, 64) if number in (0, 4) else (f"view{number}_s16", 21, 16)
        picked = views[number, :, ::step, ::step][:, :most, :most]
        np.testing.assert_allclose(picked, recorded[name], rtol=0, atol=1e-6)
    np.testing.assert_allclose(single[:, ::16, ::16], recorded["single_s21"], rtol=0, atol=1e-6)
    axes = (1, 2, 3)
    figures = np.stack([views.mean(axes), views.std(axes), views.min(axes), views.max(axes)], axis=1)
    np.testing.assert_allclose(figures, recorded["views"], rtol=0, atol=1e-5)
