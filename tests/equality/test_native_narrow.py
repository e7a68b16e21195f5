"""A model stored in 8 or 4 bits decodes as the dense one packed so, and there is one copy of its weights."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.equality.engine_cases import SAMPLINGS, rest
from tests.equality.engine_subjects import SUBJECTS
from tests.equality.native_cases import ensure_built, tiny_llama
from tests.unit.test_narrow_checkpoints import FOLDERS

from beholder.checkpoints.loader import open_model
from beholder.checkpoints.narrow import Choice, narrow_linears, put
from beholder.checkpoints.quantize import parameter_bytes
from beholder.checkpoints.writer import convert
from beholder.core.errors import ConfigError
from beholder.core.narrow_linear import NarrowLinear
from beholder.families import identify_folder
from beholder.generation import packed
from beholder.generation.engine import Engine
from beholder.generation.native import library as native
from beholder.generation.native import loans
from beholder.generation.native.decode import NativeDecode
from beholder.generation.native.formats import Packing, plan
from beholder.generation.native.parts import parts_of
from beholder.generation.native.trunk import PackedTrunk
from beholder.generation.packed import PackedWeights

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
ensure_built()
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
INPUTS = {"input_ids": IDS}


@pytest.fixture(scope="module")
def narrow_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A golden in our layout, quantized."""

    def folder(name: str, weights: str) -> Path:
        target = tmp_path_factory.mktemp("narrow") / f"{name}-{weights}"
        convert(FOLDERS[name], target, identify_folder(FOLDERS[name]), "ours", quantize=Choice(weights))
        return target

    return folder


def opened(folder: Path, **more: Any) -> Any:
    return open_model(folder, identify_folder(folder), device="cpu", dtype="float32", **more)


def answers(engine: Engine, name: str, prompts: tuple[str, ...]) -> list[tuple[int, ...]]:
    subject = SUBJECTS[name]
    return [tuple(engine.stream(subject.prompt(prompt), SAMPLINGS[0])) for prompt in prompts]


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("name", FOLDERS)
def test_it_says_what_the_dense_model_says_packed_so(name, weights, narrow_folder):
    """CogVLM's prompts with pictures are read by PyTorch: with dense weights there, and narrow ones here."""
    prompts = ("text_only",) if name == "cogvlm" else SUBJECTS[name].names
    wanted = answers(Engine(opened(FOLDERS[name]), native=weights), name, prompts)
    folder = narrow_folder(name, weights)
    engine = Engine(opened(folder))
    assert engine.stats().decode == f"native ({weights}, {native.status().levels[0]})"
    assert answers(engine, name, prompts) == wanted
    assert answers(Engine(opened(FOLDERS[name], quantize=weights)), name, prompts) == wanted
    everything = SUBJECTS[name].names
    slow = Engine(opened(folder), native=False)
    assert slow.stats().decode == "pytorch"
    assert all(len(one) > 0 for one in answers(slow, name, everything) + answers(engine, name, everything))


def narrow_llama(weights: str = "int4", group: int = 32, **changes: Any) -> Any:
    """A small random trunk, made narrow."""
    model = tiny_llama(**changes)
    for name, is_head in narrow_linears(model).items():
        form = Choice(weights, group).narrow(is_head=is_head)
        linear: Any = model.get_submodule(name)
        put(model, name, NarrowLinear.of(linear, form))
    return model


def said(engine: Engine) -> tuple[int, ...]:
    """The greedy answer, without what was stored before."""
    engine._steps.scheduler.forget()
    return rest(engine.submit(INPUTS, SAMPLINGS[0]))


def trunk_of(engine: Engine) -> PackedTrunk:
    """What the engine decodes with."""
    assert engine._steps.runner.native is not None
    return engine._steps.runner.native.trunk


def codes_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


