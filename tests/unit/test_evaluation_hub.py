"""Data sets of the hub become JSON lines and pictures; a local stand-in takes the hub's place."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from beholder.core.errors import InputError, MissingExtraError
from beholder.evaluation import hub
from beholder.evaluation.hub import copy_files, fetch_split, unpack
from beholder.evaluation.tasks import TASKS, find_task, mmmu


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

    def fetch(name: str, split: str, data: Path) -> None:
        fetched.append(data)
        data.mkdir()
        (data / "validation.jsonl").touch()

    monkeypatch.setattr(mmmu, "fetch_split", fetch)
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


@pytest.mark.parametrize("name", TASKS)
def test_every_benchmark_is_drawn_or_fetched_or_says_where_it_is(name, tmp_path):
    task = find_task(name)
    if task.draw or task.fetch:
        return
    with pytest.raises(InputError, match="give the folder that has it with --data: ") as caught:
        task.prepare(tmp_path)
    assert re.search("https://|`beholder data ", str(caught.value))
    assert "\n" not in str(caught.value)


def archive(folder: Path, *names: str) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w") as file:
        for name in names:
            file.writestr(name, name)
    return folder


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["a/b/1", "a/b/2"], ["1", "2"]),
        (["a/b/1", "a/c/d/2", "__MACOSX/3", "a/.DS_Store"], ["b/1", "c/d/2"]),
        (["1"], ["1"]),
    ],
)
def test_an_archive_is_unpacked_without_the_folders_around_it(names, left, tmp_path):
    archive(tmp_path, *names)
    unpack("x/y", "x.zip", tmp_path / "out", lambda *_: tmp_path)
    found = [str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert sorted(found) == left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.zip"]


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/../../evil"])
def test_an_archive_stays_in_its_folder(name, tmp_path):
    archive(tmp_path, "a", name)
    with pytest.raises(InputError, match="would be written outside of"):
        unpack("x/y", "x.zip", tmp_path / "out", lambda *_: tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_archive_is_told(content, tmp_path):
    if content is None:
        archive(tmp_path)
    else:
        (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(InputError, match="is no zip archive with files"):
        unpack("x/y", "x.zip", tmp_path / "out", lambda *_: tmp_path)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"x/y has no z\.zip"):
        unpack("x/y", "z.zip", tmp_path / "out", lambda *_: tmp_path)


def test_the_questions_appear_last(tmp_path, monkeypatch):
    """Until they do a run does not take the folder for the data."""
    (tmp_path / "hub" / "images").mkdir(parents=True)
    for name in ("images/1", "images/2", "questions"):
        (tmp_path / "hub" / name).touch()
    order: list[str] = []
    real = hub.os.replace
    monkeypatch.setattr(hub.os, "replace", lambda a, b: (order.append(Path(b).name), real(a, b)))
    copy_files("x/y", ["images/*", "questions"], tmp_path / "data", lambda *_: tmp_path / "hub")
    assert order == ["1", "2", "questions"]
    with pytest.raises(InputError, match="x/y has no answers"):
        copy_files("x/y", ["answers"], tmp_path / "data", lambda *_: tmp_path / "hub")


def test_the_quicker_of_two_processes_stands(tmp_path):
    archive(tmp_path, "a/1")

    def fetch(*_: object) -> Path:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()
        return tmp_path

    unpack("x/y", "x.zip", tmp_path / "out", fetch)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.zip"]


def test_of_two_that_draw_the_quicker_stands(tmp_path):
    def draw(unfinished: Path) -> None:
        unfinished.mkdir()
        (unfinished / "questions.json").write_text("ours")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "questions.json").write_text("theirs")

    replace(find_task("worlds"), draw=draw).prepare(tmp_path / "data")
    assert (tmp_path / "data" / "questions.json").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
