"""The same greedy answers as the original, in its own calling form (-200 and `images`) and in ours."""

from __future__ import annotations

import pytest
import torch
from tests.parity.golden_360vl import ATTENTION, images_of, inputs_of, model_of, recorded, released_model

from beholder.core.errors import InputError
from beholder.families.qh360vl.compatibility import expand

CASES = ("cc", "turn2", "text", "sw", "sv")
GREEDY = {"do_sample": False, "max_new_tokens": 16, "eos_token_id": 5, "pad_token_id": 5}


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", CASES)
def test_greedy_ids(case, attention, use_cache):
    inputs = inputs_of(case)
    out = model_of(case, attention).generate(**inputs, **GREEDY, use_cache=use_cache)
    assert torch.equal(out[:, inputs["input_ids"].shape[1] :], recorded()[f"{case}.generated"])


@pytest.mark.parametrize("case", CASES)
def test_published_form_returns_the_prompt_as_given(case):
    io = recorded()
    out = model_of(case).generate(io[f"{case}.input_ids"], images=images_of(case), **GREEDY)
    assert torch.equal(out, io[f"{case}.output_ids"])


def test_stops_after_the_terminator():
    io = recorded()
    end = io["cc_stop.eos_token_id"].tolist()
    out = released_model().generate(
        io["cc.input_ids"], images=images_of("cc"), **GREEDY | {"eos_token_id": end}
    )
    assert torch.equal(out, io["cc_stop.output_ids"])


def test_beams_in_the_published_form():
    io = recorded()
    options = GREEDY | {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4}
    ids, inputs = io["cc.input_ids"], inputs_of("cc")
    told = released_model().generate(ids, images=images_of("cc"), **options)
    ours = released_model().generate(**inputs, **options)
    assert torch.equal(told[:, ids.shape[1] :], ours[:, inputs["input_ids"].shape[1] :])
    assert torch.equal(told[:, : ids.shape[1]], ids.expand(2, -1))


def test_right_padded_rows_in_the_published_form_equal_single_rows():
    """The original crashes here."""
    io = recorded()
    ids, images, mask = io["batch.input_ids"], images_of("batch"), io["batch.attention_mask"]
    together = released_model().generate(ids, images=images, attention_mask=mask, **GREEDY)
    for row in range(len(ids)):
        alone = released_model().generate(
            ids[row : row + 1, mask[row].bool()], images=images[row : row + 1], **GREEDY
        )
        answer = alone[0, int(mask[row].sum()) :].tolist()
        assert together[row, ids.shape[1] :].tolist()[: len(answer)] == answer


def test_dictionary_output_in_the_published_form():
    io = recorded()
    out = released_model().generate(
        io["cc.input_ids"], images=images_of("cc"), return_dict_in_generate=True, output_logits=True, **GREEDY
    )
    assert torch.equal(out.sequences, io["cc.output_ids"])
    assert len(out.logits) == 16


def test_a_row_without_a_picture_uses_one_up():
    config, io = released_model().config, recorded()
    text, shown = io["text.input_ids"][:, :17], io["mixed.input_ids"][:1]
    inputs = expand(config, torch.cat([text, shown]), images_of("batch"))
    assert torch.equal(inputs["pixel_values"], images_of("batch")[1:])


def test_too_few_images():
    io = recorded()
    with pytest.raises(InputError, match="1 images were given and the rows need 2"):
        released_model().generate(io["multi.input_ids"], images=images_of("cc"), **GREEDY)
    with pytest.raises(InputError, match="0 images were given and the rows need 1"):
        released_model().generate(io["cc.input_ids"], **GREEDY)
