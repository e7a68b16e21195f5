"""The number formats of packed weights, and what a trunk takes in each before anything is packed."""

from __future__ import annotations

from dataclasses import dataclass

from beholder.core.errors import ConfigError
from beholder.core.narrow_linear import NarrowLinear
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
    moved: int = 0  # bytes of the model's own narrow weights, which it gives up matrix by matrix

    @property
    def peak(self) -> int:
        """Bytes while and after packing; what is needed in passing is one row per thread, or one matrix."""
        return self.dense + self.packed

    def __str__(self) -> str:
        if self.moved:
            beside = f" beside {self.dense / GIGABYTE:.2f} GB dense" if self.dense else ""
            return (
                f"{self.packed / GIGABYTE:.2f} GB packed{beside}, the model's own narrow weights among them"
            )
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
    dense = moved = 0
    for linear in linears_of(parts):
        if isinstance(linear, NarrowLinear):
            moved += linear.narrow_bytes
        else:
            dense += weight_of(linear, "a linear").nbytes
    return Plan(dense, packed, moved)


def stored_packing(parts: TrunkParts) -> Packing | None:
    """The packing that a model's linears are stored in already, None where they are dense.

    A narrow trunk's head may be dense, as one that is the embedding too. ConfigError for other mixtures.
    """
    *layers, head = linears_of(parts)
    forms = {linear.narrow if isinstance(linear, NarrowLinear) else None for linear in layers}
    of_head = head.narrow if isinstance(head, NarrowLinear) else None
    if forms == {None} and of_head is None:
        return None
    form = forms.pop()
    if form is None or forms or (of_head is not None and of_head.group != form.group):
        raise ConfigError(
            "some linears of the language model are dense and some narrow, or narrow in different forms; "
            "native decode takes them all in one, so decode with PyTorch"
        )
    return Packing(form.weights, form.group, None if of_head is None else of_head.weights)


def check_stored(parts: TrunkParts, packing: Packing) -> None:
    """ConfigError where linears are stored narrow already, and in another form than is asked for."""
    have = stored_packing(parts)
    if have is None:
        return
    told = [(one.weights, one.head_format, one.group if "int4" in (one.weights, one.head_format) else 0)
            for one in (have, packing)]  # fmt: skip
    if told[0] != told[1]:
        raise ConfigError(
            f"the model's weights are {have.weights} already (groups of {have.group}, the head "
            f"{have.head_format}), and cannot be packed as {packing.weights} (groups of {packing.group}, the "
            f"head {packing.head_format}); leave native out, or load the dense model"
        )
