"""Native decode is used where it may be and notices what would make it answer for another model."""

from __future__ import annotations

import gc
import logging
import os
from typing import Any

import pytest
import torch
from tests.equality.engine_cases import SAMPLINGS, rest
from tests.equality.native_cases import ensure_built, tiny_llama

from beholder.core.errors import ConfigError
from beholder.generation import packed
from beholder.generation.engine import Engine
from beholder.generation.native import decode, library
from beholder.generation.native.decode import NativeDecode
from beholder.generation.native.formats import Packing

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
ensure_built()
INPUTS = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10, 11]])}
LORA = {"r": 4, "lora_alpha": 64, "target_modules": ["q_proj", "up_proj"], "init_lora_weights": False}


def said(engine: Engine) -> tuple[int, ...]:
    """The greedy answer, without what was stored before."""
    engine._steps.scheduler.forget()
    return rest(engine.submit(INPUTS, SAMPLINGS[0]))


def slow(llama: Any) -> tuple[int, ...]:
    """The same by PyTorch alone."""
    return said(Engine(llama, native=False, prefix_cache=False))


def test_it_is_what_an_engine_does_where_nothing_else_is_asked_for(monkeypatch):
    monkeypatch.setattr(packed, "SMALLEST", {torch.float32: 1, torch.bfloat16: 1})
    stats = Engine(tiny_llama()).stats()
    assert stats.decode == f"native (float32, {library.status().levels[0]})"
    assert stats.native_bytes > 0
    asked = ({"direct": True}, {"direct": False}, {"native": False}, {"compile": "eager"})
    for other in (*asked, {"packed_memory": 2**20}, {"packed_memory": 0}):
        llama = tiny_llama()
        llama.config._attn_implementation = "sdpa"
        stats = Engine(llama, **other).stats()
        assert (stats.decode, stats.native_bytes) == ("pytorch", 0)


