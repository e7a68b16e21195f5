"""From names to folders: local ones as they are, hub ids through the cache; one sentence per failure."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from beholder.core.errors import CheckpointError
from beholder.core.hub import find_checkpoint


class Response:
    """As much of an HTTP response as the hub's errors ask for."""

    headers: dict[str, str] = {}  # noqa: RUF012
    status_code = 404
    request = None


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def snapshot(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)


def test_a_folder_is_taken_as_it_is(tmp_path: Path):
    assert find_checkpoint(tmp_path) == tmp_path
    assert find_checkpoint(str(tmp_path)) == tmp_path


def test_a_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    fail_with(monkeypatch, AssertionError("the hub was asked"))
    assert find_checkpoint("owner/name") == Path("owner/name")


def test_a_file_is_no_checkpoint(tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        find_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/no/such/folder", "a/b/c", "~/nowhere-at-all", ""])
def test_neither_folder_nor_hub_id(name, monkeypatch: pytest.MonkeyPatch):
    fail_with(monkeypatch, AssertionError("the hub was asked"))
    with pytest.raises(CheckpointError, match=r"no folder .* not a hub id of the form owner/name"):
        find_checkpoint(name)


def test_a_path_object_never_goes_to_the_hub(monkeypatch: pytest.MonkeyPatch):
    fail_with(monkeypatch, AssertionError("the hub was asked"))
    with pytest.raises(CheckpointError, match="no folder 'owner/name'"):
        find_checkpoint(Path("owner/name"))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            errors.GatedRepoError("no", response=Response()),
            "gated: accept its licence at https://huggingface.co/o/n",
        ),
        (errors.RepositoryNotFoundError("no", response=Response()), "no such model on the hub"),
        (errors.RevisionNotFoundError("no", response=Response()), "has no revision 'v9'"),
        (errors.LocalEntryNotFoundError("no"), "the hub cannot be reached"),
        (
            errors.HfHubHTTPError("teapot\nmore", response=Response()),
            "could not be fetched from the hub: teapot$",
        ),
        (OSError("disk full"), "could not be fetched from the hub: disk full"),
    ],
)
def test_every_failure_of_the_hub_is_one_sentence(error, sentence, monkeypatch: pytest.MonkeyPatch):
    fail_with(monkeypatch, error)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        find_checkpoint("o/n@v9")
    assert "\n" not in str(caught.value)


def test_offline_and_not_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Through the hub's own client, which is what decides that there is no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        find_checkpoint("owner/name")


def test_without_download_only_the_cache_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    told = r"it is not \(completely\) in the download cache; run `beholder fetch owner/name`$"
    with pytest.raises(CheckpointError, match=told):
        find_checkpoint("owner/name", download=False)
    commit = "0" * 40
    cached = tmp_path / "models--owner--name"
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "snapshots" / commit / "model.safetensors").touch()
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    assert find_checkpoint("owner/name", download=False) == cached / "snapshots" / commit


def test_pickled_weights_are_fetched_only_where_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[str, str | None, list[str]]] = []

    def snapshot(
        name: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        assert not local_files_only
        asked.append((name, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert find_checkpoint("o/n@v1") == tmp_path
    assert [(name, revision, "*.bin" in patterns) for name, revision, patterns in asked] == [
        ("o/n", "v1", False),
        ("o/n", "v1", True),
    ]
    (tmp_path / "model.safetensors").touch()
    asked.clear()
    find_checkpoint("o/n")
    assert [(revision, "*.bin" in patterns) for _, revision, patterns in asked] == [(None, False)]
