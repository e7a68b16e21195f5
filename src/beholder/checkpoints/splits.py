"""A stored tensor that is several of our parameters: fused query, key and value, one below the other.

A key table names such a tensor as if it were one parameter (`...qkv_proj.weight`), and a `Split` says which
parameters that one is. Parts are equal and lie along the first axis, so in a file each is a run of bytes: a
split needs no arithmetic and loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from beholder.core.errors import CheckpointError

if TYPE_CHECKING:
    from beholder.checkpoints.shards import TensorHeader

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """`whole` and `parts` are stretches of parameter names between dots, as `attention.qkv_proj`.

    They must be unmistakable: no other name may hold one of them.
    """

    whole: str
    parts: tuple[str, ...]

    def parts_of(self, name: str) -> tuple[str, ...]:
        """The parameters of a name that holds `whole`; none of any other name."""
        if f".{self.whole}." not in f".{name}.":
            return ()
        return tuple(_swap(name, self.whole, part) for part in self.parts)

    def whole_of(self, name: str) -> str | None:
        """The name with `whole` in it of a parameter that is one of the parts."""
        part = next((part for part in self.parts if f".{part}." in f".{name}."), None)
        return None if part is None else _swap(name, part, self.whole)


def _swap(name: str, old: str, new: str) -> str:
    return f".{name}.".replace(f".{old}.", f".{new}.", 1)[1:-1]


def converters(splits: Iterable[Split]) -> list[Any]:
    """The same for transformers: what splits a tensor whose name the key mapping has changed to `whole`."""
    from transformers.core_model_loading import Chunk

    from beholder.checkpoints.splitter import Splitter

    return [
        Splitter(
            source_patterns=[f"{split.whole}."],
            target_patterns=[f"{part}." for part in split.parts],
            operations=[Chunk(dim=0)],
        )
        for split in splits
    ]


def register(model_class: type, splits: Sequence[Split]) -> None:
    """Make transformers split when it opens a checkpoint as `model_class`."""
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping

    register_checkpoint_conversion_mapping(model_class.__name__, converters(splits), overwrite=True)


class TableWithSplits(Protocol):
    """What a key table says about names."""

    def ours(self, theirs: str) -> str | None:
        """The name of ours for a stored one."""
        ...

    def theirs(self, ours: str) -> str:
        """The stored name that holds a parameter."""
        ...

    def parts(self, ours: str) -> tuple[str, ...]:
        """The parameters of a name of ours."""
        ...


def targets(names: TableWithSplits, stored: str) -> tuple[str, ...]:
    """The parameters that a stored tensor fills, none if it is dropped; KeyError if no row knows it."""
    ours = names.ours(stored)
    return () if ours is None else names.parts(ours)


def whole_shape(parts: Sequence[Shape]) -> Shape:
    """The shape of a tensor that holds parts of these shapes one below the other."""
    if len(parts) == 1:
        return parts[0]
    return (sum(shape[0] for shape in parts), *parts[0][1:])


@dataclass(frozen=True)
class Stretch:
    """Rows of a stored tensor: of `parts` equal ones the one with this number, or the first `rows` rows.

    `fill` rows follow that are stored nowhere; each is the mean of the tensor's own.
    """

    stored: str
    part: int = 0
    parts: int = 1
    rows: int | None = None
    fill: int = 0

    def bytes_of(self, header: TensorHeader) -> tuple[int, int]:
        """Where the rows begin and end, counted from the tensor's first byte."""
        if self.rows is not None:
            return 0, self.rows * (header.bytes // header.shape[0])
        length = header.bytes // self.parts
        return self.part * length, (self.part + 1) * length

    def shape_of(self, header: TensorHeader) -> Shape:
        """The shape of the rows together, with those that follow."""
        if not header.shape:
            return header.shape
        rows = header.shape[0] // self.parts if self.rows is None else self.rows
        return rows + self.fill, *header.shape[1:]

    def length_in(self, header: TensorHeader) -> int:
        """How many bytes it is, with the rows that follow."""
        begin, end = self.bytes_of(header)
        return end - begin + (self.fill * (header.bytes // header.shape[0]) if self.fill else 0)


Pieces = Mapping[str, tuple[Stretch, ...]]  # a tensor to write -> the stored rows that it is made of


def apart(stored: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[Stretch, ...]]:
    """How to write parameters from stored tensors, each of which holds the parameters named."""
    return {
        ours: (Stretch(theirs, number, len(held)),)
        for theirs, held in stored.items()
        for number, ours in enumerate(held)
    }


def together(names: TableWithSplits, parameters: Iterable[str]) -> dict[str, tuple[Stretch, ...]]:
    """How to write stored tensors from parameters: the reverse of `apart`."""
    wholes = dict.fromkeys(names.theirs(parameter) for parameter in parameters)
    return {whole: tuple(map(Stretch, targets(names, whole))) for whole in wholes}


def with_rows(
    pieces: Mapping[str, tuple[Stretch, ...]],
    stored: Mapping[str, TensorHeader],
    rows: Mapping[str, int],
) -> dict[str, tuple[Stretch, ...]]:
    """The same, where the tensors named in `rows` get that many: rows are left out or added at the end."""
    changed = dict(pieces)
    for name in rows.keys() & pieces.keys():
        (stretch,) = pieces[name]
        have = stored[stretch.stored].shape[0]
        changed[name] = (replace(stretch, rows=min(have, rows[name]), fill=max(0, rows[name] - have)),)
    return changed


def header_of(stretches: Sequence[Stretch], stored: Mapping[str, TensorHeader], name: str) -> TensorHeader:
    """The header of a tensor that is made of stored rows; it stands where its first rows stood."""
    headers = [stored[stretch.stored] for stretch in stretches]
    if len({(header.dtype, header.shape[1:]) for header in headers}) > 1:
        raise CheckpointError(f"the parts of {name} have different number formats or widths; they must agree")
    made_of = list(zip(stretches, headers, strict=True))
    shapes = [stretch.shape_of(header) for stretch, header in made_of]
    length = sum(stretch.length_in(header) for stretch, header in made_of)
    begin = headers[0].begin + stretches[0].bytes_of(headers[0])[0]
    return replace(headers[0], shape=whole_shape(shapes), begin=begin, end=begin + length)
