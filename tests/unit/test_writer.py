"""Converting is reversible to the last byte, and leaves nothing behind where it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_checkpoint import make_tiny_checkpoint

from beholder.checkpoints import streams, writer
from beholder.checkpoints.reader import INDEX, read_config, read_contents
from beholder.checkpoints.writer import KEPT_CONFIG, KEPT_LAYOUT, convert
from beholder.core.errors import CheckpointError, ConfigError
from beholder.families import family

FAMILY = family("qh360vl")
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "360vl"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> Path:
    """Two shards of odd order with metadata, a licence, and a folder with a note."""
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("published"), llama3_tokenizer)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors, reverse=True)
    files = {"model-a.safetensors": names[::2], "model-b.safetensors": names[1::2]}
    for file, held in files.items():
        save_file(
            {name: tensors[name] for name in held}, folder / file, metadata={"format": "pt", "note": "早"}
        )
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {name: file for file in files for name in files[file]},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=4) + "\n\n")
    (folder / "LICENSE").write_text("free\n")
    (folder / "vision_tower").mkdir()
    (folder / "vision_tower" / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def ours(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(published, tmp_path_factory.mktemp("converted") / "ours", FAMILY, "ours").target


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_ours_has_our_names_and_the_same_numbers(published: Path, ours: Path):
    table = FAMILY.key_table(None)
    assert same(
        tensors_of(ours), {str(table.ours(name)): tensor for name, tensor in tensors_of(published).items()}
    )
    assert read_config(ours)["model_type"] == "qh_360vl"
    assert len(read_contents(ours).files) == 2


def test_there_and_back_is_byte_for_byte(published: Path, ours: Path, tmp_path: Path):
    done = convert(ours, tmp_path / "back", FAMILY, "published")
    assert done.is_identical
    assert bytes_of(tmp_path / "back") == bytes_of(published)


def test_the_original_checkpoint_comes_back_byte_for_byte(tmp_path: Path):
    """Written by the original code; its config.json points at the tower's own folder."""
    shutil.copytree(GOLDEN / "vision_tower", tmp_path / "golden" / "vision_tower")
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / name, tmp_path / "golden" / name)
    convert(tmp_path / "golden", tmp_path / "ours", FAMILY, "ours")
    assert not set(read_contents(tmp_path / "ours").tensors) & {"model.mm_projector_ori.pos_emb"}
    done = convert(tmp_path / "ours", tmp_path / "back", FAMILY, "published")
    assert done.is_identical
    for name in ("config.json", "model.safetensors", "vision_tower/config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "golden" / name).read_bytes()


def test_both_layouts_open_as_one_model(published: Path, ours: Path):
    from beholder.checkpoints.loader import open_model

    one, other = open_model(published, FAMILY).state_dict(), open_model(ours, FAMILY).state_dict()
    assert same(one, other)


def test_weights_that_changed_are_written_under_published_names(ours: Path, tmp_path: Path):
    """After training in another precision the kept headers fit no more."""
    trained = Path(shutil.copytree(ours, tmp_path / "trained"))
    for path in trained.glob("*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    done = convert(trained, tmp_path / "back", FAMILY, "published")
    assert not done.is_identical
    table = FAMILY.key_table(None)
    wanted = {table.theirs(name): tensor for name, tensor in tensors_of(trained).items()}
    assert same(tensors_of(tmp_path / "back"), wanted)
    assert read_contents(tmp_path / "back").files == done.files


def test_without_what_was_kept_the_model_still_goes_back(ours: Path, published: Path, tmp_path: Path):
    """As after `save_pretrained`, which writes our form and knows nothing of the original files."""
    bare = Path(shutil.copytree(ours, tmp_path / "bare"))
    (bare / KEPT_CONFIG).unlink()
    (bare / KEPT_LAYOUT).unlink()
    convert(bare, tmp_path / "back", FAMILY, "published")
    assert same(tensors_of(tmp_path / "back"), tensors_of(published))
    again = FAMILY.config_from_published(read_config(tmp_path / "back"), tmp_path / "back")
    assert again.to_dict() == FAMILY.config_from_published(read_config(published), published).to_dict()


def test_a_changed_config_is_not_replaced_by_the_kept_one(ours: Path, tmp_path: Path):
    changed = Path(shutil.copytree(ours, tmp_path / "changed"))
    config = read_config(changed)
    config["text_config"]["max_position_embeddings"] = 64
    (changed / "config.json").write_text(json.dumps(config))
    convert(changed, tmp_path / "back", FAMILY, "published")
    assert read_config(tmp_path / "back")["max_position_embeddings"] == 64


def test_pickled_weights_convert(published: Path, tmp_path: Path):
    pickled = tmp_path / "pickled"
    shutil.copytree(published, pickled, ignore=shutil.ignore_patterns("*.safetensors", INDEX))
    torch.save(tensors_of(published), pickled / "pytorch_model.bin")
    convert(pickled, tmp_path / "ours", FAMILY, "ours")
    table = FAMILY.key_table(None)
    wanted = {str(table.ours(name)): tensor for name, tensor in tensors_of(published).items()}
    assert same(tensors_of(tmp_path / "ours"), wanted)
    assert not (tmp_path / "ours" / "pytorch_model.bin").exists()


def test_what_exists_is_not_written_over(published: Path, tmp_path: Path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ConfigError, match="is not an empty folder"):
        convert(published, tmp_path, FAMILY, "ours")
    with pytest.raises(ConfigError, match="is not an empty folder"):
        convert(published, tmp_path / "note", FAMILY, "ours")
    assert bytes_of(tmp_path) == {"note": b"mine"}


def test_an_empty_folder_may_be_filled(published: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    convert(published, tmp_path / "empty", FAMILY, "ours")
    assert (tmp_path / "empty" / "config.json").is_file()


@pytest.mark.parametrize(
    ("layout", "sentence"), [("published", "published layout already"), ("sat", "known: published, ours")]
)
def test_layouts_that_make_no_sense(published: Path, tmp_path: Path, layout, sentence):
    with pytest.raises(ConfigError, match=sentence):
        convert(published, tmp_path / "new", FAMILY, layout)


def test_a_checkpoint_that_does_not_fit_is_refused(published: Path, tmp_path: Path):
    broken = Path(shutil.copytree(published, tmp_path / "broken"))
    (broken / "model-b.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of the 2 weight files"):
        convert(broken, tmp_path / "new", FAMILY, "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_a_failure_on_the_way_leaves_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(writer, "copy_other_files", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(published, tmp_path / "new", FAMILY, "ours")
    assert list(tmp_path.iterdir()) == []


def test_a_large_tensor_goes_through_in_pieces(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streams, "CHUNK_BYTES", 100)
    convert(published, tmp_path / "ours", FAMILY, "ours")
    assert len(tensors_of(tmp_path / "ours")) == len(tensors_of(published))
    assert same(
        tensors_of(tmp_path / "ours"),
        {str(FAMILY.key_table(None).ours(name)): tensor for name, tensor in tensors_of(published).items()},
    )
