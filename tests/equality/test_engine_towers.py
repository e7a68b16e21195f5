"""No tower runs a layer above the one whose features are used, and the features are the whole tower's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.parity import golden_360vl, golden_cogvlm, golden_llava
from torch import nn
from transformers import LlavaModel


def count_runs(layers: nn.ModuleList) -> tuple[list[int], list[Any]]:
    """A list that fills with the number of each layer that runs, and what removes the counting."""
    ran: list[int] = []
    handles = [
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, layer in enumerate(layers)
    ]
    return ran, handles


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", golden_llava.CASES)
def test_features_of_the_used_layers_are_the_whole_towers(kind, attention):
    model = golden_llava.model_of(kind, attention)
    pixels = golden_llava.inputs_of(kind, "two_images")["pixel_values"]
    encoder = model.model.vision_tower.encoder
    layers = encoder.layers if hasattr(encoder, "layers") else encoder.layer
    ran, handles = count_runs(layers)
    try:
        with torch.inference_mode():
            ours = model.get_image_features(pixels).pooler_output
            used = list(ran)
            theirs = LlavaModel.get_image_features(model.model, pixels).pooler_output
    finally:
        for handle in handles:
            handle.remove()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    unused = -1 - model.config.vision_feature_layer  # layers above it
    assert unused > 0
    assert used == list(range(len(layers) - unused))


@pytest.mark.parametrize("layer", [-1, -2, 1, 2, [-2, -1]])
def test_any_selected_layer(layer, monkeypatch: pytest.MonkeyPatch):
    """Also counted from the start, and several at once, which transformers computes."""
    model = golden_llava.model_of("llava", "sdpa")
    pixels = golden_llava.inputs_of("llava", "one_image")["pixel_values"]
    if isinstance(layer, list):  # the projector would have to be wider
        monkeypatch.setattr(model.model, "multi_modal_projector", nn.Identity())
    for select in ("default", "full"):
        asked = {"vision_feature_layer": layer, "vision_feature_select_strategy": select}
        ours = model.get_image_features(pixels, **asked).pooler_output
        theirs = LlavaModel.get_image_features(model.model, pixels, **asked).pooler_output
        assert torch.equal(ours[0], theirs[0])


def test_the_tower_of_five_views():
    model = golden_360vl.model_of("cc", "sdpa")
    ran, handles = count_runs(model.model.vision_tower.encoder.layers)
    try:
        model.get_image_features(golden_360vl.images_of("cc"))
    finally:
        for handle in handles:
            handle.remove()
    assert ran == list(range(model.config.tower_depth))
    assert model.config.tower_depth < model.config.vision_config.num_hidden_layers


def test_the_tower_that_has_only_the_layers_it_uses():
    """Its published files leave the last layer out already."""
    model = golden_cogvlm.model("sdpa")
    ran, handles = count_runs(model.model.vision_tower.layers)
    try:
        model.get_image_features(golden_cogvlm.inputs_of(golden_cogvlm.SINGLE[0])["pixel_values"])
    finally:
        for handle in handles:
            handle.remove()
    assert ran == list(range(model.config.vision_config.num_hidden_layers))
