"""The warm-up of towers that look at a picture as a whole: it reads what projectors read, and trains that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.equality.training_cases import checkpoint, opened, recipe

from beholder.training.patch_labels import PatchCollator, PictureLabels
from beholder.training.patches import PatchReader, TowerReader, reader_of
from beholder.training.run import run

NAMES = ("llava", "internvl_chat", "cogvlm")
LETTER = {"what": "A", "box": [0.1, 0.1, 0.9, 0.9]}


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    Image.linear_gradient("L").resize((40, 24)).convert("RGB").save(tmp_path / "a.png")
    rows = [{"id": n, "image": "a.png", "conversations": [], "objects": [LETTER]} for n in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return checkpoint(request.param, tmp_path, None)


def test_a_reader_sees_the_patches_that_the_projector_gets(folder: Path) -> None:
    model, processor = opened(folder)
    assert reader_of(model) is TowerReader
    (grid,) = TowerReader.grids(model)
    rows = json.loads((folder.parent / "rows.json").read_text())
    labels = PictureLabels([(rows, folder.parent)], processor, (grid,))
    torch.manual_seed(0)
    reader = TowerReader(model, len(labels.what), len(labels.colour))
    seen: list[torch.Tensor] = []
    projector = model.model.multi_modal_projector
    projector.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    read: list[torch.Tensor] = []
    reader.patches.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    loss = reader(**PatchCollator()([labels[0], labels[1]]))["loss"]
    assert torch.isfinite(loss)
    assert read[0].shape == (2, grid * grid, model.config.vision_config.hidden_size)
    assert torch.equal(read[0], seen[0])


def test_a_stage_of_it_trains_the_tower_alone(folder: Path, tmp_path: Path) -> None:
    name = "cogvlm" if "cogvlm" in folder.as_posix() else "llava"
    before = {key: value.clone() for key, value in opened(folder)[0].state_dict().items()}
    trained = run(
        recipe(name, folder, tmp_path / "out", objective="patches", trainable=["model.vision_tower"])
    )
    after = opened(trained)[0].state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(".vision_tower." in key for key in changed)


def test_stitched_views_have_a_reader_of_their_own() -> None:
    class Model:
        model = type("Inner", (), {"patch_maps": None})

    assert reader_of(Model()) is PatchReader
