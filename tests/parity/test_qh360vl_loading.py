"""The Auto classes open the published folder without remote code, completely or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.golden_360vl import FOLDER, close, inputs_of, recorded, released_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)

import beholder  # noqa: F401  (makes the Auto classes know the model type)
from beholder.core.errors import CheckpointError, ConfigError
from beholder.families import identify_folder
from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.layout import TOWER_PREFIX
from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration, QH360VLModel

OPENERS = (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM)
STORED_TOWER = "model.vision_tower.vision_tower."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the golden checkpoint, to be changed."""
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(FOLDER / name, copy / name)
    shutil.copytree(FOLDER / "vision_tower", copy / "vision_tower")
    return copy


def rewrite(folder: Path, change) -> None:
    """Change the stored tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def reconfigure(folder: Path, **values) -> None:
    """Change the published configuration."""
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


def assert_golden(model) -> None:
    with torch.no_grad():
        close(model(**inputs_of("cc")).logits, recorded()["cc.logits"], 5e-5)


@pytest.mark.parametrize("opener", OPENERS, ids=lambda opener: opener.__name__)
def test_auto_classes_open_the_published_folder(opener):
    model = opener.from_pretrained(FOLDER)
    assert type(model) is QH360VLForConditionalGeneration
    assert not model.training
    assert_golden(model)


def test_auto_model_opens_the_part_without_head():
    model = AutoModel.from_pretrained(FOLDER)
    assert type(model) is QH360VLModel
    assert torch.equal(
        model.whole_abstractor.readout[0].weight, released_model().model.whole_abstractor.readout[0].weight
    )


@pytest.mark.parametrize("trusted", [True, None])
def test_remote_code_never_runs(folder, trusted):
    """The published config.json points to code beside it; ours is taken even when the user trusts theirs."""
    reconfigure(
        folder,
        auto_map={
            "AutoConfig": "modeling_360vl.QH360_VLConfig",
            "AutoModelForCausalLM": "modeling_360vl.QH360_VL_LlamaForCausalLM",
        },
    )
    (folder / "modeling_360vl.py").write_text("raise AssertionError('remote code ran')")
    assert type(AutoConfig.from_pretrained(folder, trust_remote_code=trusted)) is QH360VLConfig
    assert_golden(AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trusted))


@pytest.mark.parametrize("name", ["llava-v1.5-7b", "vicuna", "360VL-8B", "x y"])
def test_the_folders_name_means_nothing(folder, name):
    renamed = folder.rename(folder.with_name(name))
    assert identify_folder(renamed).name == "qh360vl"
    assert_golden(AutoModelForCausalLM.from_pretrained(renamed))


def test_saving_writes_our_form_and_opens_the_same(tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(FOLDER)
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qh_360vl"
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert_golden(again)


def test_saving_in_shards(tmp_path):
    released_model().save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_golden(AutoModelForCausalLM.from_pretrained(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_opens_in_another_precision(dtype):
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    inputs = inputs_of("cc")
    with torch.no_grad():
        logits = model(**inputs | {"pixel_values": inputs["pixel_values"].to(dtype)}).logits
    assert logits.dtype == dtype
    assert (logits.float() - recorded()["cc.logits"]).abs().mean() < 0.1


def lose_a_norm(tensors):
    del tensors["model.norm.weight"]


def bring_a_stranger(tensors):
    tensors["model.mm_projector_ctt.net.0.b9.se.fc1.bias"] = torch.zeros(3)


def change_a_shape(tensors):
    tensors["lm_head.weight"] = torch.zeros(512, 60)


def lose_a_part_of_the_tower(tensors):
    del tensors[STORED_TOWER + "vision_model.encoder.layers.0.mlp.fc1.weight"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_norm, "1 tensors missing: model.language_model.norm.weight"),
        (bring_a_stranger, "1 tensors unknown: model.corner_abstractor.stage1.block9.gate.squeeze.bias"),
        (
            change_a_shape,
            r"1 tensors of another shape: lm_head.weight is \[512, 60\] and must be \[512, 64\]",
        ),
        (lose_a_part_of_the_tower, "1 tensors missing: model.vision_tower.encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(folder, damage, message):
    rewrite(folder, damage)
    with pytest.raises(CheckpointError, match=message):
        AutoModelForCausalLM.from_pretrained(folder)


def test_the_error_counts_and_shortens(folder):
    rewrite(
        folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "mm_projector_ori" in name]
    )
    with pytest.raises(CheckpointError, match=r"60 tensors missing: .*; \.\.\.$") as refused:
        AutoModelForCausalLM.from_pretrained(folder)
    assert str(refused.value).count("whole_abstractor") == 3


def test_nothing_but_the_error_is_said(folder, caplog):
    rewrite(folder, lose_a_norm)
    with pytest.raises(CheckpointError):
        AutoModelForCausalLM.from_pretrained(folder)
    assert "LOAD REPORT" not in caplog.text


def test_the_stored_tower_wins_over_the_base(folder):
    """The original drops it and takes the base tower; ours takes what was stored."""

    def shift(tensors):
        tensors[STORED_TOWER + "vision_model.embeddings.class_embedding"] += 1

    rewrite(folder, shift)
    model = AutoModelForCausalLM.from_pretrained(folder)
    stored = released_model().model.vision_tower.embeddings.class_embedding
    close(model.model.vision_tower.embeddings.class_embedding.data, stored.data + 1)


def drop_the_tower(tensors):
    for name in [name for name in tensors if name.startswith(STORED_TOWER)]:
        del tensors[name]


@pytest.mark.parametrize("opener", [AutoModelForCausalLM, AutoModel])
def test_a_tower_that_is_not_stored_comes_from_the_base(folder, opener):
    rewrite(folder, drop_the_tower)
    model = opener.from_pretrained(folder)
    tower = model.base_model.vision_tower.state_dict()
    assert len(tower) == 55
    for name, tensor in tower.items():
        assert torch.equal(released_model().state_dict()[TOWER_PREFIX + name], tensor)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, r"no vision tower and its config\.json names none"),
        ("vision_tower", "its base tower 'vision_tower' is neither a folder nor a hub id"),
        ("openai/clip-of-ours", "its base tower 'openai/clip-of-ours' cannot be opened"),
    ],
)
def test_no_tower_anywhere(folder, monkeypatch, name, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    rewrite(folder, drop_the_tower)
    shutil.rmtree(folder / "vision_tower")
    tower = json.loads((FOLDER / "vision_tower" / "config.json").read_text())
    reconfigure(folder, vision_config=tower, mm_vision_tower=name)
    with pytest.raises(CheckpointError, match=message):
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_base_tower_that_does_not_fit(folder):
    rewrite(folder, drop_the_tower)
    deeper = json.loads((FOLDER / "vision_tower" / "config.json").read_text()) | {"num_hidden_layers": 4}
    reconfigure(folder, vision_config=deeper)
    with pytest.raises(CheckpointError, match="base vision tower 'vision_tower' does not fit: 16 tensors"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_config_of_another_family_is_named(folder):
    reconfigure(folder, model_type="llama")
    with pytest.raises(ConfigError, match=r"the tensors are 360VL's but config.json has model_type 'llama'"):
        identify_folder(folder)


FIRST_IMPORTS = (
    "import beholder",
    "import beholder; from transformers import GenerationMixin",
    "import beholder.families.qh360vl.modeling",
    "import beholder.families.qh360vl.processing",
    "from transformers import AutoModelForCausalLM, AutoProcessor; import beholder",
)
THEN = """
from transformers import AutoConfig
from transformers.models.auto import modeling_auto as models
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
config = type(AutoConfig.from_pretrained({folder!r}))
for mapping in (
    models.MODEL_FOR_CAUSAL_LM_MAPPING, models.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, PROCESSOR_MAPPING
):
    print(mapping[config].__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", FIRST_IMPORTS)
def test_in_whatever_order_things_are_imported(first):
    code = f"{first}\n{THEN.format(folder=str(FOLDER))}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["QH360VLForConditionalGeneration"] * 2 + ["QH360VLProcessor"], done.stderr
