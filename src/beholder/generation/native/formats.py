"""The number formats of packed weights, and what a trunk takes in each before anything is packed."""

from __future__ import annotations

from dataclasses import dataclass

from beholder.core.errors import ConfigError
from beholder.generation.native.parts import TrunkParts, linears_of, weight_of

FORMATS = ("float32", "bfloat16", "int8", "int4")  # as native.h numbers them
GROUPS = (32, 64, 128)
LANES = 16
BLOCK = 32  # rows of a matrix that stand interleaved
GIGABYTE = 1e9


@dataclass(frozen=True)
class Packing:
    """How weights are stored. In int4 `group` columns share a scale, and the head is int8 unless told.

    ConfigError for names and groups that there are not.
    """

    weights: str
    group: int = 64
    head: str | None = None

    def __post_init__(self) -> None:
        for name in (self.weights, self.head or self.weights):
            if name not in FORMATS:
                raise ConfigError(f"weights {name!r} cannot be packed; use {', '.join(FORMATS)}")
        if self.group not in GROUPS:
            raise ConfigError(f"groups of {self.group} weights cannot be packed; use {GROUPS}")

    @property
    def head_format(self) -> str:
        """The head's own format: the choice among all tokens is worth more than half a byte."""
        return self.head or ("int8" if self.weights == "int4" else self.weights)

    def matrix_bytes(self, rows: int, columns: int, *, is_head: bool = False) -> int:
        """What one matrix takes with its scales."""
        kind = FORMATS.index(self.head_format if is_head else self.weights)
        rows = -(-rows // BLOCK) * BLOCK
        width = -(-columns // (1, 2, 4, 8)[kind]) * (1, 2, 4, 8)[kind]
        scales = (0, 0, 4, 2 * -(-width // self.group))[kind]
        return rows * (width * (8, 4, 2, 1)[kind] // 2 + scales)


@dataclass(frozen=True)
class Plan:
    """What packing takes, told before it is done."""

    dense: int  # bytes of the model's own weights of these parts, which prefill goes on using
    packed: int  # bytes of the packed weights beside them

    @property
    def peak(self) -> int:
        """Bytes while and after packing: both; what is needed in passing is one row per thread."""
        return self.dense + self.packed

    def __str__(self) -> str:
        return (
            f"{self.packed / GIGABYTE:.2f} GB packed beside {self.dense / GIGABYTE:.2f} GB dense, "
            f"{self.peak / GIGABYTE:.2f} GB at the peak"
        )


def plan(parts: TrunkParts, packing: Packing) -> Plan:
    """What packing these parts so takes."""
    mixed, stored = parts.heads * parts.head_width, parts.key_heads * parts.head_width
    inner = -(-parts.inner // LANES) * LANES
    shapes = (
        (mixed + 2 * stored, parts.hidden),
        (parts.hidden, mixed),
        (2 * inner, parts.hidden),
        (parts.hidden, parts.inner),
    )
    packed = len(parts.layers) * sum(packing.matrix_bytes(*shape) for shape in shapes)
    packed += packing.matrix_bytes(parts.vocabulary, parts.hidden, is_head=True)
    dense = sum(weight_of(linear, "a linear").nbytes for linear in linears_of(parts))
    return Plan(dense, packed)
