"""The native step says what PyTorch says: for every format and level of kernels, alone and in batches."""

from __future__ import annotations

import pytest
import torch
from tests.equality.native_cases import (
    as_packed,
    distance,
    ensure_built,
    native_scores,
    shuffled_texts,
    slow_scores,
    tiny_llama,
)

from beholder.generation.native.formats import FORMATS
from beholder.generation.native.trunk import PackedTrunk

ensure_built()
from beholder.generation.native.library import status  # noqa: E402

LEVELS = status().levels
# The root mean square of the difference as a part of the scores' spread. float32: other orders of the same
# sums. bfloat16: inputs rounded to 8 bits, weights equal. int8 and int4: inputs rounded to 8 bits per group.
BOUNDS = {"float32": 3e-6, "bfloat16": 0.015, "int8": 0.05, "int4": 0.05}
LENGTHS = ([6], [1, 9, 30], [7, 3, 12, 4, 5, 17, 2, 8, 33, 1, 6])
# A head of whole lanes, one that is narrower, and one with a rest; many query heads to a key head.
SHAPES = {
    "plain": {},
    "narrow": {"hidden_size": 40, "head_dim": 10, "intermediate_size": 52},
    "rest": {
        "hidden_size": 63,
        "head_dim": 36,
        "num_attention_heads": 9,
        "num_key_value_heads": 1,
        "vocab_size": 33,
    },
    "biased": {"attention_bias": True, "mlp_bias": True},
}


@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"batch{len(lengths)}")
@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("level", LEVELS)
def test_scores_of_every_format(level, weights, lengths):
    model = tiny_llama()
    trunk = PackedTrunk.of(model, weights, threads=2, level=level)
    twin = as_packed(model, trunk)
    texts, memory = shuffled_texts(twin, lengths, extra=1)
    got = native_scores(trunk, texts, memory)
    wanted = torch.stack([slow_scores(twin, text) for text in texts])
    assert distance(got, wanted) < BOUNDS[weights]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("level", LEVELS)
def test_scores_of_other_shapes(level, name):
    model = tiny_llama(**SHAPES[name])
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.uniform_(-1, 1)
    for weights in FORMATS:
        trunk = PackedTrunk.of(model, weights, group=32, threads=2, level=level)
        twin = as_packed(model, trunk)
        texts, memory = shuffled_texts(twin, [5, 2, 19], extra=1)
        got = native_scores(trunk, texts, memory)
        wanted = torch.stack([slow_scores(twin, text) for text in texts])
        assert distance(got, wanted) < BOUNDS[weights], weights


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"batch{len(lengths)}")
def test_same_greedy_tokens_in_float32(level, lengths):
    model = tiny_llama(seed=3)
    trunk = PackedTrunk.of(model, "float32", threads=2, level=level)
    texts, memory = shuffled_texts(model, lengths, extra=16)
    slow, _ = shuffled_texts(model, lengths, extra=16)
    for _ in range(16):
        for text, scores in zip(texts, native_scores(trunk, texts, memory), strict=True):
            text.ids.append(int(scores.argmax()))
        for text in slow:
            text.ids.append(int(slow_scores(model, text).argmax()))
    assert [text.ids for text in texts] == [text.ids for text in slow]


@pytest.mark.parametrize("weights", FORMATS)
def test_threads_change_nothing(weights):
    model = tiny_llama()
    scores = []
    for threads in (1, 3):
        trunk = PackedTrunk.of(model, weights, threads=threads)
        texts, memory = shuffled_texts(model, [4, 11, 6], extra=1)
        scores.append(native_scores(trunk, texts, memory))
    assert torch.equal(scores[0], scores[1])


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_neighbours_change_nothing(weights):
    """Sums of whole numbers are exact in any order, and the rest of a row is computed for it alone."""
    model = tiny_llama()
    trunk = PackedTrunk.of(model, weights, threads=2)
    texts, memory = shuffled_texts(model, LENGTHS[-1], extra=1)
    together = native_scores(trunk, texts, memory)
    for text, scores in zip(texts, together, strict=True):
        assert torch.equal(native_scores(trunk, [text], memory)[0], scores)


@pytest.mark.parametrize("level", LEVELS)
def test_a_model_in_bfloat16(level):
    """Weights, keys and values are bfloat16 in both; the twin computes in float32 from there on."""
    model = tiny_llama(dtype=torch.bfloat16)
    trunk = PackedTrunk.of(model, "bfloat16", threads=2, level=level)
    texts, memory = shuffled_texts(model, [5, 21, 2], extra=1)
    got = native_scores(trunk, texts, memory)
    exact = model.float()
    texts, _ = shuffled_texts(exact, [5, 21, 2], extra=1)
    wanted = torch.stack([slow_scores(exact, text) for text in texts])
    assert distance(got, wanted) < 0.03


