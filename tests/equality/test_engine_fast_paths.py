"""Each way to compute less gives what the plain way gives: folded heads, packed weights, fixed shapes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.equality.engine_cases import BLOCK, LENGTH, PROMPTS, SAMPLINGS, alone, memory, model, prompt, rest
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from beholder.core.errors import ConfigError
from beholder.core.types import Sampling
from beholder.generation import attention, packed
from beholder.generation.attention import folded
from beholder.generation.engine import Engine
from beholder.generation.fused import FusedLinears
from beholder.generation.packed import PackedWeights, is_available
from beholder.generation.sampling import Largest

# Beside the logits' own bound: a log-probability is a difference of two of them.
LOGPROB_TOLERANCE = 1e-4
needs_onednn = pytest.mark.skipif(
    not is_available(torch.float32), reason="this PyTorch computes no linear layer from a packed weight"
)


def together(engine: Engine, sampling: Sampling = SAMPLINGS[0]) -> list[tuple[int, ...]]:
    """The answers to all prompts, side by side."""
    return [rest(request) for request in [engine.submit(prompt(name), sampling) for name in PROMPTS]]


def scores(engine: Engine) -> Tensor:
    """Log-probabilities of the likeliest tokens of greedy answers to all prompts, side by side."""
    requests = [engine.submit(prompt(name), Sampling(max_tokens=6, logprobs=4)) for name in PROMPTS]
    for request in requests:
        rest(request)
    return torch.tensor([[pair[1] for one in r.scores for pair in one.likeliest] for r in requests])


@pytest.fixture
def everything_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also matrices that are too small to gain by it."""
    monkeypatch.setattr(packed, "SMALLEST", {torch.float32: 1, torch.bfloat16: 1})


