"""Native decode inside the engine: every family's trunk answers as it does with PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.equality.engine_cases import SAMPLINGS, alone, model, prompt, rest
from tests.equality.native_cases import distance, ensure_built, tiny_llama
from tests.parity import golden_cogvlm, golden_llava
from transformers import DynamicCache

from beholder.core.errors import ConfigError
from beholder.families.cogvlm.rotary import rotary_tables
from beholder.generation.engine import Engine
from beholder.generation.native.decode import NativeDecode
from beholder.generation.native.formats import Packing
from beholder.generation.native.memory import KeyValues
from beholder.generation.native.parts import LayerParts, TrunkParts, parts_of
from beholder.generation.native.trunk import PackedTrunk

ensure_built()
GREEDY = 16


def engine_with(native: NativeDecode, **more: Any) -> Engine:
    """An engine whose rows that answer are run natively."""
    engine = Engine(native.model, **more)
    runner = engine._steps.runner

    def answer(prompts: Sequence[Any], tables: Sequence[Any]) -> torch.Tensor:
        native.is_ready()
        starts = [len(one.ids) - 1 for one in prompts]
        positions = [one.position(start) for one, start in zip(prompts, starts, strict=True)]
        return native.answer([one.ids[-1] for one in prompts], positions, tables, starts, runner.store)

    runner.answer = answer
    return engine


@pytest.mark.parametrize("sampling", range(len(SAMPLINGS)))
def test_requests_together_are_answered_as_alone(sampling):
    """Three conversations at once, two of them about one picture, in blocks that are shared."""
    engine = engine_with(NativeDecode(model(), Packing("float32"), threads=2), block=4)
    names = ("cc", "turn2", "text", "cc")
    requests = [engine.submit(prompt(name), SAMPLINGS[sampling]) for name in names]
    assert [rest(request) for request in requests] == [alone(name, sampling) for name in names]


def llama_of(kind: str) -> Any:
    return golden_llava.model_of(kind, "sdpa")


def greedy(model: Any, cache: Any, token: int, position: int) -> list[int]:
    """By the model itself, over its cache."""
    found = []
    for step in range(GREEDY):
        ids, at = torch.tensor([[token]]), torch.tensor([[position + step]])
        token = int(
            model(input_ids=ids, position_ids=at, past_key_values=cache, use_cache=True)
            .logits[0, -1]
            .argmax()
        )
        found.append(token)
    return found


def native_greedy(trunk: PackedTrunk, cache: Any, token: int, position: int) -> list[int]:
    """By the packed trunk, over a copy of the cache with room for what comes."""
    layers = []
    for layer in cache.layers:
        room = torch.zeros((layer.keys.shape[1], GREEDY, layer.keys.shape[3]))
        layers.append((torch.cat([layer.keys[0], room], 1), torch.cat([layer.values[0], room], 1)))
    length, memory, found = cache.get_seq_length(), KeyValues(layers), []
    for step in range(GREEDY):
        scores = trunk.step([token], [position + step], memory, [[(0, length + step + 1)]])
        token = int(scores[0].argmax())
        found.append(token)
    return found


@torch.no_grad()
def read(model: Any, inputs: dict[str, Any]) -> tuple[Any, int]:
    """The cache after a prompt, and the token that comes next."""
    cache = DynamicCache()
    outputs = model(**inputs, past_key_values=cache, use_cache=True)
    return cache, int(outputs.logits[0, -1].argmax())


def cogvlm_parts(model: Any) -> TrunkParts:
    """What this decoder runs once pictures are read: the language expert of every layer."""
    decoder, config = model.get_decoder(), model.config.get_text_config()

    def rotary(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tables = rotary_tables(positions[None], config.head_dim, config.rope_base, config.rotary_tables)
        cosines, sines = (table.to(model.dtype)[0, :, : config.head_dim // 2] for table in tables)
        return cosines, sines

    layers = []
    for layer in decoder.layers:
        attention, mlp = layer.self_attn.language_expert, layer.mlp.language_expert
        linears = [getattr(attention, f"{name}_proj") for name in "qkvo"]
        linears += [getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")]
        layers.append(LayerParts(*linears, layer.input_layernorm, layer.post_attention_layernorm))
    heads = config.num_attention_heads
    return TrunkParts(
        decoder.embed_tokens, tuple(layers), decoder.norm, model.lm_head, heads, heads, config.head_dim,
        config.rms_norm_eps, rotary,
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("case", ["chat", "text_only"])
def test_cogvlm_goes_on_with_its_language_experts(case):
    cogvlm = golden_cogvlm.model("sdpa")
    given = {name: tensor for name, tensor in golden_cogvlm.inputs_of(case).items() if name != "labels"}
    parts = cogvlm_parts(cogvlm)
    parts.check()
    cache, token = read(cogvlm, given)
    position = int(cache.get_seq_length() - cache.saved_positions)
    wanted_from = native_greedy(PackedTrunk(parts, Packing("float32"), threads=2), cache, token, position)
    assert wanted_from == greedy(cogvlm, cache, token, position)


@pytest.mark.parametrize("kind", ["llava"])
def test_rows_without_a_token_are_never_said(kind):
    """Their scores are minus infinity, as in the model's forward."""
    llava = llama_of(kind)
    native = NativeDecode(llava, Packing("float32"), threads=1)
    used = llava.config.used_rows
    assert used < native.trunk.parts.vocabulary
    scores = native._as_model(torch.zeros(1, native.trunk.parts.vocabulary))
    assert scores[0, used:].eq(-torch.inf).all()
    assert scores[0, :used].isfinite().all()