def test_without_the_library_everything_works_and_is_said(monkeypatch, caplog):
    llama = tiny_llama()
    wanted = said(Engine(llama))
    monkeypatch.setattr(library, "_found", lambda: "nobody compiled it")
    caplog.clear()
    with caplog.at_level(logging.INFO, "beholder"):
        engine = Engine(llama)
    assert said(engine) == wanted
    assert engine.stats().decode == "pytorch"
    told = [record.getMessage() for record in caplog.records if "native" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(
        "decode stays with PyTorch, which takes longer per token: native decode is not built: nobody compiled"
    )
    assert "build it with: python -m beholder.generation.native.build" in told[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_number_formats_stay_with_pytorch(dtype, caplog):
    with caplog.at_level(logging.INFO, "beholder"):
        assert NativeDecode.open(tiny_llama(dtype=dtype), "auto") is None
    assert f"this one is {dtype}" in caplog.text


def test_a_quantized_model_stays_with_pytorch(caplog):
    """Its linears are linears still; their weights are not plain numbers."""
    quantization = pytest.importorskip("torchao.quantization")
    llama = tiny_llama(dtype=torch.bfloat16)
    quantization.quantize_(llama.model.layers[1].mlp, quantization.Int8WeightOnlyConfig())
    with caplog.at_level(logging.INFO, "beholder"):
        assert NativeDecode.open(llama, "auto") is None
    assert "gate of layer 1 is a Linear of" in caplog.text


@pytest.mark.parametrize("native", ["auto", True])
@pytest.mark.parametrize(
    "change",
    [
        lambda llama: llama.model.layers[0].mlp.up_proj.weight.mul_(2),
        lambda llama: llama.model.layers[1].post_attention_layernorm.weight.mul_(-2),
        lambda llama: llama.model.norm.weight.copy_(torch.linspace(-2, 2, 64)),
        lambda llama: llama.lm_head.weight.data.mul_(-1),  # which PyTorch does not count
        lambda llama: setattr(llama.model.layers[1].self_attn.v_proj.weight, "data", torch.ones(32, 64)),
        lambda llama: llama.set_input_embeddings(torch.nn.Embedding(103, 64)),
        lambda llama: setattr(llama.model.layers[0].self_attn, "o_proj", torch.nn.Linear(64, 64, bias=False)),
    ],
    ids=["linear", "norm", "last norm", "around the count", "data", "embedding", "module"],
)
def test_changed_weights_are_packed_again(change, native, caplog):
    llama = tiny_llama()
    engine = Engine(llama, native=native)
    before = said(engine)
    first = engine._steps.runner.native.trunk
    with torch.no_grad():
        change(llama)
    with caplog.at_level(logging.INFO, "beholder"):
        after = said(engine)
    assert after == slow(llama)
    assert after != before
    assert engine._steps.runner.native.trunk is not first
    assert "the packed weights are made again: " in caplog.text
    second = engine._steps.runner.native.trunk
    assert said(engine) == after
    assert engine._steps.runner.native.trunk is second, "nothing has changed since"


def test_a_change_that_nobody_sees_is_told_by_forgetting():
    llama = tiny_llama()
    engine = Engine(llama)
    before = said(engine)
    first = engine._steps.runner.native.trunk
    looked_at = set(range(0, 64 * 64, 64 * 64 // 5))
    values = llama.model.layers[0].self_attn.q_proj.weight.data.view(-1)
    values[[index for index in range(64 * 64) if index not in looked_at]] *= -3
    said(engine)
    assert engine._steps.runner.native.trunk is first
    engine.forget()
    assert said(engine) == slow(llama) != before


def test_an_adapter_put_into_an_open_model_is_not_left_out(caplog):
    peft = pytest.importorskip("peft")
    llama = tiny_llama()
    engine, insisting = Engine(llama), Engine(llama, native=True)
    before = said(engine)
    adapted = peft.get_peft_model(llama, peft.LoraConfig(**LORA))
    with caplog.at_level(logging.INFO, "beholder"):
        after = said(engine)
    assert after == slow(llama) != before
    assert "decode goes back to PyTorch: query of layer 0 is a Linear of" in caplog.text
    assert (engine.stats().decode, engine.stats().native_bytes) == ("pytorch", 0)
    with pytest.raises(ConfigError, match="merge adapters first"):
        said(insisting)
    adapted.merge_and_unload()
    assert said(engine) == said(insisting) == slow(llama)


def test_a_merged_adapter_is_noticed_where_nobody_asked_meanwhile():
    """The modules are the old ones again and PyTorch counts no change."""
    peft = pytest.importorskip("peft")
    llama = tiny_llama()
    engine = Engine(llama)
    before = said(engine)
    peft.get_peft_model(llama, peft.LoraConfig(**LORA)).merge_and_unload()
    assert said(engine) == slow(llama) != before
    assert engine.stats().decode.startswith("native")


def test_who_listens_to_modules_is_heard(caplog):
    """A hook would not be called by native decode; when it is gone, decode is native again."""
    llama = tiny_llama()
    engine, seen = Engine(llama), list[int]()
    handle = llama.model.layers[0].mlp.register_forward_hook(
        lambda _, args, __: seen.append(args[0].shape[1])
    )
    with caplog.at_level(logging.INFO, "beholder"):
        assert said(engine) == slow(llama)
    assert seen[: len(SAMPLINGS) + 2] == [7, 1, 1, 1, 1, 1]
    assert "decode is PyTorch's while modules have hooks or another forward" in caplog.text
    handle.remove()
    seen.clear()
    said(engine)
    assert engine._steps.runner._is_native
    assert not seen


def test_a_forward_of_somebody_elses_is_called_from_the_beginning(caplog):
    llama = tiny_llama()
    mlp = llama.model.layers[1].mlp
    plain = mlp.forward
    mlp.forward = lambda states: -plain(states)
    with caplog.at_level(logging.INFO, "beholder"):
        engine = Engine(llama)
    assert engine.stats().decode == "pytorch"
    assert "which native decode would not call" in caplog.text
    assert said(engine) == slow(llama)


@pytest.mark.parametrize("which", ["device_memory", "free_memory"])
def test_auto_leaves_room(which, monkeypatch, caplog):
    """In all there is enough, or at the moment; where either is not, weights are not doubled."""
    monkeypatch.setattr(decode, which, lambda *_: 10**6)
    with caplog.at_level(logging.INFO, "beholder"):
        assert NativeDecode.open(tiny_llama(), "auto", kv_memory=8 * 10**5) is None
    assert "do not fit beside" in caplog.text
    opened = NativeDecode.open(tiny_llama(), True, kv_memory=8 * 10**5)
    assert opened is not None, "who asks for it gets it"


def test_weights_that_are_only_mapped_are_counted(monkeypatch):
    """Four times what the packed copy takes is free, and the model itself is still to be read."""
    llama = tiny_llama()
    held = sum(weight.nbytes for weight in llama.parameters())
    monkeypatch.setattr(decode, "free_memory", lambda: 2 * held)
    monkeypatch.setattr(decode, "own_memory", lambda: 10 * held)
    assert NativeDecode.open(llama, "auto") is not None
    monkeypatch.setattr(decode, "own_memory", lambda: 0)
    assert NativeDecode.open(llama, "auto") is None


def test_closing_gives_the_memory_back():
    engine = Engine(tiny_llama())
    said(engine)
    trunk = engine._steps.runner.native.trunk
    release = trunk._release
    engine.close()
    assert engine.stats().native_bytes == 0
    del trunk
    gc.collect()
    assert not release.alive


def test_a_forked_process_goes_on_with_pytorch(monkeypatch, caplog):
    """Threads do not come along; here the number of the process is what changes."""
    llama = tiny_llama()
    engine, insisting = Engine(llama), NativeDecode(llama, Packing("float32"), threads=1)
    wanted, number = said(engine), os.getpid() + 1
    monkeypatch.setattr(decode.os, "getpid", lambda: number)
    with caplog.at_level(logging.INFO, "beholder"):
        assert said(engine) == wanted
    assert "decode goes back to PyTorch: native decode cannot go on in a forked process" in caplog.text
    with pytest.raises(ConfigError, match="open the model in that one"):
        insisting.is_ready()
