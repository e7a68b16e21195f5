"""Every fast way of generating gives what the slow one gives: batches, caches, beams, sampling, compiled."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.parity.golden_360vl import ATTENTION, inputs_of, recorded, released_model
from transformers import AutoModelForImageTextToText
from transformers.modeling_outputs import BaseModelOutputWithPooling

from beholder.core.errors import InputError

GREEDY = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": 5, "pad_token_id": 5}
CASES = ("cc", "turn2", "text", "multi")  # 54, 84, 19 and 80 positions; one, one, no and two pictures


def answer(model, inputs, **options) -> list[list[int]]:
    """The new ids of every row, up to and with the terminator."""
    out = model.generate(**inputs, **GREEDY | options)
    rows = out[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(5) + 1] if 5 in row else row for row in rows]


def together(cases, side: str = "left") -> dict[str, torch.Tensor]:
    """Rows of several cases side by side."""
    rows = [inputs_of(case) for case in cases]
    longest = max(row["input_ids"].shape[1] for row in rows)

    def padded(name: str) -> torch.Tensor:
        gaps = [longest - row[name].shape[1] for row in rows]
        pads = [(gap, 0) if side == "left" else (0, gap) for gap in gaps]
        return torch.cat(
            [torch.nn.functional.pad(row[name], pad) for row, pad in zip(rows, pads, strict=True)]
        )

    batch = {name: padded(name) for name in ("input_ids", "attention_mask")}
    pictures = [row["pixel_values"] for row in rows if "pixel_values" in row]
    return batch | {"pixel_values": torch.cat(pictures)}


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_left_padded_batch_equals_its_rows(attention, options):
    model = released_model(attention)
    alone = [answer(model, inputs_of(case), **options)[0] for case in CASES]
    assert answer(model, together(CASES), **options) == alone
    assert len({tuple(row) for row in alone}) == len(CASES)


def test_several_answers_of_a_batch_equal_those_of_its_rows():
    model, several = released_model(), {"num_beams": 4, "num_return_sequences": 3}
    alone = [row for case in CASES for row in answer(model, inputs_of(case), **several)]
    assert answer(model, together(CASES), **several) == alone


@pytest.mark.filterwarnings("ignore:.*generation_config.*")
def test_drafted_tokens_change_nothing():
    """By an assistant, which must be shown the picture, and by looking them up in the prompt."""
    model, inputs, saw = released_model(), inputs_of("cc"), []
    slow = answer(model, inputs)
    assistant = copy.deepcopy(model)
    assistant.register_forward_hook(lambda _, __, out: saw.append(out.image_hidden_states is not None))
    assert answer(model, inputs, assistant_model=assistant) == slow
    assert saw[0]
    assert not any(saw[1:])
    assert answer(model, inputs, prompt_lookup_num_tokens=3) == slow


def test_what_generate_reports_of_its_steps():
    model, inputs = released_model("eager"), inputs_of("cc")
    told = model.generate(
        **inputs, **GREEDY, return_dict_in_generate=True, output_hidden_states=True, output_attentions=True
    )
    layers, width = model.config.text_config.num_hidden_layers, model.config.text_config.hidden_size
    assert [tuple(states[-1].shape) for states in told.hidden_states[:2]] == [(1, 54, width), (1, 1, width)]
    assert {len(states) for states in told.hidden_states} == {layers + 1}
    assert [maps[0].shape[-2:] for maps in told.attentions[:2]] == [(54, 54), (1, 55)]


def test_a_larger_vocabulary_is_saved_and_opened(tmp_path):
    model, inputs = copy.deepcopy(released_model()), inputs_of("cc")
    rows = model.config.text_config.vocab_size
    before = model(**inputs).logits
    model.resize_token_embeddings(rows + 10, mean_resizing=False)
    assert model.config.text_config.vocab_size == rows + 10
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="eager")
    logits = again(**inputs).logits
    assert logits.shape[-1] == rows + 10
    torch.testing.assert_close(logits[..., :rows], before, rtol=0, atol=5e-5)


def test_left_and_right_padding_give_the_same_logits():
    model = released_model()
    left, right = together(CASES), together(CASES, side="right")
    with torch.no_grad():
        a, b = model(**left).logits, model(**right).logits
    for row, mask in enumerate(right["attention_mask"].sum(1).tolist()):
        torch.testing.assert_close(a[row, -mask:], b[row, :mask], rtol=0, atol=5e-5)


def test_a_seed_fixes_what_is_sampled():
    model = released_model()

    def sampled(seed: int, **options) -> list[list[int]]:
        torch.manual_seed(seed)
        return answer(model, inputs_of("cc"), do_sample=True, temperature=3.0, top_k=0, **options)

    assert sampled(0) == sampled(0)
    assert sampled(0) != sampled(1)
    assert sampled(0, use_cache=False) == sampled(0)


@pytest.mark.parametrize(
    "options", [{}, {"cache_implementation": "static", "disable_compile": True}], ids=["dynamic", "static"]
)
def test_any_cache_equals_none(options):
    model = released_model("sdpa")
    slow = answer(model, together(CASES), use_cache=False)
    assert answer(model, together(CASES), **options) == slow


def test_prefill_in_chunks_over_embeddings():
    """A picture split across two chunks: embeddings merged once, then fed piece by piece."""
    model, inputs = released_model(), inputs_of("cc")
    with torch.no_grad():
        slots = model.get_image_features(inputs["pixel_values"]).pooler_output
        embeddings = model.model.embed(inputs["input_ids"], slots)
        past, pieces = None, []
        for piece in embeddings.split(20, dim=1):
            out = model(inputs_embeds=piece, past_key_values=past, use_cache=True)
            past = out.past_key_values
            pieces.append(out.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), recorded()["cc.logits"], rtol=0, atol=3e-5)


def test_a_second_turn_on_the_cache_of_the_first():
    model, first, second = released_model(), inputs_of("cc"), inputs_of("turn2")
    have = first["input_ids"].shape[1]
    assert torch.equal(second["input_ids"][:, :have], first["input_ids"])
    with torch.no_grad():
        past = model(**first, use_cache=True).past_key_values
        logits = model(input_ids=second["input_ids"][:, have:], past_key_values=past).logits
    torch.testing.assert_close(logits, recorded()["turn2.logits"][:, have:], rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs: inputs.pop("pixel_values"), "reserves 32 picture positions and the pictures give 0"),
        (
            lambda inputs: inputs.update(pixel_values=inputs["pixel_values"].repeat(2, 1, 1, 1, 1)),
            "reserves 32 picture positions and the pictures give 64",
        ),
        (
            lambda inputs: inputs.update(pixel_values=inputs["pixel_values"][:, :4]),
            r"shape \(1, 4, 3, 56, 56\); the view plan 'corners' takes \(pictures, 5, 3, 56, 56\)",
        ),
        (lambda inputs: inputs.update(pixel_values=inputs["pixel_values"][0]), r"shape \(5, 3, 56, 56\)"),
        (lambda inputs: inputs.update(pixel_values=inputs["pixel_values"][..., 1:]), r"\(1, 5, 3, 56, 55\)"),
        (lambda inputs: inputs.update(inputs_embeds=torch.zeros(1, 54, 64)), "not both and not neither"),
        (
            lambda inputs: inputs.update(
                pixel_values=None,
                mm_encoder_outputs={
                    "image": BaseModelOutputWithPooling(pooler_output=torch.zeros(1, 32, 63))
                },
            ),
            "the pictures' features are 63 wide and the language model 64; they come from another model",
        ),
    ],
)
def test_pictures_that_do_not_match_the_prompt(change, message):
    inputs = inputs_of("cc")
    change(inputs)
    with pytest.raises(InputError, match=message):
        released_model()(**inputs)


@pytest.mark.slow
def test_compiled_equals_eager():
    model, inputs = released_model("sdpa"), inputs_of("cc")
    compiled = torch.compile(
        model, fullgraph=True, backend="eager"
    )  # one graph; what is made of it is torch's
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, rtol=0, atol=3e-5)
