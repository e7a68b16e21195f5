"""CogVLM's pixels against those of the original's transform."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.parity.golden_cogvlm import FOLDER, close, told

from beholder.families.cogvlm.views import CogVLMImageProcessor
from beholder.processing.resizing import resize

TOLD = told("preprocess")
CASES = [(entry, side) for entry in TOLD["images"] for side in entry["outputs"]]


@pytest.mark.parametrize(("entry", "side"), CASES, ids=[f"{entry['file']}-{side}" for entry, side in CASES])
def test_pixels(entry, side):
    wanted = entry["outputs"][side]
    picture = Image.open(FOLDER / "images" / entry["file"])
    stretched = np.asarray(resize(picture.convert("RGB"), (int(side), int(side))))
    assert hashlib.sha256(stretched.tobytes()).hexdigest() == wanted["sha256_of_resized_uint8"]
    pixels = torch.from_numpy(CogVLMImageProcessor(side=int(side)).view(picture))
    assert list(pixels.shape) == wanted["shape"]
    stride = wanted["sample_stride"]
    sample = load_file(FOLDER / "preprocess.safetensors")[f"{entry['file']}/{side}/sample"]
    close(pixels[:, ::stride, ::stride][:, :64, :64], sample, 1e-6)
    close(pixels.mean((1, 2)), torch.tensor(wanted["mean"]))
    assert (pixels.min().item(), pixels.max().item()) == pytest.approx((wanted["min"], wanted["max"]))


def test_normalisation_is_the_original_s():
    processor = CogVLMImageProcessor()
    assert (list(processor.image_mean), list(processor.image_std)) == (TOLD["mean"], TOLD["std"])
    assert len(CASES) == 8
