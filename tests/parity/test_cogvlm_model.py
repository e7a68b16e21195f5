"""CogVLM's numbers against those of the original code: what it sees, says, and learns."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tests.parity.golden_cogvlm import (
    ATTENTION,
    FOLDER,
    SINGLE,
    TOLERANCE,
    close,
    inputs_of,
    model,
    recorded,
    told,
)
from torch import Tensor

from beholder.families.cogvlm.layout import PUBLISHED
from beholder.families.cogvlm.rotary import inverse_frequencies, rotary_tables
from beholder.families.cogvlm.routing import rotary_positions, vision_experts

PICTURED = tuple(case for case in SINGLE if case != "text_only")
GREEDY = {"do_sample": False, "max_new_tokens": 16, "eos_token_id": None, "pad_token_id": 0}
ROWS = (*SINGLE, "batch2", "batch2_generate")


def test_patches_before_the_first_layer():
    embedded = model().model.vision_tower.embed(recorded()["chat/pixels"])
    close(embedded, recorded()["chat/vision_patch_embedding"])


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", [*PICTURED, "batch2"])
@torch.no_grad()
def test_what_it_sees(case, attention):
    seen = model(attention).get_image_features(recorded()[f"{case}/pixels"])
    close(seen.last_hidden_state, recorded()[f"{case}/vision_pre_adapter"], TOLERANCE[attention])
    close(seen.pooler_output, recorded()[f"{case}/vision_post_adapter"], TOLERANCE[attention])


@torch.no_grad()
def test_the_class_vector_runs_along_to_the_end():
    tower = model().model.vision_tower
    hidden = tower.embed(recorded()["chat/pixels"])
    for layer in tower.layers:
        hidden = layer(hidden)
    close(hidden, recorded()["chat/vision_transformer_out_with_cls"], TOLERANCE["eager"])


@pytest.mark.parametrize("case", ROWS)
def test_positions_and_experts(case):
    io = recorded()
    types, mask = io[f"{case}/token_type_ids"], io[f"{case}/attention_mask"]
    assert rotary_positions(types, mask).equal(io[f"{case}/position_ids"])
    if f"{case}/vision_mask" in io:
        assert vision_experts(types).equal(io[f"{case}/vision_mask"].bool())
        real = mask.bool()
        assert (~vision_experts(types))[real].equal(io[f"{case}/language_mask"].bool()[real])


@pytest.mark.parametrize("case", [*SINGLE, "batch2"])
@torch.no_grad()
def test_slots_are_filled(case):
    inputs, whole = inputs_of(case), model().model
    features = None
    if "pixel_values" in inputs:
        features = whole.get_image_features(inputs["pixel_values"]).pooler_output
    embedded = whole.embed(inputs["input_ids"], inputs["token_type_ids"], features)
    close(embedded, recorded()[f"{case}/inputs_embeds"], TOLERANCE["eager"])


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", SINGLE)
@torch.no_grad()
def test_logits_and_states(case, attention):
    out = model(attention)(**inputs_of(case), output_hidden_states=True)
    close(out.logits, recorded()[f"{case}/logits"], 2 * TOLERANCE[attention])
    close(out.hidden_states[-1], recorded()[f"{case}/last_hidden_state"], TOLERANCE[attention])
    if case == "chat":
        for number, states in enumerate(out.hidden_states):
            close(states, recorded()[f"chat/hidden_states.{number}"], TOLERANCE[attention])


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("case", [*SINGLE, "batch2_generate"])
def test_greedy_tokens(case, use_cache, attention):
    inputs = inputs_of(case)
    out = model(attention).generate(**inputs, **GREEDY, use_cache=use_cache)
    assert out[:, inputs["input_ids"].shape[1] :].equal(recorded()[f"{case}/greedy_new_tokens"])


@pytest.mark.parametrize("case", SINGLE)
@torch.no_grad()
def test_the_whole_sequence_after_sixteen_tokens(case):
    inputs, new = inputs_of(case), recorded()[f"{case}/greedy_new_tokens"]
    for name, added in (
        ("input_ids", new),
        ("token_type_ids", torch.zeros_like(new)),
        ("attention_mask", torch.ones_like(new)),
    ):
        inputs[name] = torch.cat([inputs[name], added], dim=1)
    logits = model()(**inputs, logits_to_keep=1).logits[:, 0]
    close(logits, recorded()[f"{case}/full_sequence_logits_after_16"], 2 * TOLERANCE["eager"])


def gradients(loss: Tensor) -> dict[str, Tensor]:
    """Gradients under published names; those of a split tensor below each other."""
    net = model()
    net.zero_grad()
    loss.backward()
    ours = {name: parameter.grad for name, parameter in net.named_parameters()}
    net.zero_grad()
    wholes = dict.fromkeys(PUBLISHED.theirs(name) for name in ours)
    return {
        whole: torch.cat([ours[part] for part in PUBLISHED.parts(str(PUBLISHED.ours(whole)))])
        for whole in wholes
    }


def test_loss_and_gradients():
    inputs, io = inputs_of("batch2"), recorded()
    out = model()(**inputs)
    real = inputs["attention_mask"].bool()
    close(out.logits[real], io["batch2/logits"][real], 2 * TOLERANCE["eager"])
    close(out.loss, io["batch2/loss"][0])
    found = gradients(out.loss)
    norms = told("io")["batch2"]["grad_norms"]
    assert found.keys() == norms.keys()
    for name, norm in norms.items():
        assert found[name].norm().item() == pytest.approx(norm, rel=1e-3), name
    whole = [name for name in io if name.startswith("batch2/grad:")]
    assert len(whole) == 6
    for name in whole:
        gradient = found[name.removeprefix("batch2/grad:")]
        torch.testing.assert_close(gradient, io[name], rtol=1e-3, atol=1e-4)


def test_loss_of_rows_as_the_original_trained_them():
    """Padded on the right; no mask hides the padding, and positions count through it."""
    io = recorded()
    row = {name.split("/")[1]: value for name, value in io.items() if name.startswith("sat_train_batch/")}
    types = row["image_embed_mask"]
    assert rotary_positions(types).equal(row["position_ids"])
    assert vision_experts(types).equal(row["vision_expert_mask"].bool())
    with torch.no_grad():
        loss = model()(
            input_ids=row["input_ids"],
            token_type_ids=types,
            pixel_values=io["batch2/pixels"],
            labels=row["labels"],
        ).loss
    close(loss, torch.tensor(told("io")["sat_crosscheck"]["train_loss_right_padded"]))


@pytest.mark.parametrize(
    ("variant", "tables"),
    [("fp32", "float32"), ("sat_bf16", "bfloat16_sat"), ("hf_bf16", "bfloat16_hf")],
)
def test_rotary_tables(variant, tables):
    rope = load_file(FOLDER / "rope.safetensors")
    assert inverse_frequencies(128, 10000.0, tables).equal(rope[f"{variant}/inv_freq"])
    cosines, sines = rotary_tables(rope["positions"][None], 128, 10000.0, tables)
    for ours, name in ((cosines, "cos"), (sines, "sin")):
        theirs = rope[f"{variant}/{name}"]
        assert ours.dtype == theirs.dtype
        close(ours[0, :, :64], theirs, 0 if variant != "fp32" else 1e-7)
        assert ours[0, :, 64:].equal(ours[0, :, :64])
