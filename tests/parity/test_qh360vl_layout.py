"""Every key, shape and setting of the published checkpoints has its place in ours, and the way back."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from safetensors import safe_open
from tests.parity.golden_360vl import FOLDER, published_config

from beholder.core.errors import ConfigError
from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.layout import PUBLISHED
from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration

SIZES = {"8b": 848, "70b": 1280}
# Written by whoever saved the file; nothing that runs a model reads them.
SAID_BY_THE_SAVER = {
    "_name_or_path",
    "auto_map",
    "mm_projector_config",
    "pretraining_tp",
    "transformers_version",
}


def released(size: str) -> tuple[dict, dict[str, list[int]]]:
    """The published configuration and the published keys with their shapes."""
    config = json.loads((FOLDER / "manifests" / f"config-360vl-{size}.json").read_text())
    listed = json.loads(
        gzip.decompress((FOLDER / "manifests" / f"manifest-360vl-{size}.json.gz").read_bytes())
    )
    return config, {name: tensor["shape"] for name, tensor in listed.items()}


@pytest.mark.parametrize("size", SIZES)
def test_every_published_tensor_has_its_place(size):
    config, manifest = released(size)
    with torch.device("meta"):
        model = QH360VLForConditionalGeneration(QH360VLConfig.from_published(config))
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(manifest) == SIZES[size]
    assert {PUBLISHED.ours(name): shape for name, shape in manifest.items()} == ours
    assert {PUBLISHED.theirs(name): shape for name, shape in ours.items()} == manifest


def test_the_third_projector_has_its_place():
    with safe_open(FOLDER / "sw" / "extra.safetensors", "pt") as stored:
        names = list(stored.keys())
    assert all(str(PUBLISHED.ours(name)).startswith("model.single_abstractor.") for name in names)
    assert [PUBLISHED.theirs(str(PUBLISHED.ours(name))) for name in names] == names


@pytest.mark.parametrize("size", SIZES)
def test_renamings_for_transformers_say_the_same_as_the_table(size):
    from transformers.core_model_loading import WeightRenaming

    renamings = [WeightRenaming(theirs, ours) for theirs, ours in PUBLISHED.renamings().items()]
    for name in released(size)[1]:
        renamed = name
        for renaming in renamings:
            renamed, _ = renaming.rename_source_key(renamed)
        assert renamed == PUBLISHED.ours(name)
        again = renamed
        for renaming in renamings:
            again, _ = renaming.rename_source_key(again)
        assert again == renamed, "our own names must pass untouched"


def test_tables_that_old_versions_stored_are_dropped():
    assert PUBLISHED.ours("model.layers.3.self_attn.rotary_emb.inv_freq") is None
    assert PUBLISHED.ours("model.vision_tower.vision_tower.vision_model.embeddings.position_ids") is None


def test_an_unknown_name_is_not_guessed():
    with pytest.raises(KeyError):
        PUBLISHED.ours("model.mm_projector_ctt.net.0.b1.conv4.conv.weight")


@pytest.mark.parametrize(("size", "width", "depth"), [("8b", 4096, 32), ("70b", 8192, 80)])
def test_published_configuration(size, width, depth):
    config = QH360VLConfig.from_published(released(size)[0])
    text = config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.num_key_value_heads) == (width, depth, 8)
    assert text.rope_parameters == {"rope_type": "default", "rope_theta": 500000.0}
    assert (config.slots_per_picture, config.views, config.image_token_id) == (1152, "corners", 128049)
    assert (config.vision_config.image_size, config.tower_depth) == (336, 23)
    assert config.dtype == torch.bfloat16


@pytest.mark.parametrize("size", SIZES)
def test_published_configuration_there_and_back(size):
    config = released(size)[0]
    back = QH360VLConfig.from_published(config).to_published()
    projector, theirs = back.pop("visual_projector_config"), config.pop("visual_projector_config")
    assert projector.items() <= theirs.items()
    assert {
        key for key in config.keys() | back.keys() if config.get(key) != back.get(key)
    } <= SAID_BY_THE_SAVER
    again = QH360VLConfig.from_published(back | {"visual_projector_config": projector})
    assert (
        again.to_dict()
        == QH360VLConfig.from_published(config | {"visual_projector_config": theirs}).to_dict()
    )


def test_a_tower_that_is_not_known_is_spelled_out():
    config = QH360VLConfig.from_published(published_config(), FOLDER)
    alone = QH360VLConfig.from_published(config.to_published())  # no folder to look into
    assert alone.vision_config.to_dict() == config.vision_config.to_dict()


@pytest.mark.parametrize(
    ("folder", "proj_2", "views"), [(".", True, "corners"), ("sw", None, "separate"), (".", False, "single")]
)
def test_which_plan(folder, proj_2, views):
    stored = published_config(folder)
    stored |= {} if proj_2 is None else {"proj_2": proj_2}
    config = QH360VLConfig.from_published(stored, FOLDER)
    assert config.views == views
    assert config.to_published().get("proj_2") == proj_2


def changed(**values) -> dict:
    return published_config() | values


def without(key: str) -> dict:
    return {name: value for name, value in published_config().items() if name != key}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(mm_vision_towr="x"), "unknown keys in the published 360VL config.json: mm_vision_towr"),
        (changed(visual_projector_config={"num_query": 4}), "visual_projector_config: num_query"),
        (changed(mm_projector_type="mlp2x_gelu"), "mm_projector_type is 'mlp2x_gelu'"),
        (changed(mm_vision_select_feature="cls_patch"), "'cls_patch'"),
        (
            changed(mm_vision_select_layer=-5),
            "vision_feature_layer is -5; the vision tower has only 3 layers",
        ),
        (changed(mm_hidden_size=64), "mm_hidden_size is 64 in config.json and the vision tower has 32"),
        (
            changed(mm_vision_tower="somewhere/else"),
            "the shape of the vision tower 'somewhere/else' is unknown",
        ),
        (changed(mm_use_im_start_end=True), "mm_use_im_start_end is True"),
        (without("visual_projector_config"), "lacks visual_projector_config"),
        (without("vocab_size"), "lacks vocab_size"),
    ],
)
def test_what_cannot_work_is_named(config, message):
    with pytest.raises(ConfigError, match=message):
        QH360VLConfig.from_published(config, FOLDER)


def test_queries_must_make_a_square():
    stored = published_config()
    stored["visual_projector_config"] |= {"num_queries": 20}
    with pytest.raises(ConfigError, match="number of queries is 20"):
        QH360VLConfig.from_published(stored, FOLDER)


def test_rope_scaling_is_carried():
    scaling = {"type": "linear", "factor": 2.0}
    config = QH360VLConfig.from_published(changed(rope_scaling=scaling), FOLDER)
    assert config.text_config.rope_parameters == {
        "rope_type": "linear",
        "factor": 2.0,
        "rope_theta": 500000.0,
    }
    assert config.to_published()["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


def test_configuration_survives_saving(tmp_path):
    config = QH360VLConfig.from_published(published_config("sw"), FOLDER)
    config.save_pretrained(tmp_path)
    again = QH360VLConfig.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qh_360vl"
    for part in ("vision_config", "projector_config", "text_config"):
        assert getattr(again, part).to_dict() == getattr(config, part).to_dict()
    assert again.to_published() == config.to_published()
