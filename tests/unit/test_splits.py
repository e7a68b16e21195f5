"""One stored tensor that is several parameters: names both ways, and which bytes are whose."""

from __future__ import annotations

import pytest

from beholder.checkpoints.keys import KeyTable
from beholder.checkpoints.shards import TensorHeader
from beholder.checkpoints.splits import Split, Stretch, apart, header_of, targets, together, whole_shape
from beholder.core.errors import CheckpointError

TABLE = KeyTable.of(
    [
        ("h.{n}.qkv.{rest}", "layers.{n}.attn.qkv_proj.{rest}"),
        ("h.{n}.o", "layers.{n}.other.q_proj"),
        ("gone", None),
    ],
    [Split("attn.qkv_proj", ("attn.q_proj", "attn.k_proj", "attn.v_proj"))],
)
PARTS = tuple(f"layers.4.attn.{part}_proj.bias" for part in "qkv")


def header(shape, begin=0, length=24, dtype="F32") -> TensorHeader:
    return TensorHeader(shape, dtype, "a.safetensors", begin, begin + length)


def test_names_both_ways():
    assert targets(TABLE, "h.4.qkv.bias") == PARTS
    assert {TABLE.theirs(part) for part in PARTS} == {"h.4.qkv.bias"}
    assert targets(TABLE, "h.4.o") == ("layers.4.other.q_proj",)  # not a part: it stands elsewhere
    assert TABLE.theirs("layers.4.other.q_proj") == "h.4.o"
    assert targets(TABLE, "gone") == ()
    with pytest.raises(KeyError):
        targets(TABLE, "unheard")


def test_pieces_there_and_back():
    cut = apart({"h.4.qkv.bias": PARTS, "h.4.o": ("x",), "gone": ()})
    assert cut == {
        **{part: (Stretch("h.4.qkv.bias", number, 3),) for number, part in enumerate(PARTS)},
        "x": (Stretch("h.4.o"),),
    }
    assert together(TABLE, reversed(PARTS)) == {"h.4.qkv.bias": tuple(map(Stretch, PARTS))}


def test_bytes_and_shapes():
    stored = {"w": header((6, 4), begin=100, length=96)}
    second = header_of([Stretch("w", 1, 3)], stored, "k")
    assert (second.shape, second.begin, second.end) == ((2, 4), 132, 164)
    parts = {name: header((2, 4), begin=32 * number, length=32) for number, name in enumerate("abc")}
    joined = header_of(list(map(Stretch, "abc")), parts, "w")
    assert (joined.shape, joined.bytes) == ((6, 4), 96)
    assert whole_shape([(2, 4), (2, 4)]) == (4, 4)
    assert whole_shape([()]) == ()


def test_parts_must_agree():
    parts = {"a": header((2, 4)), "b": header((2, 4), dtype="BF16")}
    with pytest.raises(CheckpointError, match="different number formats"):
        header_of([Stretch("a"), Stretch("b")], parts, "w")
