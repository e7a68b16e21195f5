"""CogVLM's fast ways give what the slow ones give: grouped rows, caches, chunks, batches, compiled steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from tests.parity.golden_cogvlm import ATTENTION, close, inputs_of, model, published_config, recorded
from torch import Tensor
from transformers import DynamicCache

from beholder.core.errors import InputError
from beholder.core.types import Sampling
from beholder.families.cogvlm import decoder
from beholder.families.cogvlm.config import CogVLMConfig
from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration
from beholder.families.cogvlm.routing import Routing, rotary_positions, vision_experts
from beholder.generation.engine import Engine

CASES = ("chat", "vqa", "text_only", "base_empty")
GREEDY = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}


@dataclass(frozen=True)
class ComputeBoth:
    """The slow twin of `Routing`: both experts for every row, and then a choice."""

    is_vision: Tensor

    @classmethod
    def of(cls, is_vision_BS: Tensor) -> ComputeBoth:
        return cls(is_vision_BS)

    def apply(self, states: Tensor, language: Callable, vision: Callable) -> Tensor:
        return torch.where(self.is_vision[..., None], vision(states), language(states))


def trained_step(inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of every parameter."""
    net = model()
    net.zero_grad()
    out = net(**inputs)
    out.loss.backward()
    found = {name: parameter.grad for name, parameter in net.named_parameters()}
    net.zero_grad()
    return out.logits.detach(), found


