"""`beholder fetch` and `load` of hub ids, through huggingface_hub's own client, from a hub on loopback."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.hub_stand_in import Hub

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LLAVA = GOLDEN / "llava"
NAME = "owner/llava-tiny"
TOWER = "owner/clip-tiny"
BASE = "owner/vicuna-tiny"
ADAPTER = "owner/adapter-tiny"

ASK = """
import sys, beholder
from PIL import Image
vlm = beholder.load(sys.argv[1], device="cpu", dtype="float32")
answer = vlm.ask(Image.new("RGB", (30, 20), "red"), "What?", max_tokens=3)
print(vlm.family.name, answer.usage.completion_tokens)
"""


@pytest.fixture
def hub() -> Generator[Hub]:
    served = Hub()
    yield served
    served.close()


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Any:
    """Runs a program against the hub, with a cache of its own."""
    return partial(hub.run, tmp_path)


def with_names(folder: Path, source: Path, **changes: str) -> Path:
    """A copy of a checkpoint whose configuration names other models."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    for file in ("config.json", "adapter_config.json"):
        if (folder / file).is_file():
            told = json.loads((folder / file).read_text())
            told |= {key: value for key, value in changes.items() if key in told}
            (folder / file).write_text(json.dumps(told))
    return folder


def publish(hub: Hub, tmp_path: Path) -> None:
    """A checkpoint without its tower, and its tower."""
    source = with_names(tmp_path / "made" / "llava", LLAVA / "llava" / "model", mm_vision_tower=TOWER)
    for file in (LLAVA / "tokenizer").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    hub.put(NAME, source)
    hub.put(TOWER, LLAVA / "llava" / "clip-vit-tiny-patch14-56")


def parts_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return {part["role"]: part for part in json.loads(done.stdout)["parts"]}


def test_the_whole_set_is_fetched_pinned_and_opens_offline(hub, run, tmp_path):
    publish(hub, tmp_path)
    parts = parts_of(run("fetch", NAME, "--json"))
    assert {role: part["name"] for role, part in parts.items()} == {"model": NAME, "vision tower": TOWER}
    assert parts["model"]["commit"] == hub.commit(NAME)
    assert parts["vision tower"]["commit"] == hub.commit(TOWER)
    lock = json.loads((tmp_path / "hf" / "hub" / "beholder.lock.json").read_text())
    assert {key: pin["commit"] for key, pin in lock["pins"].items()} == {
        name: hub.commit(name) for name in (NAME, TOWER)
    }
    asked = len(hub.requests)
    done = run(NAME, offline=True, code=ASK)
    assert (done.returncode, done.stdout.strip()) == (0, "llava 3"), done.stderr
    assert len(hub.requests) == asked

    old = hub.commit(NAME)
    hub.repositories[NAME]["README.txt"] = b"changed"
    assert parts_of(run("fetch", NAME, "--json"))["model"]["commit"] == old
    assert len(hub.requests) == asked
    moved = parts_of(run("fetch", NAME, "--update", "--json"))["model"]
    assert moved["commit"] == hub.commit(NAME) != old


def test_a_download_that_breaks_goes_on_by_itself(hub, run, tmp_path):
    publish(hub, tmp_path)
    weights = max(hub.repositories[NAME], key=lambda name: len(hub.repositories[NAME][name]))
    whole = hub.repositories[NAME][weights]
    assert len(whole) > 100_000
    hub.cut[weights] = 50_000
    parts = parts_of(run("fetch", NAME, "--json"))
    asked = [
        path
        for method, path, _ in hub.requests
        if method == "GET" and path.startswith(f"/{NAME}/") and path.endswith(weights)
    ]
    assert len(asked) == 2
    assert (Path(parts["model"]["folder"]) / weights).read_bytes() == whole


def test_half_a_download_is_never_taken_for_a_whole_one(hub, run, tmp_path):
    publish(hub, tmp_path)
    weights = max(hub.repositories[NAME], key=lambda name: len(hub.repositories[NAME][name]))
    hub.broken.add(weights)
    broken = run("fetch", NAME)
    assert broken.returncode == 1
    assert broken.stderr.strip().splitlines()[-1].startswith(f"error: {NAME!r} could not be fetched")
    offline = run("fetch", NAME, offline=True)
    assert offline.returncode == 1
    assert f"run `beholder fetch {NAME}`" in offline.stderr
    hub.broken.clear()
    hub.requests.clear()
    parts_of(run("fetch", NAME, "--json"))
    fetched = [path for method, path, _ in hub.requests if method == "GET" and f"/{NAME}/resolve/" in path]
    assert [path.rsplit("/", 1)[-1] for path in fetched] == [weights]