@pytest.mark.parametrize(
    ("weights", "group", "changes"),
    [
        ("int8", 64, {}),
        ("int4", 32, {}),
        ("int4", 64, {}),
        ("int4", 128, {"hidden_size": 40, "intermediate_size": 50, "vocab_size": 45}),
        ("int8", 64, {"hidden_size": 40, "intermediate_size": 53, "vocab_size": 45}),
        ("int4", 32, {"intermediate_size": 53, "attention_bias": True, "mlp_bias": True}),
    ],
)
def test_packing_its_codes_is_packing_the_dense_weights(weights, group, changes):
    dense, narrow = tiny_llama(**changes), narrow_llama(weights, group, **changes)
    packing = Packing(weights, group)
    one, other = (PackedTrunk(parts_of(model), packing, threads=2) for model in (dense, narrow))
    shape = parts_of(dense)
    sizes = {
        native.ENTER: (shape.heads + 2 * shape.key_heads) * shape.head_width,
        native.LEAVE: shape.hidden,
        native.WIDEN: 2 * shape.inner // 32 * 32,
        native.NARROW: shape.hidden,
    }
    for layer in range(2):
        for part, rows in sizes.items():
            columns = {native.LEAVE: shape.heads * shape.head_width, native.NARROW: shape.inner}
            wide = columns.get(part, shape.hidden)
            assert torch.equal(
                one.unpacked(layer, part, range(rows), wide), other.unpacked(layer, part, range(rows), wide)
            )
    rows = range(shape.vocabulary)
    assert torch.equal(
        one.unpacked(0, native.HEAD, rows, shape.hidden), other.unpacked(0, native.HEAD, rows, shape.hidden)
    )
    assert one.packed_bytes == other.packed_bytes == plan(parts_of(narrow), packing).packed


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("native_choice", ["auto", True, "own"])
def test_there_is_one_copy(weights, native_choice):
    model = narrow_llama(weights)
    linears = [module for module in model.modules() if isinstance(module, NarrowLinear)]
    moved, before, held = sum(one.narrow_bytes for one in linears), codes_of(model), parameter_bytes(model)
    with torch.no_grad():
        scores = model(IDS).logits
    engine = Engine(model, native=weights if native_choice == "own" else native_choice)
    assert engine.stats().decode.startswith(f"native ({weights}")
    assert parameter_bytes(model) == held - moved
    assert all(one.codes is None and one.scales is None for one in linears)
    trunk = trunk_of(engine)
    assert (trunk.plan.moved, trunk.plan.dense) == (moved, 0)
    assert engine.stats().native_bytes == trunk.plan.packed < 1.5 * moved  # small matrices are filled up
    wanted = said(engine)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, scores)  # PyTorch unpacks what it needs
    assert same(codes_of(model), before)
    assert same(codes_of(copy.deepcopy(model)), before)
    assert said(engine) == wanted
    engine.close()
    assert parameter_bytes(model) == held
    assert same({name: one.detach() for name, one in model.named_parameters()}, before)
    assert engine.stats().native_bytes == 0
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, scores)


def test_beside_narrow_weights_dense_ones_have_second_copies_where_memory_is_large(monkeypatch):
    narrow = narrow_llama("int4").bfloat16()
    assert PackedWeights(narrow, None).limit == 0
    beside = torch.nn.ModuleList([narrow, torch.nn.Linear(64, 64, dtype=torch.bfloat16)])
    held = sum(parameter.nbytes for parameter in beside.parameters())
    needed = beside[1].weight.nbytes
    assert PackedWeights(beside, None).limit == needed
    monkeypatch.setattr(packed, "device_memory", lambda _: 5 * (held + needed) - 5)
    assert PackedWeights(beside, None).limit == 0
    assert PackedWeights(beside, 2**20).limit == 2**20
    assert PackedWeights(beside[1], None).limit > 0  # without narrow weights there may be more


def test_of_a_large_trunk_packing_takes_what_the_codes_took():
    """Rows and columns of whole blocks: nothing is filled up."""
    model = narrow_llama("int4", 64, hidden_size=128, intermediate_size=256, vocab_size=128)
    trunk = PackedTrunk(parts_of(model), Packing("int4"), threads=1)
    assert trunk.packed_bytes == trunk.plan.moved


def test_a_trunk_that_is_only_looked_at_takes_nothing_over():
    model = narrow_llama()
    PackedTrunk.of(model, "int4", group=32, threads=1)
    assert all(one.keeper is None for one in model.modules() if isinstance(one, NarrowLinear))


def test_weights_outlive_the_engine_that_nobody_closed():
    model = narrow_llama()
    before = codes_of(model)
    wanted = said(Engine(model))
    gc.collect()
    assert same(codes_of(model), before)
    assert said(Engine(model)) == wanted


def test_two_engines_may_share_a_model():
    model = narrow_llama()
    one, other = Engine(model), Engine(model)
    wanted = said(one)
    trunks = [trunk_of(one), trunk_of(other)]
    assert said(other) == wanted == said(one)
    assert [trunk_of(one), trunk_of(other)] == trunks
    one.close()
    assert said(other) == wanted
    other.close()
    assert said(Engine(model, native=False)) is not None


@pytest.mark.parametrize("choice", ["auto", True])
def test_other_weights_are_packed_again(choice, caplog):
    model, other = narrow_llama(), narrow_llama(seed=5)
    engine = Engine(model, native=choice)
    before = said(engine)
    wanted = said(Engine(other))
    assert before != wanted
    state = codes_of(other)
    with caplog.at_level("INFO", "beholder"):
        model.load_state_dict(state)
        assert said(engine) == wanted
    assert "the packed weights are made again: weights were changed" in caplog.text
    assert all(one.codes is None for one in model.modules() if isinstance(one, NarrowLinear))
    engine.forget()
    assert said(engine) == wanted
    model.float()  # moves take the weights back
    with caplog.at_level("INFO", "beholder"):
        assert said(engine) == wanted
    assert same(codes_of(model), state)


