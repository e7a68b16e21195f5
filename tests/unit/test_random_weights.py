"""Checkpoints of published sizes, of random numbers: names and shapes are as published, and they open."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import beholder
from beholder.cli import main
from beholder.core.errors import ConfigError
from beholder.families import family, identify_folder
from beholder.families.geometries import GEOMETRIES, geometry, published_config
from beholder.families.random_weights import stored_tensors, write_random

MANIFESTS = Path(__file__).resolve().parents[1] / "golden"
LISTED = {
    "llava-1.5-7b": "llava/manifests/manifest-llava-1.5-7b",
    "llava-1.5-13b": "llava/manifests/manifest-llava-1.5-13b",
    "internvl-chat-7b": "llava/manifests/manifest-internvl-chat-7b",
    "internvl-chat-13b": "llava/manifests/manifest-internvl-chat-13b",
    "internvl-chat-13b-448": "llava/manifests/manifest-internvl-chat-13b-448",
    "cogvlm-chat": "cogvlm/manifests/manifest-cogvlm-chat-hf",
    "cogvlm-base-224": "cogvlm/manifests/manifest-cogvlm-base-224-hf",
    "360vl-8b": "360vl/manifests/manifest-360vl-8b",
    "360vl-70b": "360vl/manifests/manifest-360vl-70b",
}
TOWER = "model.vision_tower.vision_tower."
TINY = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 640,
    "vision_config.hidden_size": 64, "vision_config.intermediate_size": 80, "vision_config.image_size": 56,
}  # fmt: skip
KINDS = {
    "llava-1.5-7b": {"num_key_value_heads": 4, "vision_config.num_attention_heads": 4},
    "internvl-chat-7b": {
        "num_key_value_heads": 4, "vision_config.num_attention_heads": 2, "vision_config.image_size": 336,
    },
    "cogvlm-chat": {"vision_config.num_heads": 4},
    "360vl-8b": {
        "num_key_value_heads": 2, "vision_config.num_attention_heads": 4,
        "visual_projector_config.hidden_size": 32, "visual_projector_config.num_queries": 16,
    },
}  # fmt: skip


def tiny(name: str) -> dict[str, object]:
    return TINY | KINDS[name]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_whole_size_has_the_published_tensors(name):
    """On the meta device; the LLaVA release holds no tower, so there its tower is more than was published."""
    size = geometry(name)
    of = family(size.family)
    config = of.config_from_published(published_config(size), Path())
    tensors, _ = stored_tensors(of, config, "published")
    shapes = {tensor.name: list(tensor.shape) for tensor in tensors}
    if name in LISTED:
        listed = json.loads(gzip.decompress((MANIFESTS / f"{LISTED[name]}.json.gz").read_bytes()))
        wanted = {key: told["shape"] for key, told in listed.items() if not key.endswith("inv_freq")}
        holds_tower = any(key.startswith(TOWER) for key in wanted)
        assert {key: s for key, s in shapes.items() if holds_tower or not key.startswith(TOWER)} == wanted
    elif size.family == "cogvlm":
        assert len(shapes) == 1155
    published = config.to_published()
    assert of.is_published(published)
    if "llava-hf" in of.other_layouts and size.family == "llava":
        hub, _ = stored_tensors(of, config, "llava-hf")
        assert next(t for t in hub if t.name == "language_model.lm_head.weight").shape[0] == 32064


@pytest.mark.parametrize("layout", ["published", "ours"])
@pytest.mark.parametrize("name", KINDS)
def test_a_tiny_one_opens_and_answers(name, layout, tmp_path):
    made = write_random(
        name,
        tmp_path / "m",
        layers=1,
        layout=layout,
        dtype="float32",
        changes=tiny(name),
        shard_bytes=300_000,
    )
    assert len(made.files) > 1
    assert identify_folder(made.folder).name == geometry(name).family
    vlm = beholder.load(made.folder, device="cpu")
    assert vlm.model.config.get_text_config().num_hidden_layers == 1
    answer = vlm.ask(Image.new("RGB", (50, 40), "green"), "What is this colour?", max_tokens=3)
    assert answer.usage.completion_tokens > 0
    assert answer.usage.picture_tokens > 0
    weights = [value for value in vlm.model.state_dict().values() if value.is_floating_point()]
    assert all(bool(value.isfinite().all()) for value in weights)


def test_all_layouts_of_a_size_hold_the_same_numbers_and_two_runs_agree(tmp_path):
    options = {"layers": 1, "changes": tiny("llava-1.5-7b"), "dtype": "bf16"}
    models = []
    for layout in ("published", "ours", "llava-hf", "published"):
        folder = tmp_path / f"{layout}{len(models)}"
        write_random("llava-1.5-7b", folder, layout=layout, **options)
        models.append(beholder.load(folder, device="cpu").model)
    first, ours, hub, again = (model.state_dict() for model in models)
    rows = 640
    for name, value in first.items():
        assert torch.equal(value, again[name])
        same = value[:rows] if value.shape[:1] == (704,) else value
        assert torch.equal(same, ours[name][: len(same)] if same.ndim else ours[name])
        assert torch.equal(same, hub[name][: len(same)] if same.ndim else hub[name])
    other = tmp_path / "other"
    write_random("llava-1.5-7b", other, seed=1, **options)
    changed = load_file(other / "model.safetensors")["model.mm_projector.0.weight"]
    assert not torch.equal(
        changed, load_file(tmp_path / "published0" / "model.safetensors")["model.mm_projector.0.weight"]
    )


def test_the_command_writes_what_it_says(tmp_path, capsys):
    folder = tmp_path / "made"
    arguments = [f"{key}={value}" for key, value in tiny("llava-1.5-7b").items()]
    code = main(
        [
            "models",
            "random",
            "llava-1.5-7b",
            str(folder),
            *arguments,
            "--layers",
            "2",
            "--dtype",
            "bf16",
            "--json",
        ]
    )
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    with safe_open(folder / "model.safetensors", "pt") as stored:
        assert len(stored.keys()) == told["tensors"]
        assert sum(stored.get_tensor(name).numel() for name in stored.keys()) == told["parameters"]
        assert stored.get_tensor("lm_head.weight").dtype == torch.bfloat16
        assert stored.get_tensor("model.norm.weight").eq(1).all()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 640
    text = "What is in the picture? 3 x-rays \u00e4\u4e2d"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize(("name", "rows"), [("llava-1.5-7b", 32000), ("360vl-8b", 128256)])
def test_the_tokenizer_has_the_published_size_and_ids(name, rows, tmp_path):
    from beholder.families.random_tokenizer import write_tokenizer

    write_tokenizer(tmp_path, geometry(name).tokenizer, rows, 4096)
    engine = json.loads((tmp_path / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in engine["added_tokens"]}
    if name == "360vl-8b":
        assert ids["<|reserved_special_token_44|>"] == 128049
        assert (ids["<|begin_of_text|>"], ids["<|eot_id|>"]) == (128000, 128009)
        assert max(ids.values()) == rows - 1
    else:
        assert ids == {"<unk>": 0, "<s>": 1, "</s>": 2}
        assert max(engine["model"]["vocab"].values()) == rows - 1


def test_what_cannot_be_made_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"no published size 'llava-9b'; known: llava-1\.5-7b"):
        write_random("llava-9b", tmp_path / "a")
    with pytest.raises(ConfigError, match="'hiden_size' is no setting"):
        write_random("llava-1.5-7b", tmp_path / "a", changes={"hiden_size": 3})
    with pytest.raises(ConfigError, match="layout 'sat' is unknown"):
        write_random("llava-1.5-7b", tmp_path / "a", layout="sat")
    with pytest.raises(ConfigError, match="too small for a tokenizer"):
        write_random(
            "llava-1.5-7b", tmp_path / "a", layers=1, changes=tiny("llava-1.5-7b") | {"vocab_size": 100}
        )
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_random("llava-1.5-7b", tmp_path)