def test_a_missing_part_is_named_with_the_command_that_fixes_it(hub, run, tmp_path):
    publish(hub, tmp_path)
    del hub.repositories[TOWER]
    done = run("fetch", NAME)
    assert done.returncode == 1
    assert f"{NAME} needs its vision tower {TOWER}" in done.stderr
    assert f"`beholder fetch {NAME}`" in done.stderr
    publish_again = LLAVA / "llava" / "clip-vit-tiny-patch14-56"
    hub.put(TOWER, publish_again)
    parts = parts_of(run("fetch", NAME, "--json"))
    tower = next(Path(parts["vision tower"]["folder"]).glob("*.safetensors"), None)
    tower = tower or next(Path(parts["vision tower"]["folder"]).glob("*.bin"))
    tower.unlink()
    offline = run("fetch", NAME, offline=True)
    assert offline.returncode == 1
    assert (
        f"only in part (1 of its {parts['vision tower']['files']} files are missing: {tower.name})"
        in offline.stderr
    )
    assert f"run `beholder fetch {TOWER}`" in offline.stderr
    parts_of(run("fetch", NAME, "--json"))
    assert tower.is_file()


def test_an_adapter_brings_its_base_and_what_lies_beside_it(hub, run, tmp_path):
    made = with_names(
        tmp_path / "made" / "adapter", LLAVA / "lora" / "llava-tiny-lora", mm_vision_tower=TOWER,
        base_model_name_or_path=BASE, _name_or_path=BASE,
    )  # fmt: skip
    (made / "adapter_model.bin").unlink()
    stored = LLAVA / "lora" / "llava-tiny-lora-safetensors" / "adapter_model.safetensors"
    (made / stored.name).write_bytes(stored.read_bytes())
    hub.put(ADAPTER, made)
    hub.put(BASE, LLAVA / "lora" / "vicuna-tiny")
    hub.put(TOWER, LLAVA / "llava" / "clip-vit-tiny-patch14-56")
    parts = parts_of(run("fetch", ADAPTER, "--json"))
    assert {role: part["name"] for role, part in parts.items()} == {
        "model": ADAPTER, "vision tower": TOWER, "base model": BASE,
    }  # fmt: skip
    beside = {path.name for path in made.iterdir()}
    assert {path.name for path in Path(parts["model"]["folder"]).iterdir()} == beside
    assert any("non_lora" in name for name in beside)


def test_what_the_published_files_leave_out_of_a_tokenizer_is_fetched_alone(hub, run, tmp_path):
    made = with_names(tmp_path / "made" / "cogvlm", GOLDEN / "cogvlm" / "model")
    hub.put("owner/cog", made, without=("tokenizer.model", "tokenizer.json"))
    vicuna = with_names(tmp_path / "made" / "vicuna", LLAVA / "lora" / "vicuna-tiny")
    for file in (LLAVA / "tokenizer").iterdir():
        (vicuna / file.name).write_bytes(file.read_bytes())
    hub.put("lmsys/vicuna-7b-v1.5", vicuna)
    part = parts_of(run("fetch", "owner/cog", "--json"))["tokenizer"]
    assert part["name"] == "lmsys/vicuna-7b-v1.5"
    names = {path.name for path in Path(part["folder"]).iterdir()}
    assert "tokenizer.model" in names
    assert not [name for name in names if name.endswith((".bin", ".safetensors"))]


def test_a_pickled_tower_in_a_folder_inside_comes_along(hub, run, tmp_path):
    """As Yi-VL is laid out; pickles beside the model's own safetensors stay where they are."""
    publish(hub, tmp_path)
    files = hub.repositories[NAME]
    files["vit/clip/config.json"], files["vit/clip/pytorch_model.bin"] = b"{}", b"tower"
    files["pytorch_model.bin"] = b"the same once more"
    folder = Path(parts_of(run("fetch", NAME, "--json"))["model"]["folder"])
    assert (folder / "vit" / "clip" / "pytorch_model.bin").read_bytes() == b"tower"
    assert not (folder / "pytorch_model.bin").exists()


def test_a_revision_that_is_not_there(hub, run, tmp_path):
    publish(hub, tmp_path)
    done = run("fetch", f"{NAME}@v9")
    assert done.returncode == 1
    assert f"{NAME} has no revision 'v9'" in done.stderr
