"""A record holds everything its numbers depend on, and survives being written."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from beholder.core import records
from beholder.core.errors import InputError
from beholder.core.records import RunRecord, capture, hash_weights


def sample() -> RunRecord:
    return capture(
        subject="beholder-mini", measure="worlds v1", values={"yes/no": 0.5}, samples=3,
        settings={"seed": 1, "dtype": "float32"}, seconds=1.5, weights="abc",
    )  # fmt: skip


def test_capture_fills_in_the_circumstances():
    record = sample()
    assert record.packages["python"].count(".") == 2
    assert record.packages.keys() >= {"torch", "transformers", "numpy"}
    assert "cores" in record.machine
    assert record.code


@pytest.mark.parametrize(
    ("given", "told"), [("{}/my model", "my model"), ("qihoo360/360VL-8B",) * 2, ("",) * 2]
)
def test_a_folder_is_called_by_its_last_name(tmp_path: Path, given: str, told: str):
    (tmp_path / "my model").mkdir()
    record = capture(
        subject=given.format(tmp_path), measure="m", values={}, samples=0, settings={}, seconds=0
    )
    assert record.subject == told


def test_a_record_survives_a_file(tmp_path: Path):
    record = sample()
    assert RunRecord.read(record.write(tmp_path / "deep" / "score.json")) == record


def test_another_file_is_no_record(tmp_path: Path):
    (tmp_path / "x.json").write_text('{"subject": "a", "colour": "red"}')
    with pytest.raises(InputError, match=r"not a run record.*'code', 'colour'"):
        RunRecord.read(tmp_path / "x.json")


def test_the_hash_sees_contents_and_names(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = hash_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert hash_weights(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"two")
    second = hash_weights(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert len({first, second, hash_weights(tmp_path)}) == 3


def test_a_file_in_the_hubs_cache_is_not_read_again(tmp_path: Path):
    """Its blob is named by its sum; a false name shows that the name was believed."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / ("0" * 64)).write_bytes(b"one")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(tmp_path / "blobs" / ("0" * 64))
    wanted = hashlib.sha256(f"model.safetensors {'0' * 64}\n".encode()).hexdigest()
    assert hash_weights(snapshot) == wanted


def test_no_weights_no_hash(tmp_path: Path):
    assert hash_weights(tmp_path) == ""


def test_the_commit_and_whether_the_tree_was_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "src" / "beholder" / "core"
    package.mkdir(parents=True)
    (package / "records.py").write_text("1")
    monkeypatch.setattr(records, "__file__", str(package / "records.py"))
    assert records.code_version().startswith("beholder ")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD")
    assert records.code_version() == commit
    (package / "records.py").write_text("2")
    assert records.code_version() == commit + "+dirty"


def test_somebody_elses_repository_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    installed = tmp_path / ".venv" / "beholder" / "core"
    installed.mkdir(parents=True)
    monkeypatch.setattr(records, "__file__", str(installed / "records.py"))
    assert records.code_version().startswith("beholder ")
