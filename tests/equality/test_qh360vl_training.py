"""Training's savings change no gradient, and adapters find their layers."""

from __future__ import annotations

import pytest
import torch
from tests.parity.golden_360vl import FOLDER, inputs_of

from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration

# PEFT asks transformers under a name that transformers is about to give up.
from_peft = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def opened() -> QH360VLForConditionalGeneration:
    return QH360VLForConditionalGeneration.from_pretrained(FOLDER).train()


def gradients(model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs_of("batch")).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_changes_nothing():
    model = opened()
    plain = gradients(model)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    assert model.model.language_model.layers[0].gradient_checkpointing
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-6)


def test_what_is_never_read_gets_no_gradient():
    """The tower's last layer and final norm stay in the checkpoint and out of the computation."""
    model = opened()
    without = set(dict(model.named_parameters())) - set(gradients(model))
    assert {name.split(".")[3] if "encoder" in name else name.split(".")[2] for name in without} == {
        "layers",
        "post_layernorm",
    }
    assert all(".layers.2." in name or "post_layernorm" in name for name in without)


def test_a_mixed_batch_equals_its_rows():
    """Losses of rows with and without a picture add up, weighted by their trained tokens."""
    model, whole = opened(), inputs_of("mixed")
    total, count = 0.0, 0
    for row in range(2):
        one = {name: tensor[row : row + 1] for name, tensor in whole.items() if name != "pixel_values"}
        if row == 0:
            one["pixel_values"] = whole["pixel_values"]
        trained = int((one["labels"][:, 1:] != -100).sum())
        total, count = total + model(**one).loss.item() * trained, count + trained
    assert model(**whole).loss.item() == pytest.approx(total / count, abs=1e-5)


@from_peft
def test_adapters_find_the_linear_layers():
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights="gaussian")
    model = peft.get_peft_model(opened(), settings)
    adapted = {name for name, _ in model.named_parameters() if "lora_A" in name}
    for part in (
        "q_proj",
        "down_proj",
        "vision_tower.encoder.layers.0.mlp.fc1",
        "corner_abstractor.readout.2",
    ):
        assert any(part in name for name in adapted), part
    assert not any("lm_head" in name for name in adapted)
    plain = opened()(**inputs_of("batch")).loss
    torch.testing.assert_close(model(**inputs_of("batch")).loss, plain)  # B starts at zero
    model(**inputs_of("batch")).loss.backward()


@from_peft
def test_an_adapter_folder_opens(tmp_path):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    trained = peft.get_peft_model(opened(), settings).eval()
    trained.save_pretrained(tmp_path)
    again = QH360VLForConditionalGeneration.from_pretrained(tmp_path)
    inputs = inputs_of("cc")
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, trained(**inputs).logits)


def test_a_fresh_projector_starts_as_the_original_does():
    """Tables from a narrow normal; convolutions as torch starts them, so that their output keeps its size."""
    torch.manual_seed(0)
    model = QH360VLForConditionalGeneration(QH360VLConfig.from_pretrained(FOLDER))
    projector = model.model.whole_abstractor
    assert 0.015 < projector.position_table.std().item() < 0.025
    fan_in = projector.stage1.block1.enter.conv.weight.shape[1]
    assert projector.stage1.block1.enter.conv.weight.std().item() == pytest.approx(
        (1 / (3 * fan_in)) ** 0.5, rel=0.1
    )
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(projector.stage2.block1.mix.norm.weight, torch.ones(48))


def test_tied_embeddings_are_one_tensor(tmp_path):
    config = QH360VLConfig.from_pretrained(FOLDER)
    config = QH360VLConfig(**config.to_dict() | {"tie_word_embeddings": True})
    model = QH360VLForConditionalGeneration(config)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    again = QH360VLForConditionalGeneration.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.language_model.embed_tokens.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_plan_for_tensor_parallelism():
    model = opened()
    assert model.tp_plan["lm_head"] == "colwise_gather_output"
    plan = {key.removeprefix("model.") for key in model.tp_plan}
    assert {f"language_model.layers.*.self_attn.{part}_proj" for part in "qkvo"} <= plan