@pytest.mark.parametrize("rows", [5, 16, 64])
@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_text_is_read_as_token_by_token(level, weights, rows):
    """Many tokens at once, in pieces of as many as there are rows, after some that were read before."""
    model = tiny_llama()
    trunk = PackedTrunk.of(model, weights, rows=rows, threads=2, level=level)
    (text,), memory = shuffled_texts(model, [4], extra=30)
    text.ids += torch.randint(103, (27,), generator=torch.Generator().manual_seed(9)).tolist()
    new = range(3, len(text.ids))
    one_by_one = [trunk.step([text.ids[at]], [at], memory, [text.ranges(at + 1)])[0] for at in new]
    stored = [tensor.clone() for pair in memory.layers for tensor in pair]
    (again,), other = shuffled_texts(model, [4], extra=30)
    got = trunk.read(text.ids[3:], list(new), other, again.ranges(len(text.ids)))
    assert distance(got[0], one_by_one[-1]) < (3e-6 if weights == "float32" else 0.01)
    for wanted, tensor in zip(stored, (one for pair in other.layers for one in pair), strict=True):
        assert torch.equal(tensor.isnan(), wanted.isnan())
        room = 1e-5 if weights == "float32" else 0.05
        torch.testing.assert_close(tensor.nan_to_num(0), wanted.nan_to_num(0), rtol=0, atol=room)


@pytest.mark.parametrize("heads", [(4, 1, 64), (9, 1, 32), (6, 3, 128), (3, 3, 96), (4, 4, 256)])
def test_keys_in_bfloat16_of_whole_vectors(heads):
    """Heads that are met by products of pairs, where the processor has these; odd lengths, many ranges."""
    count, key_heads, width = heads
    shape = {"num_attention_heads": count, "num_key_value_heads": key_heads, "head_dim": width}
    model = tiny_llama(dtype=torch.bfloat16, hidden_size=16 * count, **shape)
    trunk = PackedTrunk.of(model, "bfloat16", threads=2)
    lengths = [5, 21, 2, 1, 38]
    texts, memory = shuffled_texts(model, lengths, extra=1)
    got = native_scores(trunk, texts, memory)
    exact = model.float()
    texts, _ = shuffled_texts(exact, lengths, extra=1)
    wanted = torch.stack([slow_scores(exact, text) for text in texts])
    assert distance(got, wanted) < 0.03


def test_new_keys_and_values_are_stored():
    """What the step writes is what transformers puts into its cache, and nothing else is touched."""
    model = tiny_llama()
    trunk = PackedTrunk.of(model, "float32", threads=2)
    (text,), memory = shuffled_texts(model, [6], extra=1)
    before = [tensor.clone() for pair in memory.layers for tensor in pair]
    native_scores(trunk, [text], memory)
    slow_scores(model, text)
    place = text.ranges(6)[-1][1] - 1
    stored = [tensor for layer in text.cache.layers for tensor in (layer.keys, layer.values)]
    after = [tensor for pair in memory.layers for tensor in pair]
    for old, new, wanted in zip(before, after, stored, strict=True):
        torch.testing.assert_close(new[:, place], wanted[0, :, -1], rtol=0, atol=1e-5)
        new[:, place] = old[:, place]
        assert torch.equal(new.nan_to_num(0), old.nan_to_num(0))


ROTARY = {
    "llama3": {"rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16},
    "linear": {"rope_theta": 10000.0, "factor": 4.0},
    "yarn": {"rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16},
}  # fmt: skip


@pytest.mark.parametrize("kind", ROTARY)
def test_scaled_rotary_positions(kind):
    model = tiny_llama(rope_parameters={"rope_type": kind, **ROTARY[kind]})
    plain = tiny_llama()
    trunk = PackedTrunk.of(model, "float32", threads=1)
    texts, memory = shuffled_texts(model, [40, 25], extra=1)
    got = native_scores(trunk, texts, memory)
    wanted = torch.stack([slow_scores(model, text) for text in texts])
    assert distance(got, wanted) < BOUNDS["float32"]
    # The scaling matters to these texts, so the agreement says something.
    texts, _ = shuffled_texts(plain, [40, 25], extra=1)
    assert distance(torch.stack([slow_scores(plain, text) for text in texts]), wanted) > 1e-3


def test_embeddings_in_place_of_ids():
    model = tiny_llama()
    trunk = PackedTrunk.of(model, "float32", threads=1)
    (text,), memory = shuffled_texts(model, [6], extra=1)
    by_id = native_scores(trunk, [text], memory)
    embedding = model.get_input_embeddings()(torch.tensor(text.ids[-1:]))
    by_embedding = trunk.step(embedding, [5], memory, [text.ranges(6)])
    assert torch.equal(by_id, by_embedding)


def test_what_is_no_number_stays_none():
    """A row that went wrong shows it in every format, and its neighbour does not."""
    model = tiny_llama()
    for weights in FORMATS:
        trunk = PackedTrunk.of(model, weights, threads=2)
        texts, memory = shuffled_texts(model, [6, 7], extra=1)
        embeddings = model.get_input_embeddings()(torch.tensor([text.ids[-1] for text in texts]))
        embeddings = embeddings.detach().clone()
        embeddings[0, 3] = torch.nan
        scores = trunk.step(embeddings, [5, 6], memory, [texts[0].ranges(6), texts[1].ranges(7)])
        assert scores[0].isnan().all(), weights
        assert scores[1].isfinite().all(), weights
