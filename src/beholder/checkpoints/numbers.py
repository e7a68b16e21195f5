"""What can be wrong with numbers where every name and shape is right: formats, and the numbers themselves.

Formats stand in headers. Reading the numbers takes as long as reading the files: only on demand.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.checkpoints.assembled import Files
from beholder.checkpoints.findings import Finding, some
from beholder.checkpoints.lora import role_of
from beholder.checkpoints.reader import Contents
from beholder.checkpoints.remains import DOWNLOADS, FETCH, weight_files
from beholder.checkpoints.shards import TensorHeader
from beholder.checkpoints.splits import targets

if TYPE_CHECKING:
    from beholder.checkpoints.planning import Plan

FLOATS = ("F64", "F32", "F16", "BF16")
SHA256 = re.compile(r"[0-9a-f]{64}")
CHUNK_BYTES = 2**24
TRAINED_ELSEWHERE = (
    "this file comes from another conversion or was damaged: fetch it again, or convert it anew"
)


def look_at_formats(contents: Contents, plan: Plan) -> Iterator[Finding]:
    """Weights must be floating-point numbers, and those of one part of the model in one format."""
    used = {name: tensor for name, tensor in contents.tensors.items() if _is_used(name, plan)}
    if contents.adapter is not None:
        for name, pair in contents.adapter.pairs.items():
            used |= {f"{name} (lora_A)": pair.down, f"{name} (lora_B)": pair.up}
    odd = [f"{name} is {tensor.dtype}" for name, tensor in used.items() if tensor.dtype not in FLOATS]
    if odd:
        yield Finding(
            f"{len(odd)} weights are stored in a format that cannot be computed with: {some(odd)}",
            "take a checkpoint in float32, bfloat16 or float16; a quantised one must be converted first",
        )
    parts: dict[tuple[str, ...], dict[str, TensorHeader]] = {}
    for name, tensor in used.items():
        if tensor.dtype in FLOATS:
            parts.setdefault(_part(name, tensor), {})[name] = tensor
    for group in parts.values():
        if outliers := _outliers(group):
            yield Finding(
                f"{len(outliers)} weights have another number format than the rest of their part of the "
                f"model: {some(outliers)}",
                TRAINED_ELSEWHERE,
            )


def _is_used(name: str, plan: Plan) -> bool:
    try:
        return bool(targets(plan.names, name))
    except KeyError:
        return False


def _part(name: str, tensor: TensorHeader) -> tuple[str, ...]:
    """Where a tensor comes from and what it is of: the first words of its name, up to the layers."""
    file = re.sub(r"\d+", "", tensor.file)
    before = role_of(name).split(".{n}.")[0] if role_of(name) != name else "beside layers"
    return file, before


def _outliers(group: dict[str, TensorHeader]) -> list[str]:
    """What differs from most of the group. Vectors in float32 beside matrices in 16 bit are usual."""
    counts = Counter(tensor.dtype for tensor in group.values())
    usual = counts.most_common(1)[0][0]
    by_role: dict[str, set[str]] = {}
    for name, tensor in group.items():
        by_role.setdefault(role_of(name), set()).add(tensor.dtype)
    return sorted(
        f"{name} is {tensor.dtype} and not {usual}"
        for name, tensor in group.items()
        if tensor.dtype != usual
        and not (len(tensor.shape) < 2 and tensor.dtype == "F32" and len(by_role[role_of(name)]) == 1)
    )


def look_at_numbers(contents: Contents) -> Iterator[Finding]:
    """Read every tensor: none may hold NaN or infinity, and no matrix may be nothing but zeros."""
    import torch

    files = Files(contents)
    halves = contents.adapter.pairs.values() if contents.adapter is not None else ()
    wanted = [
        *contents.tensors.items(),
        *((half.name, half) for pair in halves for half in (pair.down, pair.up)),
    ]
    unreadable: list[str] = []
    broken: list[str] = []
    empty: list[str] = []
    for name, header in wanted:
        try:
            tensor = files.read(header, name)
        except Exception as error:  # whatever the reading of a damaged file raises
            unreadable.append(
                f"{name} ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            )
            continue
        if not tensor.is_floating_point():
            continue
        if not bool(torch.isfinite(tensor).all()):
            broken.append(name)
        elif tensor.dim() > 1 and not bool(tensor.any()):
            empty.append(name)
    if unreadable:
        yield Finding(f"{len(unreadable)} tensors cannot be read: {some(unreadable)}", FETCH)
    if broken:
        yield Finding(
            f"{len(broken)} tensors hold NaN or infinity: {some(broken)}",
            "these weights were broken when they were saved or cast to float16: take an earlier save, or one "
            "in bfloat16 or float32",
        )
    if empty:
        yield Finding(
            f"{len(empty)} matrices hold nothing but zeros: {some(empty)}",
            "space was reserved for the file and its content never came: fetch it again",
        )


def look_at_checksums(folder: Path) -> Iterator[Finding]:
    """Compare weight files with the checksums that they hold themselves or that their download noted."""
    for path in weight_files(folder):
        if path.suffix == ".bin" and zipfile.is_zipfile(path) and (damaged := _damaged_record(path)):
            yield Finding(f"{path.name} is damaged: the checksum of {damaged} is another", FETCH)
        noted = _noted_sha256(path)
        if noted is not None and _sha256(path) != noted:
            yield Finding(
                f"{path.name} is not the file that was published: its SHA-256 must be {noted}", FETCH
            )


def _damaged_record(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        return str(error)


def _noted_sha256(path: Path) -> str | None:
    """From the download cache, whose files are named by their checksum, or from a local download's notes."""
    if path.is_symlink() and SHA256.fullmatch(path.resolve().name):
        return path.resolve().name
    note = path.parent / DOWNLOADS / f"{path.name}.metadata"
    lines = note.read_text(encoding="utf-8").split() if note.is_file() else []
    return next((line for line in lines if SHA256.fullmatch(line)), None)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
