"""Every golden says where it came from and is as it was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.golden import seal


@pytest.mark.parametrize("folder", seal.golden_folders(), ids=lambda folder: folder.name)
def test_golden_is_as_recorded(folder: Path):
    assert seal.broken(folder) == []


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "360vl"
    (folder / "deep").mkdir(parents=True)
    (folder / "numbers.json").write_text("[1, 2]")
    (folder / "deep" / "more.bin").write_bytes(b"\0\1")
    seal.seal(folder)
    return folder


def test_a_sealed_folder_holds(sealed: Path):
    assert seal.broken(sealed) == []


def test_an_edited_golden_is_found(sealed: Path):
    (sealed / "numbers.json").write_text("[1, 3]")
    (line,) = seal.broken(sealed)
    assert "numbers.json was changed by hand" in line


def test_a_lost_and_a_foreign_file_are_found(sealed: Path):
    (sealed / "deep" / "more.bin").rename(sealed / "other.bin")
    assert [line.split(" is ")[1] for line in seal.broken(sealed)] == ["missing", "not in provenance.json"]


def test_an_edited_origin_is_found(sealed: Path):
    note = json.loads((sealed / seal.NOTE).read_text())
    (sealed / seal.NOTE).write_text(json.dumps(note | {"commit": "fffffff"}))
    assert "disagree" in seal.broken(sealed)[0]


def test_an_unknown_origin_cannot_be_sealed(tmp_path: Path):
    with pytest.raises(SystemExit, match="where somewhere came from"):
        seal.seal(tmp_path / "somewhere")
