"""From slots and tokens to logits, loss and gradients: equal to the original, with either attention."""

from __future__ import annotations

import json

import pytest
import torch
from tests.parity.golden_360vl import ATTENTION, FOLDER, TOLERANCE, close, inputs_of, model_of, recorded

from beholder.families.qh360vl.layout import PUBLISHED, TOWER_PREFIX
from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration

CASES = ("cc", "turn2", "text", "multi", "batch", "mixed", "sw", "sv")
TRAINED = ("batch", "mixed")


def mask_of(case: str) -> torch.Tensor:
    """Where the recorded numbers mean something."""
    io = recorded()
    given = io.get(f"{case}.merged_attention_mask")
    return torch.ones(io[f"{case}.logits"].shape[:2], dtype=torch.bool) if given is None else given.bool()


@pytest.mark.parametrize("case", ["cc", "batch", "mixed", "sw", "sv"])
def test_merged_mask(case):
    assert torch.equal(inputs_of(case)["attention_mask"], recorded()[f"{case}.merged_attention_mask"])


@pytest.mark.parametrize("case", TRAINED)
def test_merged_labels(case):
    assert torch.equal(inputs_of(case)["labels"], recorded()[f"{case}.merged_labels"])


@pytest.mark.parametrize("case", ["cc", "batch"])
def test_merged_embeddings(case):
    model, inputs = model_of(case).model, inputs_of(case)
    with torch.no_grad():
        slots = model.get_image_features(inputs["pixel_values"]).pooler_output
        merged = model.embed(inputs["input_ids"], slots)
    where = mask_of(case)
    close(merged[where], recorded()[f"{case}.inputs_embeds"][where])


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", CASES)
def test_logits(case, attention):
    with torch.no_grad():
        logits = model_of(case, attention)(**inputs_of(case)).logits
    where = mask_of(case)
    close(logits[where], recorded()[f"{case}.logits"][where], TOLERANCE[attention])


@pytest.mark.parametrize("kept", [1, 3])
def test_logits_to_keep(kept):
    with torch.no_grad():
        logits = model_of("cc")(**inputs_of("cc"), logits_to_keep=kept).logits
    close(logits, recorded()["cc.logits"][:, -kept:])


def test_features_encoded_before():
    model, inputs = model_of("cc"), inputs_of("cc")
    with torch.no_grad():
        seen = model.get_image_features(inputs.pop("pixel_values"))
        logits = model(**inputs, mm_encoder_outputs={"image": seen}).logits
    close(logits, recorded()["cc.logits"])


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", TRAINED)
def test_loss_and_gradient_norms(case, attention):
    """The tower is frozen, as it always was; every other parameter's gradient has the recorded length."""
    told = json.loads((FOLDER / f"{case}_grads.json").read_text())
    model = QH360VLForConditionalGeneration.from_pretrained(FOLDER, attn_implementation=attention)
    model.model.vision_tower.requires_grad_(False)
    loss = model(**inputs_of(case)).loss
    close(loss[None], recorded()[f"{case}.loss"])
    loss.backward()
    for name, parameter in model.named_parameters():
        wanted = told["grad_norms"][PUBLISHED.theirs(name)]
        if name.startswith(TOWER_PREFIX):
            assert wanted is None
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert parameter.grad.double().norm().item() == pytest.approx(wanted, rel=2e-5, abs=1e-7), name


def test_row_0_of_the_position_table_is_not_used():
    model = QH360VLForConditionalGeneration.from_pretrained(FOLDER)
    model(**inputs_of("batch")).loss.backward()
    gradient = model.model.corner_abstractor.position_table.grad[0]
    assert not gradient[0].any()
    assert gradient[1:].any(dim=1).all()