def test_a_model_that_does_more_than_its_trunk_is_refused(caplog):
    """The proof looks at scores, so whatever it is that a model does with them is found."""
    llama = tiny_llama()

    class Scaled(type(llama)):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            outputs = super().forward(*args, **kwargs)
            outputs.logits = outputs.logits * 0.9
            return outputs

    llama.__class__ = Scaled
    with pytest.raises(ConfigError, match="Scaled does more than its trunk"):
        NativeDecode.open(llama, True)
    with caplog.at_level(logging.INFO, "beholder"):
        assert NativeDecode.open(llama, "auto") is None
    assert "decode stays with PyTorch, which takes longer per token: Scaled does more than" in caplog.text


@pytest.mark.parametrize("chunk", [5, 256])
def test_prompts_in_bytes_are_read_natively(chunk):
    """With pictures, in pieces, beside others: near what the model itself would say next."""
    engine = Engine(model(), native="int8", idle_chunk=chunk, chunk=chunk, block=4)
    runner = engine._steps.runner
    seen: list[torch.Tensor] = []
    read = runner.read

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(read(*args, **kwargs))
        return seen[-1]

    runner.read = watched
    rest(engine.submit(prompt("cc"), SAMPLINGS[0]))
    told = model()(**prompt("cc")).logits[0, -1].detach()
    assert runner.native is not None
    assert runner.native.reads(1000)
    assert distance(seen[-1][0], told) < 0.1


@pytest.mark.parametrize("native", ["float32", "int8"])
@pytest.mark.parametrize("count", [3, 40])
def test_short_ends_are_read_natively_and_long_prompts_by_the_model(native, count, monkeypatch):
    """In bytes all of them; either way nothing of the other way's is missing from the memory."""
    llama = tiny_llama()
    engine, lengths = Engine(llama, native=native, prefix_cache=False), list[int]()
    forward = type(llama).forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(llama), "forward", counted)
    request = engine.submit({"input_ids": torch.arange(count)[None]}, SAMPLINGS[0])
    got = rest(request)
    assert lengths == ([40] if native == "float32" and count == 40 else [])
    if native == "float32":
        wanted = Engine(llama, native=False).submit({"input_ids": torch.arange(count)[None]}, SAMPLINGS[0])
        assert got == rest(wanted)


@pytest.mark.parametrize(("choice", "told"), [("int5", "native is 'int5'; use True, False, auto or one of")])
def test_unknown_choices_are_refused(choice, told):
    with pytest.raises(ConfigError, match=told):
        NativeDecode.open(tiny_llama(), choice)


def test_choices():
    llama = tiny_llama()
    assert NativeDecode.open(llama, False) is None
    for choice, weights in ((True, "float32"), ("auto", "float32"), ("int8", "int8")):
        opened = NativeDecode.open(llama, choice, threads=1)
        assert opened is not None
        assert opened.packing.weights == weights


def test_auto_leaves_room(monkeypatch, caplog):
    monkeypatch.setattr("beholder.generation.native.decode.device_memory", lambda device: 10**6)
    with caplog.at_level(logging.INFO, "beholder"):
        assert NativeDecode.open(tiny_llama(), "auto", kv_memory=10**6) is None
    assert "do not fit beside" in caplog.text


def test_other_formats_are_near_on_the_golden_model():
    """Real towers and projectors before it; the bound is the format's, with room."""
    golden = model()
    cache, token = read(golden, prompt("cc"))
    position = cache.get_seq_length()
    wanted = golden(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits[0, -1]
    for weights, bound in (("bfloat16", 0.05), ("int8", 0.1)):
        layers = [(layer.keys[0].contiguous(), layer.values[0].contiguous()) for layer in cache.layers]
        trunk = PackedTrunk(parts_of(golden), Packing(weights), threads=1)
        scores = trunk.step([token], [position], KeyValues(layers), [[(0, position + 1)]])
        assert distance(scores[0], wanted.detach()) < bound


def test_of_a_small_trunk_no_prompt_is_read_natively(monkeypatch):
    """Else the last bits of an answer would depend on how much of its prompt was known already."""
    runner = Engine(tiny_llama(), native="bfloat16")._steps.runner
    assert runner.native is not None
    assert runner.native.reads(3)
    monkeypatch.setattr("beholder.generation.native.decode.SMALL_TRUNK", runner.native.bytes + 1)
    assert not runner.native.reads(3)