def test_changes_are_seen_by_the_engine_that_borrowed_nothing():
    model, other = narrow_llama(), narrow_llama(seed=5)
    engines = [Engine(model), Engine(model)]
    before = [said(engine) for engine in engines]
    model.load_state_dict(codes_of(other))
    after = [said(engine) for engine in engines]
    assert after[0] == after[1] == said(Engine(other))
    assert before[0] == before[1] != after[0]


def test_a_model_that_cannot_be_packed_any_more_has_its_weights_again(caplog):
    model = narrow_llama()
    engine = Engine(model)
    said(engine)
    layer = model.model.layers[0].mlp
    layer.up_proj = torch.nn.Linear(64, 152, bias=False)
    with caplog.at_level("INFO", "beholder"):
        after = said(engine)
    assert (
        "decode goes back to PyTorch: some linears of the language model are dense and some narrow"
        in caplog.text
    )
    assert engine.stats().native_bytes == 0
    assert all(one.keeper is None for one in model.modules() if isinstance(one, NarrowLinear))
    assert after == said(Engine(model, native=False))


@pytest.mark.parametrize("choice", ["int8", "float32"])
def test_another_form_than_it_has_is_refused(choice):
    model = narrow_llama("int4")
    told = r"weights are int4 already .groups of 32, the head int8., and cannot be packed as "
    with pytest.raises(ConfigError, match=f"{told}{choice} .*leave native out, or load the dense model"):
        NativeDecode.open(model, choice)
    with pytest.raises(ConfigError, match=told):
        PackedTrunk.of(model, choice, threads=1)
    assert all(one.keeper is None for one in model.modules() if isinstance(one, NarrowLinear))


def test_failing_in_the_middle_gives_everything_back(monkeypatch):
    model = narrow_llama()
    before = codes_of(model)
    real = PackedTrunk._put_norm

    def fails(self: Any, layer: int, which: int, norm: Any) -> None:
        if layer == 1:
            raise MemoryError("no more")
        real(self, layer, which, norm)

    monkeypatch.setattr(PackedTrunk, "_put_norm", fails)
    assert NativeDecode.open(model, "auto") is None
    assert same({name: one.detach() for name, one in model.named_parameters()}, before)


def test_the_memory_rule_counts_codes_once(monkeypatch):
    """In memory already, they leave as much as they come with; else nothing but the packed ones is taken."""
    model = narrow_llama("int4", 64, hidden_size=128, intermediate_size=256, vocab_size=128)
    held, packed = parameter_bytes(model), plan(parts_of(model), Packing("int4")).packed
    for free, fits in ((packed // 2, True), (0, False)):
        monkeypatch.setattr("beholder.generation.native.decode.device_memory", lambda device: 100 * held)
        monkeypatch.setattr("beholder.generation.native.decode.own_memory", lambda: held)
        monkeypatch.setattr("beholder.generation.native.decode.free_memory", lambda free=free: free)
        opened_for = NativeDecode.open(model, "auto", threads=1)
        assert (opened_for is not None) == fits
        if opened_for is not None:
            opened_for.release()
    monkeypatch.setattr("beholder.generation.native.decode.free_memory", lambda: 100 * held)
    # Dense parts and the packed ones, and not the codes besides, are at most four fifths of all there is.
    together = held - plan(parts_of(model), Packing("int4")).moved + packed
    for have, fits in ((together / 0.79, True), (together / 0.81, False)):
        monkeypatch.setattr("beholder.generation.native.decode.device_memory", lambda device, have=have: have)
        opened_for = NativeDecode.open(model, "auto", threads=1)
        assert (opened_for is not None) == fits
        if opened_for is not None:
            opened_for.release()


def test_pages_of_a_mapped_file_are_let_go(tmp_path, monkeypatch):
    """What is in one is: memory of the process's own would be emptied."""
    from safetensors.torch import save_file

    save_file({"codes": torch.arange(2**16, dtype=torch.int32)}, tmp_path / "model.safetensors")
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        mapped = file.get_tensor("codes")
    own = torch.arange(2**16, dtype=torch.int32)
    loans.let_go((mapped, own))
    assert torch.equal(mapped, own)
    assert torch.equal(own, torch.arange(2**16, dtype=torch.int32))
    loans.let_go_of_files()
    assert torch.equal(mapped, own)
    mapped[3] = own[3] = -1  # what was changed is nowhere else
    loans.let_go_of_files()
    assert torch.equal(mapped, own)
    monkeypatch.setattr(loans, "MAPS", tmp_path / "nowhere")
    loans.let_go((mapped, own))
    assert torch.equal(mapped, own)
