"""Checkpoints of llava-hf's layout that this package never wrote, under the names of each generation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.golden_llava import CLIP, FOLDER, ROWS, close, inputs_of, recorded

from beholder.checkpoints.doctor import diagnose
from beholder.checkpoints.loader import open_model
from beholder.checkpoints.writer import convert
from beholder.families import family, identify_folder

LLAVA = family("llava")
# What is written into config.json there; everything else is as transformers has it.
KEYS = (
    "architectures", "image_token_index", "model_type", "projector_hidden_act", "text_config",
    "vision_config", "vision_feature_layer", "vision_feature_select_strategy", "tie_word_embeddings",
)  # fmt: skip


def before_4_52(name: str) -> str:
    return name


def since_4_52(name: str) -> str:
    """The language model's head moved out, and everything else into `model`."""
    if name == "language_model.lm_head.weight":
        return "lm_head.weight"
    return "model." + name.replace("language_model.model.", "language_model.", 1)


def since_5(name: str) -> str:
    return since_4_52(name).replace("vision_tower.vision_model.", "vision_tower.", 1)


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """The golden as llava-hf would have published it: nothing of ours in the folder."""
    place = tmp_path_factory.mktemp("official")
    shutil.copytree(CLIP, place / CLIP.name)
    source = Path(shutil.copytree(FOLDER / "llava" / "model", place / "source"))
    shutil.copy(FOLDER / "tokenizer" / "tokenizer.model", source)
    made = convert(source, place / "made", LLAVA, "llava-hf").target
    folder = place / "official"
    folder.mkdir()
    held = {name: tensor for file in made.glob("*.safetensors") for name, tensor in load_file(file).items()}
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    for path in made.iterdir():
        if path.is_file() and not path.name.startswith(("published", "model")):
            shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in KEYS if key in config}))
    return folder


@pytest.mark.parametrize("named", [before_4_52, since_4_52, since_5])
def test_every_generation_of_names(named, official, tmp_path):
    folder = Path(shutil.copytree(official, tmp_path / "model"))
    stored = {named(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    stored[named("vision_tower.vision_model.embeddings.position_ids")] = torch.arange(17)[None]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    assert diagnose(folder, identify_folder).findings == ()
    model = open_model(folder, identify_folder(folder), device="cpu")
    with torch.no_grad():
        logits = model(**inputs_of("llava", "one_image")).logits
    close(logits[..., :ROWS], recorded("llava")["one_image.logits"])
    assert model.config.used_rows == ROWS

    done = convert(folder, tmp_path / "published", LLAVA, "published")
    golden = load_file(FOLDER / "llava" / "model" / "model.safetensors")
    found = load_file(done.target / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in golden.items())
    tower = {name for name in found if name not in golden}
    assert tower
    assert all(name.startswith("model.vision_tower.vision_tower.vision_model.") for name in tower)
    assert diagnose(done.target, identify_folder).findings == ()
    assert convert(done.target, tmp_path / "again", LLAVA, "ours").checksum == done.checksum
