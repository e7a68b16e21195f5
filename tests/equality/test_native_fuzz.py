"""Trunks of any shape, batch and layout of memory, packed in any format, say what PyTorch says."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.equality.native_cases import (
    as_packed,
    distance,
    ensure_built,
    native_scores,
    shuffled_texts,
    slow_scores,
    tiny_llama,
)
from tests.equality.test_native_decode import BOUNDS

from beholder.generation.native.formats import FORMATS, GROUPS
from beholder.generation.native.library import status
from beholder.generation.native.trunk import PackedTrunk

ensure_built()


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, int]:
    """Sizes that fit together and little else."""
    key_heads = draw(st.integers(1, 3))
    heads = key_heads * draw(st.integers(1, 9))
    return {
        "num_key_value_heads": key_heads,
        "num_attention_heads": heads,
        "head_dim": 2 * draw(st.integers(1, 20)),
        "hidden_size": heads * draw(st.integers(1, max(1, 150 // heads))),  # its configuration wants it so
        "intermediate_size": draw(st.integers(8, 300)),
        "vocab_size": draw(st.integers(20, 130)),
        "num_hidden_layers": draw(st.integers(1, 2)),
    }


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    geometry=geometries(),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=16),
    weights=st.sampled_from(FORMATS),
    group=st.sampled_from(GROUPS),
    threads=st.integers(1, 3),
    level=st.sampled_from(status().levels),
)
def test_any_shape(geometry, lengths, weights, group, threads, level):
    model = tiny_llama(**geometry)
    trunk = PackedTrunk.of(model, weights, group=group, rows=16, threads=threads, level=level)
    assert trunk.packed_bytes == trunk.plan.packed
    twin = as_packed(model, trunk)
    texts, memory = shuffled_texts(twin, lengths, extra=1)
    got = native_scores(trunk, texts, memory)
    wanted = torch.stack([slow_scores(twin, text) for text in texts])
    # Few inputs round less evenly than many: twice the room of the ordinary shapes, float32 apart.
    assert distance(got, wanted) < (1e-5 if weights == "float32" else 2 * BOUNDS[weights])
