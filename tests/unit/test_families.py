"""A checkpoint's family is told by its configuration, and the error says what was looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beholder.core.errors import ConfigError
from beholder.families import FAMILIES, family, identify, identify_folder

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "360vl"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_parts(name):
    found = family(name)
    assert found.name == name
    assert found.title
    kinds = found.config_classes()
    assert {kind.model_type for kind in kinds} == {*found.model_types, *found.published_model_types}
    assert found.model_class().config_class is kinds[0]
    assert found.processor_class().__name__.endswith("Processor")
    assert found.model_class() in found.auto_models().values()


def test_an_unknown_family():
    with pytest.raises(ConfigError, match="no model family 'blip'; known: qh360vl"):
        family("blip")


@pytest.mark.parametrize("model_type", ["QH_360VL", "qh_360vl"])
def test_the_model_type_decides(model_type):
    assert identify({"model_type": model_type}, []).name == "qh360vl"


@pytest.mark.parametrize("config", [{"model_type": "nobody"}, {}])
def test_an_unknown_checkpoint_is_told_what_was_looked_for(config):
    with pytest.raises(ConfigError, match=r"360VL: QH_360VL, qh_360vl"):
        identify(config, ["model.layers.0.weight"])


def test_tensors_that_contradict_the_configuration():
    with pytest.raises(ConfigError, match=r"tensors are 360VL's but config.json has no model_type"):
        identify({}, ["model.mm_projector_ctt.pos_emb"])


def test_a_folder():
    assert identify_folder(GOLDEN).name == "qh360vl"


def test_description_of_the_released_model():
    config = json.loads((GOLDEN / "manifests" / "config-360vl-8b.json").read_text())
    told = family("qh360vl").describe(config)
    assert told["slots_per_picture"] == 1152
    assert told["context"] == 8192
    assert told["template"] == "Llama-3"
    assert "24 x 1024, 336 px in patches of 14, 23 layers used" in told["vision_tower"]
    assert "32 x 4096" in told["language_model"]


def test_description_of_our_configuration():
    config = family("qh360vl").config_from_published(json.loads((GOLDEN / "config.json").read_text()), GOLDEN)
    assert family("qh360vl").describe(config)["slots_per_picture"] == 32
