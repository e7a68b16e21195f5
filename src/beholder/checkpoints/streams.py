"""Reads stored tensors as bytes, a piece at a time; a checksum tells whether two folders hold one model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from beholder.checkpoints.assembled import Files, Stored
from beholder.checkpoints.reader import Contents
from beholder.checkpoints.shards import DTYPE_CODES, dtype_code
from beholder.checkpoints.splits import Stretch, apart, header_of, targets, with_rows
from beholder.core.errors import CheckpointError

if TYPE_CHECKING:
    from beholder.checkpoints.planning import Plan

CHUNK_BYTES = 2**24


def fingerprint(contents: Contents, plan: Plan) -> str:
    """SHA-256 of all parameters by our names: one model has one fingerprint, in whatever layout it is stored.

    Rows that only fill up a vocabulary do not count.
    """
    held = {theirs: targets(plan.names, theirs) for theirs in contents.tensors}
    parameters = with_rows(apart(held), contents.tensors, plan.padded)
    digest = hashlib.sha256()
    for name in sorted(parameters):
        for stretch in parameters[name]:
            header = contents.tensors[stretch.stored]
            digest.update(f"{name} {header.dtype} {list(stretch.shape_of(header))}\n".encode())
            for chunk in read_bytes(contents, stretch):
                digest.update(chunk)
    return digest.hexdigest()


def digest_of(parameters: Iterable[tuple[str, Any]]) -> str:
    """The same of tensors by our names, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in parameters:
        digest.update(f"{name} {dtype_code(tensor.dtype)} {list(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def tensor_of(contents: Contents, made_of: Sequence[Stretch], name: str) -> Any:
    """A whole tensor in memory from the rows that it is made of."""
    import torch

    header = header_of(made_of, contents.tensors, name)
    data = bytearray(b"".join(piece for stretch in made_of for piece in _filled(contents, stretch)))
    kind = getattr(torch, DTYPE_CODES[header.dtype])
    return torch.frombuffer(data, dtype=kind).reshape(header.shape)


def _filled(contents: Contents, stretch: Stretch) -> Iterator[bytes]:
    yield from read_bytes(contents, stretch)
    if stretch.fill:
        yield mean_rows(contents, stretch)


def read_bytes(contents: Contents, stretch: Stretch) -> Iterator[bytes]:
    """The bytes of one stored tensor, or of some of its rows, a piece at a time."""
    tensor = contents.tensors[stretch.stored]
    path = contents.folder / tensor.file
    begin, end = stretch.bytes_of(tensor)
    if contents.adapter is not None and stretch.stored in contents.adapter.pairs:
        yield _bytes_of(
            Stored(Files(contents), tensor, stretch.stored, change=contents.adapter.pairs[stretch.stored])[
                ...
            ]
        )[begin:end]
        return
    if not path.suffix == ".safetensors":
        yield _pickled_bytes(path, tensor.name or stretch.stored)[begin:end]
        return
    with path.open("rb") as file:
        file.seek(tensor.begin + begin)
        yield from _pieces(file, end - begin)


def mean_rows(contents: Contents, stretch: Stretch) -> bytes:
    """The rows that a vocabulary is filled up with."""
    tensor = Stored(Files(contents), contents.tensors[stretch.stored], stretch.stored, fill=stretch.fill)[...]
    return _bytes_of(tensor[-stretch.fill :])


def _bytes_of(tensor: Any) -> bytes:
    import torch

    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length > 0:
        piece = file.read(min(length, CHUNK_BYTES))
        if not piece:
            raise CheckpointError(f"{file.name} ended {length} bytes early while it was read")
        length -= len(piece)
        yield piece


def _pickled_bytes(path: Path, name: str) -> bytes:
    """A tensor of a `.bin` file; the file is mapped, so only this tensor's pages are read."""
    from beholder.checkpoints.pickles import tensors_in

    return _bytes_of(tensors_in(path)[name])