def test_grouped_rows_equal_both_experts_and_a_choice(monkeypatch):
    inputs = inputs_of("batch2")
    logits, gradients = trained_step(inputs)
    monkeypatch.setattr(decoder, "Routing", ComputeBoth)
    slow_logits, slow_gradients = trained_step(inputs)
    close(logits, slow_logits, 2e-5)
    for name, gradient in slow_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("pattern", [[0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
def test_every_row_goes_through_its_expert(pattern):
    is_vision = torch.tensor([pattern, pattern[::-1]]).bool()
    routing = Routing.of(is_vision)
    states = torch.arange(20.0).view(2, 5, 2)
    out = routing.apply(states, lambda rows: rows + 100, lambda rows: -rows)
    assert out.equal(torch.where(is_vision[..., None], -states, states + 100))
    assert len(routing.vision) + len(routing.language) == 10


def test_without_a_picture_nothing_is_gathered(monkeypatch):
    assert Routing.of(torch.zeros(2, 5, dtype=torch.bool)) is None
    used: list[Tensor] = []
    monkeypatch.setattr(decoder.Routing, "of", classmethod(lambda cls, mask: used.append(mask)))
    model().generate(**inputs_of("text_only"), **GREEDY)
    assert [tuple(mask.shape) for mask in used] == [(1, 28)]  # prompt only: no token of the answer asks
    used.clear()
    with torch.no_grad():
        model()(input_ids=inputs_of("text_only")["input_ids"])
    assert used == []


def answers(inputs, attention: str = "eager", **options) -> list[list[int]]:
    out = model(attention).generate(**inputs, **GREEDY | options)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_a_left_padded_batch_equals_its_rows(attention, options):
    alone = [answers(inputs_of(case), attention, **options)[0] for case in CASES]
    rows = [inputs_of(case) for case in CASES]
    width = max(row["input_ids"].shape[1] for row in rows)
    batch = {
        name: torch.cat([torch.nn.functional.pad(row[name], (width - row[name].shape[1], 0)) for row in rows])
        for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    batch["pixel_values"] = torch.cat([row["pixel_values"] for row in rows if "pixel_values" in row])
    assert answers(batch, attention, **options) == alone
    assert len({tuple(row) for row in alone}) == len(CASES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static", "disable_compile": True},
        {"prefill_chunk_size": 7},
        {"use_cache": False},
    ],
    ids=["static", "chunked", "none"],
)
def test_any_cache_equals_the_usual(case, options):
    assert answers(inputs_of(case), "sdpa", **options) == answers(inputs_of(case), "sdpa")


@pytest.mark.parametrize("case", CASES)
def test_the_engine_equals_generate(case):
    """The engine reads the prompt in chunks that cut the picture, and gathers or shares keys as it likes."""
    inputs = inputs_of(case)
    sampling = Sampling(max_tokens=8, temperature=0.0)
    for attention in ATTENTION:
        for chunk in (1, 7, 256):
            engine = Engine(model(attention), block=4, chunk=chunk, idle_chunk=chunk, native=False)
            for _ in range(2):  # the second time from what is stored
                assert list(engine.stream(inputs, sampling, ())) == answers(inputs)[0]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_steps_on_a_cache_alone(case):
    """Given nothing but the next token, positions follow from the cache."""
    inputs, net = inputs_of(case), model()
    past = DynamicCache(config=net.config.get_text_config())
    out, said = net(**inputs, past_key_values=past), []
    for _ in range(8):
        said.append(int(out.logits[0, -1].argmax()))
        out = net(input_ids=torch.tensor([said[-1:]]), past_key_values=past)
    assert said == answers(inputs)[0]


@torch.no_grad()
def test_a_prompt_in_pieces_that_cut_the_picture():
    inputs, net = inputs_of("chat_two_turn"), model()
    types, slots = inputs["token_type_ids"], net.get_image_features(inputs["pixel_values"]).pooler_output
    embedded = net.model.embed(inputs["input_ids"], types, slots)
    columns = (embedded, rotary_positions(types), vision_experts(types))
    past, pieces = None, []
    for piece, positions, experts in zip(*(column.split(7, dim=1) for column in columns), strict=True):
        out = net(
            inputs_embeds=piece,
            position_ids=positions,
            vision_expert_mask=experts,
            past_key_values=past,
            use_cache=True,
        )
        past = out.past_key_values
        pieces.append(out.logits)
    close(torch.cat(pieces, dim=1), recorded()["chat_two_turn/logits"], 6e-5)


@torch.no_grad()
def test_another_turn_on_the_cache_of_the_first():
    """Positions go on where the patches left them, and the picture is not looked at again."""
    inputs, net = inputs_of("chat_two_turn"), model()
    early = {name: inputs[name][:, :30] for name in ("input_ids", "token_type_ids")}
    past = net(**early, pixel_values=inputs["pixel_values"], use_cache=True).past_key_values
    late = {name: inputs[name][:, 30:] for name in ("input_ids", "token_type_ids")}
    out = net(**late, pixel_values=inputs["pixel_values"], past_key_values=past)
    assert out.image_hidden_states is None
    close(out.logits, recorded()["chat_two_turn/logits"][:, 30:], 6e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_nothing(side):
    inputs = inputs_of("vqa")
    pad = (5, 0) if side == "left" else (0, 5)
    wide = {
        name: torch.nn.functional.pad(inputs[name], pad)
        for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    logits = model()(**wide, pixel_values=inputs["pixel_values"]).logits
    kept = logits[:, 5:] if side == "left" else logits[:, :-5]
    close(kept, recorded()["vqa/logits"], 6e-5)


def test_gradient_checkpointing_changes_nothing():
    net = CogVLMForConditionalGeneration(CogVLMConfig.from_published(published_config())).train()
    inputs = inputs_of("batch2")

    def step() -> list[Tensor]:
        net.zero_grad()
        net(**inputs, use_cache=False).loss.backward()
        return [parameter.grad.clone() for parameter in net.parameters()]

    plain = step()
    net.activation_checkpointing_enable()
    for ours, theirs in zip(step(), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_decoding_step_compiles_into_one_graph():
    net, inputs = model("sdpa"), inputs_of("chat")
    past = net(**inputs, use_cache=True).past_key_values
    step = {"input_ids": torch.tensor([[7]]), "position_ids": torch.tensor([[14]])}
    import copy

    plain = net(**step, past_key_values=copy.deepcopy(past)).logits
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    close(compiled(**step, past_key_values=past).logits, plain, 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs: inputs.pop("pixel_values"), "marks 18 picture positions and the pictures give 0"),
        (
            lambda inputs: inputs.update(pixel_values=inputs["pixel_values"].repeat(2, 1, 1, 1)),
            "marks 18 picture positions and the pictures give 36",
        ),
        (lambda inputs: inputs.pop("token_type_ids"), "pictures need token_type_ids"),
        (
            lambda inputs: inputs.update(pixel_values=inputs["pixel_values"][0]),
            r"takes \(pictures, 3, 56, 56\)",
        ),
        (lambda inputs: inputs.update(pixel_values=inputs["pixel_values"][..., 1:]), r"\(1, 3, 56, 55\)"),
        (lambda inputs: inputs.update(inputs_embeds=torch.zeros(1, 29, 64)), "not both and not neither"),
        (lambda inputs: inputs.update(images=[[inputs["pixel_values"][0]]]), "two names for one thing"),
    ],
)
def test_pictures_that_do_not_match_the_prompt(change, message):
    inputs = inputs_of("chat")
    change(inputs)
    with pytest.raises(InputError, match=message):
        model()(**inputs)