@pytest.mark.parametrize(("heads", "groups"), [(4, 1), (4, 2), (12, 3), (8, 1), (3, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_folded_heads_are_repeated_keys(heads, groups, masked):
    numbers = torch.Generator().manual_seed(heads)
    rows, length, width = 3, 17, 16
    query = torch.randn((rows, heads, 1, width), generator=numbers)
    key, value = torch.randn((2, rows, groups, length, width), generator=numbers)
    mask = None
    if masked:
        mask = (torch.arange(length)[None] < torch.tensor([17, 5, 1])[:, None])[:, None, None]
    repeated = [one.repeat_interleave(heads // groups, dim=1) for one in (key, value)]
    wanted = scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(folded(query, key, value, mask, 0.3), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("direct", [True, False])
def test_no_decode_step_asks_the_attention_that_repeats(direct, monkeypatch: pytest.MonkeyPatch):
    engine = Engine(model(), block=BLOCK, direct=direct)
    requests = [engine.submit(prompt(name), SAMPLINGS[0]) for name in PROMPTS]
    while any(not request.ids for request in requests):
        engine.step()

    def repeating(*_args, **_kwargs):
        raise AssertionError("keys are repeated")

    monkeypatch.setattr(attention, "sdpa_attention_forward", repeating)
    assert [rest(request) for request in requests] == [alone(name) for name in PROMPTS]


@needs_onednn
@pytest.mark.usefixtures("everything_is_packed")
@pytest.mark.parametrize("direct", [True, False])
def test_packed_weights_give_the_answers_of_the_layers(direct):
    plain = Engine(model(), block=BLOCK, packed_memory=0, native=False)
    fast = Engine(model(), block=BLOCK, direct=direct)
    assert together(fast) == together(plain) == [alone(name) for name in PROMPTS]
    assert together(fast, SAMPLINGS[2]) == [alone(name, 2) for name in PROMPTS]
    torch.testing.assert_close(scores(fast), scores(plain), rtol=0, atol=LOGPROB_TOLERANCE)
    assert plain.stats().packed_weights == 0
    assert fast.stats().packed_weights > 10
    assert fast.stats().packed_bytes > 0
    fast.close()
    assert fast.stats().packed_bytes == 0


@needs_onednn
@pytest.mark.skipif(not is_available(torch.bfloat16), reason="no bfloat16 kernels on this processor")
def test_in_bfloat16_a_packed_weight_changes_nothing():
    layer = torch.nn.Linear(96, 160, dtype=torch.bfloat16)
    weights = PackedWeights(torch.nn.Sequential(layer), layer.weight.nbytes)
    for rows in (1, 2, 7, 16, 50):
        states = torch.randn((rows, 1, 96), generator=torch.Generator().manual_seed(rows)).bfloat16()
        with torch.inference_mode():
            wanted = layer(states)
            with weights.used("all", pack=True):
                assert torch.equal(layer(states), wanted)
    assert weights.count == 1


@needs_onednn
@pytest.mark.usefixtures("everything_is_packed")
def test_changed_weights_are_packed_again():
    layer = torch.nn.Linear(8, 8)
    weights = PackedWeights(torch.nn.Sequential(layer), layer.weight.nbytes)
    states = torch.randn((2, 8), generator=torch.Generator().manual_seed(0))

    def both() -> tuple[Tensor, Tensor]:
        with torch.inference_mode(), weights.used("all", pack=True):
            fast = layer(states)
        with torch.inference_mode():
            return fast, layer(states)

    for change in (
        lambda: None,
        lambda: layer.weight.add_(1.0),
        lambda: setattr(layer.weight, "data", torch.ones(8, 8)),
        lambda: setattr(layer, "weight", torch.nn.Parameter(torch.full((8, 8), 3.0))),
    ):
        with torch.no_grad():
            change()
        torch.testing.assert_close(*both(), rtol=0, atol=1e-5)
    assert (weights.count, weights.bytes) == (1, layer.weight.nbytes)


@needs_onednn
@pytest.mark.usefixtures("everything_is_packed")
def test_outside_a_step_layers_are_their_own_and_train():
    engine = Engine(model(), block=BLOCK, native=False)
    together(engine)
    layers = [module for module in model().modules() if isinstance(module, torch.nn.Linear)]
    assert not any("forward" in layer.__dict__ for layer in layers)
    layer = torch.nn.Linear(4, 4)
    with PackedWeights(torch.nn.Sequential(layer), 10**6).used("all", pack=True):  # another thread's step
        layer(torch.ones(1, 4)).sum().backward()
    assert layer.weight.grad is not None


@needs_onednn
@pytest.mark.usefixtures("everything_is_packed")
def test_layers_of_another_part_are_left_alone():
    """What never ran with a part's name computes as ever there, however often the part runs."""
    one, other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    weights = PackedWeights(torch.nn.ModuleList([one, other]), None)
    states = torch.ones(2, 4)
    with torch.inference_mode():
        for _ in range(2):
            with weights.used("first", pack=True):
                one(states)
        assert weights.count == 1
        with weights.used("first", pack=True):
            assert "forward" in one.__dict__
            assert "forward" not in other.__dict__
            torch.testing.assert_close(
                other(states), torch.nn.functional.linear(states, other.weight, other.bias)
            )
        with weights.used("second", pack=True):
            other(states)
    assert weights.count == 2


@needs_onednn
@pytest.mark.usefixtures("everything_is_packed")
def test_copies_keep_to_their_memory():
    most = 20_000
    engine = Engine(model(), block=BLOCK, packed_memory=most)
    assert together(engine) == [alone(name) for name in PROMPTS]
    assert 0 < engine.stats().packed_bytes <= most
    engine.forget()
    assert engine.stats().packed_bytes == 0


@needs_onednn
@pytest.mark.usefixtures("everything_is_packed")
def test_what_copies_take_is_told_and_they_are_made_only_where_they_fit(caplog, monkeypatch):
    layer = torch.nn.Linear(64, 64, bias=False)
    most = 5 * layer.weight.nbytes
    monkeypatch.setattr(packed, "device_memory", lambda _: most)
    with caplog.at_level("INFO", logger="beholder"):
        assert PackedWeights(layer, None, 2 * layer.weight.nbytes).limit == layer.weight.nbytes
        assert PackedWeights(layer, None, 3 * layer.weight.nbytes).limit == 0
    first, second = [record.getMessage() for record in caplog.records]
    assert "GiB, are made as they are used (packed_memory)" in first
    assert "GiB, are not made: they would not fit (packed_memory)" in second


def test_what_cannot_be_packed_is_refused_where_it_was_asked_for():
    half = torch.nn.Sequential(torch.nn.Linear(4, 4, dtype=torch.float16))
    assert PackedWeights(half, None).limit == 0
    with pytest.raises(ConfigError, match="packed_memory is 5, and this model has no weights to pack"):
        PackedWeights(half, 5)


@pytest.mark.parametrize("how", ["eager", "aot_eager"])
def test_compiled_in_fixed_shapes_is_what_is_not(how):
    """Rows come and go between shapes; one is filled up with a row of nothing."""
    engine = Engine(model(), block=BLOCK, compile=how)
    names = ("cc", "text", "turn2")
    requests = [engine.submit(prompt(name), SAMPLINGS[0]) for name in names]
    requests.append(engine.submit(prompt("text"), Sampling(max_tokens=2)))
    assert [rest(request) for request in requests[:3]] == [alone(name) for name in names]
    assert rest(requests[3]) == alone("text")[:2]


def test_a_compiled_step_has_fused_linears_and_is_compiled_once(monkeypatch: pytest.MonkeyPatch):
    products: list[int] = []
    compiled = torch.compile

    def counting(graph: torch.fx.GraphModule, _inputs: list[Tensor]):
        products.append(sum("linear" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda step, **_: compiled(step, backend=counting, dynamic=False))
    engine = Engine(model(), block=BLOCK, compile="eager")
    assert tuple(engine.stream(prompt("text"), SAMPLINGS[0])) == alone("text")
    assert products == [4 * len(model().get_decoder().layers) + 1]
    fusions = engine._steps.runner.compiled._fused.fusions
    assert fusions
    assert all(hasattr(one.weight, "_dynamo_static_input_type") for one in fusions)


@torch.no_grad()
def test_fused_linears_compute_once_what_each_would(monkeypatch: pytest.MonkeyPatch):
    """Two products of a layer instead of five, over the model's own memory; also with biases."""
    subject = copy.deepcopy(model())
    layer = subject.get_decoder().layers[0]
    for one in (layer.mlp.gate_proj, layer.mlp.up_proj):
        one.bias = torch.nn.Parameter(torch.randn(one.out_features))
    ids = prompt("text")["input_ids"]
    wanted, weights = subject(input_ids=ids).logits, {n: w.clone() for n, w in subject.named_parameters()}
    fused = FusedLinears(subject)
    assert len(fused.fusions) == 2 * len(subject.get_decoder().layers)
    seen: list[int] = []
    monkeypatch.setattr(
        "beholder.generation.fused.linear", lambda x, w, b: seen.append(len(w)) or linear(x, w, b)
    )
    with fused.used():
        torch.testing.assert_close(subject(input_ids=ids).logits, wanted, rtol=0, atol=2e-6)
    assert seen == [len(one.weight) for one in fused.fusions]
    seen.clear()
    torch.testing.assert_close(subject(input_ids=ids).logits, wanted, rtol=0, atol=0)
    assert not seen
    assert all(torch.equal(weights[name], weight) for name, weight in subject.named_parameters())
    assert layer.self_attn.k_proj.weight.data_ptr() - layer.self_attn.q_proj.weight.data_ptr() == (
        layer.self_attn.q_proj.weight.nbytes
    )


@torch.no_grad()
def test_linears_are_fused_only_while_they_are_what_they_were():
    """Weights changed in place are followed; others, hooks and other inputs are each linear's own matter."""
    subject = copy.deepcopy(model())
    ids, layers = prompt("text")["input_ids"], subject.get_decoder().layers
    fused = FusedLinears(subject)
    first, second = fused.fusions[:2]
    layers[0].self_attn.k_proj.weight.mul_(0.5)  # what merging an adapter does
    layers[0].mlp.up_proj.weight.data = layers[0].mlp.up_proj.weight.clone() * 2
    handle = layers[1].mlp.gate_proj.register_forward_hook(lambda *_: None)
    wanted = subject(input_ids=ids).logits
    assert (first.is_whole(), second.is_whole()) == (True, False)
    listened = fused.fusions[3]
    with fused.used():
        assert second not in fused.fusions, "it would be a second copy"
        assert "forward" in layers[0].self_attn.q_proj.__dict__
        assert not any("forward" in one.__dict__ for one in (*second.linears, *listened.linears))
        torch.testing.assert_close(subject(input_ids=ids).logits, wanted, rtol=0, atol=2e-6)
        one, other = torch.randn(2, 1, 3, first.weight.shape[1])
        query, key, value = (getattr(layers[0].self_attn, name) for name in ("q_proj", "k_proj", "v_proj"))
        query(one)
        torch.testing.assert_close(key(other), linear(other, key.weight), rtol=0, atol=2e-6)
        torch.testing.assert_close(value(one), linear(one, value.weight), rtol=0, atol=2e-6)
    handle.remove()
    assert "forward" not in query.__dict__


@torch.no_grad()
def test_fused_weights_are_saved_one_by_one(tmp_path: Path):
    subject = copy.deepcopy(model())
    FusedLinears(subject)
    subject.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], weight) for name, weight in model().state_dict().items())


def test_compiling_needs_a_way_and_an_attention_that_can_be_replaced():
    with pytest.raises(ConfigError, match="compile is 'fast'; known: reduce-overhead"):
        Engine(model(), compile="fast")
    with pytest.raises(ConfigError, match="leave compile or direct out"):
        Engine(model(), compile="eager", direct=True)
    with pytest.raises(ConfigError, match="needs a model whose attention is sdpa"):
        Engine(model("eager"), compile="eager")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [5, 1000, 32064])
def test_the_largest_score_is_argmax(dtype, vocabulary):
    """Of equal ones, of which bfloat16 has many, the first."""
    numbers = torch.Generator().manual_seed(vocabulary)
    rows = torch.randn((9, vocabulary), generator=numbers).to(dtype)
    rows[3] = -torch.inf
    rows[4] = 1.0
    rows[5, -1] = torch.nan
    rows[6, 0] = torch.nan
    wanted: list[int | None] = rows.argmax(dim=-1).tolist()
    wanted[5] = wanted[6] = None
    largest = Largest()
    assert largest(rows) == largest(rows) == wanted
    assert largest(rows[2:3]) == wanted[2:3]
    wider = torch.cat([rows, torch.full_like(rows[:, :3], torch.inf)], dim=1)  # as native rows are
    assert largest(wider[:, :vocabulary]) == wanted


def test_scores_are_computed_for_the_last_position_alone():
    """One row of the head at the end of a prompt however many pieces it is read in."""
    seen: list[int] = []
    wanted = alone("multi")  # not while the hook counts: whichever test asks first runs the model
    handle = model().lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    try:
        engine = Engine(model(), block=BLOCK, chunk=7, idle_chunk=7, prefix_cache=False, native=False)
        assert tuple(engine.stream(prompt("multi"), SAMPLINGS[0])) == wanted
    finally:
        handle.remove()
    pieces = -(-prompt("multi")["input_ids"].shape[1] // 7)
    assert seen == [0] * (pieces - 1) + [1] * 6


@pytest.mark.parametrize("name", PROMPTS)
def test_of_the_last_layer_only_the_last_token_is_finished(name, monkeypatch: pytest.MonkeyPatch):
    """However many pieces a prompt is read in; with somebody listening, all are, and nothing is different."""
    wanted, last = alone(name), model().get_decoder().layers[-1]
    seen: list[int] = []
    whole = type(last.mlp).forward

    def counting(mlp, hidden: Tensor) -> Tensor:
        if mlp is last.mlp:
            seen.append(hidden.shape[1])
        return whole(mlp, hidden)

    monkeypatch.setattr(type(last.mlp), "forward", counting)
    length = prompt(name)["input_ids"].shape[1]
    pieces = [min(7, length - start) for start in range(0, length, 7)]
    nothing_kept = {"prefix_cache": False, "picture_memory": 0, "native": False}

    def answer() -> tuple[int, ...]:
        engine = Engine(model(), block=BLOCK, chunk=7, idle_chunk=7, **nothing_kept)
        return tuple(engine.stream(prompt(name), SAMPLINGS[0]))

    assert answer() == wanted
    assert seen == [1] * LENGTH, "the prompt's last token and each of the answer but its last"
    seen.clear()
    handle = last.register_forward_hook(lambda *_: None)
    try:
        assert answer() == wanted
    finally:
        handle.remove()
    assert seen == pieces + [1] * (LENGTH - 1)


@pytest.mark.parametrize(("chunk", "batches"), [(1, [1, 1]), (5, [1, 1]), (1000, [2])])
def test_a_piece_looks_at_its_own_pictures_only_and_once(chunk, batches, monkeypatch: pytest.MonkeyPatch):
    """Nobody waits for pictures that stand further on, and nothing is run twice though nothing is kept."""
    shown: list[int] = []
    see = model().get_image_features

    def counting(pixel_values: Tensor):
        shown.append(len(pixel_values))
        return see(pixel_values)

    monkeypatch.setattr(model(), "get_image_features", counting)
    nothing_kept = {"prefix_cache": False, "picture_memory": 0}
    engine = Engine(model(), block=BLOCK, chunk=chunk, idle_chunk=chunk, **nothing_kept)
    assert tuple(engine.stream(prompt("multi"), SAMPLINGS[0])) == alone("multi")
    assert shown == batches


def test_a_preempted_prompt_of_several_pieces_is_read_again():
    blocks = -(-prompt("multi")["input_ids"].shape[1] // BLOCK) + 3
    nothing_kept = {"prefix_cache": False, "picture_memory": 0}
    engine = Engine(
        model(), block=BLOCK, chunk=5, idle_chunk=5, kv_memory=memory(blocks), **nothing_kept
    )  # fmt: skip
    requests = [engine.submit(prompt(name), SAMPLINGS[0]) for name in ("multi", "text", "text")]
    assert [rest(request) for request in requests] == [alone("multi"), alone("text"), alone("text")]


@pytest.mark.parametrize("native", [True, False])
def test_short_ends_of_prompts_are_read_together(native, monkeypatch: pytest.MonkeyPatch):
    """Their beginnings are stored; ends of other lengths stand side by side, and nobody's answer moves."""
    engine = Engine(model(), block=BLOCK, native=native)
    first = together(engine)
    runner, rows = engine._steps.runner, list[int]()
    read_together = runner.read_together

    def counted(prompts, tables, starts):
        lengths = {one.length - start for one, start in zip(prompts, starts, strict=True)}
        rows.append(len(lengths))
        return read_together(prompts, tables, starts)

    monkeypatch.setattr(runner, "read_together", counted)
    assert together(engine) == first == [alone(name) for name in PROMPTS]
    assert max(rows) > 1, "ends of different lengths were to be filled up"


def test_ends_that_fail_together_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch):
    engine = Engine(model(), block=BLOCK)
    first = together(engine)

    def fails(*_given):
        raise RuntimeError("not together")

    monkeypatch.setattr(engine._steps.runner, "read_together", fails)
    assert together(engine) == first
    assert engine.stats().failed == 0
