"""Data sets of the hub become JSON lines and pictures; a local stand-in takes the hub's place."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from beholder.core.errors import InputError, MissingExtraError
from beholder.evaluation import hub
from beholder.evaluation.hub import fetch_split
from beholder.evaluation.tasks import find_task, mmmu


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    return buffer.getvalue()


RECORD: dict[str, Any] = {
    "id": "validation_Art_1", "question": "Which <image 1>?", "options": "['a', 'b']", "answer": "B",
    "question_type": "multiple-choice", "image_1": {"bytes": png(), "path": "x.png"}, "image_2": None,
}  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for subject in ("Art", "Math"):
        folder = tmp_path / "hub" / subject
        folder.mkdir(parents=True)
        (folder / "validation-00000-of-00001.parquet").touch()
        (folder / "test-00000-of-00001.parquet").touch()
    return tmp_path / "hub"


def read(path: Path) -> Iterator[dict[str, Any]]:
    assert path.name.startswith("validation")
    yield RECORD | {"id": f"validation_{path.parent.name}_1"}


def test_a_split_becomes_rows_with_pictures(repository, tmp_path):
    asked: list[Any] = []

    def fetch(name: str, patterns: list[str]) -> Path:
        asked.append((name, patterns))
        return repository

    data = tmp_path / "data"
    path = fetch_split("MMMU/MMMU", "validation", data, fetch, read)
    assert asked == [("MMMU/MMMU", ["*validation*"])]
    rows = find_task("mmmu").load(data)
    assert [row["id"] for row in rows] == ["validation_Art_1", "validation_Math_1"]
    assert rows[0]["options"] == {"A": "a", "B": "b"}
    assert (data / rows[0]["image"]).read_bytes() == png()
    assert json.loads(path.read_text().splitlines()[0])["image_2"] is None
    fetch_split("MMMU/MMMU", "validation", data, fetch, read)
    assert len(asked) == 1, "what is there is not fetched again"


def test_pictures_of_records_without_an_id_are_kept_apart(tmp_path):
    """Also a name that is no file's name is one here."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "validation-1.parquet").touch()
    pictures = [png(), png() + b"2", png() + b"3"]

    def records(path: Path) -> Iterator[dict[str, Any]]:
        yield {"image": {"bytes": pictures[0]}}
        yield {"image": {"bytes": pictures[1]}}
        yield {"id": "a/b", "image": {"bytes": pictures[2]}}

    path = fetch_split("x/y", "validation", tmp_path / "data", lambda *_: tmp_path / "hub", records)
    told = [json.loads(line)["image"] for line in path.read_text().splitlines()]
    assert [(tmp_path / "data" / name).read_bytes() for name in told] == pictures


def test_a_task_fetches_what_is_not_there(tmp_path, monkeypatch):
    fetched: list[Path] = []
    monkeypatch.setattr(mmmu, "fetch_split", lambda name, split, data: fetched.append(data))
    find_task("mmmu").prepare(tmp_path / "data")
    assert fetched == [tmp_path / "data"]
    (tmp_path / "answer_dict_val.json").write_text("{}")
    find_task("mmmu").prepare(tmp_path)
    assert len(fetched) == 1


def test_an_empty_split(repository, tmp_path):
    with pytest.raises(InputError, match="no files of a split 'dev'"):
        fetch_split("MMMU/MMMU", "dev", tmp_path / "data", lambda name, patterns: repository, read)


def test_without_a_reader_of_parquet(monkeypatch, tmp_path):
    import builtins

    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match="pip install"):
        list(hub.read_parquet(tmp_path / "x.parquet"))


def test_parquet_files_are_read(tmp_path):
    """As the hub keeps them: pictures are structures of bytes and path."""
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    records = [RECORD, RECORD | {"id": "validation_Art_2", "image_1": None}]
    folder = tmp_path / "hub" / "Art"
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(records), folder / "validation-00000-of-00001.parquet")
    fetch_split("MMMU/MMMU", "validation", tmp_path / "data", lambda name, patterns: tmp_path / "hub")
    first, second = find_task("mmmu").load(tmp_path / "data")
    assert (tmp_path / "data" / first["image"]).read_bytes() == png()
    assert (second["id"], second["image"]) == ("validation_Art_2", "")
