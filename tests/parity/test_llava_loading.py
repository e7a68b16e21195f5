"""Every way a LLaVA or InternVL-Chat checkpoint comes: folders, towers, adapters, projectors, layouts."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.parity.golden_llava import (
    FOLDER,
    ROWS,
    beside_base,
    close,
    expand,
    inputs_of,
    manifest,
    model_of,
    recorded,
    told,
)

from beholder.checkpoints.loader import open_model
from beholder.checkpoints.reader import read_contents
from beholder.checkpoints.writer import convert
from beholder.core.errors import CheckpointError, ConfigError
from beholder.families import family, identify_folder
from beholder.families.llava.config import BeholderLlavaConfig
from beholder.families.llava.layout import hub, padded, published
from beholder.families.llava.modeling import LlavaForConditionalGeneration
from beholder.families.llava.published import is_published
from beholder.families.llava.views import LlavaImageProcessor

LARGE = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "model_type": "llava",
    "architectures": ["LlavaLlamaForCausalLM"], "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_use_im_patch_token": False, "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_hidden_size": 1024,
    "image_aspect_ratio": "pad", "num_key_value_heads": 32,
}  # fmt: skip
LARGER = {
    "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 40,
}  # fmt: skip
INTERN = {"mm_hidden_size": 3200, "mm_vision_select_layer": -4}
CONFIGS = {
    "llava-1.5-7b": LARGE,
    "llava-1.5-13b": LARGE | LARGER,
    "internvl-chat-7b": LARGE | INTERN | {"mm_vision_tower": "OpenGVLab/InternViT-6B-224px"},
    "internvl-chat-13b": LARGE | LARGER | INTERN | {"mm_vision_tower": "OpenGVLab/InternViT-6B-224px"},
    "internvl-chat-13b-448": LARGE | LARGER | INTERN | {"mm_vision_tower": "OpenGVLab/InternViT-6B-448px"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_published_tensor_has_its_place(name):
    """Headers alone stand in for the weights, and the model is built on the meta device."""
    shapes = manifest(name)
    config = BeholderLlavaConfig.from_published(CONFIGS[name])
    if (table := shapes.get("model.vision_tower.vision_tower.embeddings.position_embedding")) is not None:
        side = round((table[1] - 1) ** 0.5) * 14
        config.vision_config.image_size = [side, side]
    else:
        tower = manifest("clip-vit-l-14-336-vision")
        shapes |= {f"model.vision_tower.vision_tower.{key}": shape for key, shape in tower.items()}
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    names, rows = published(config), padded(config)
    wanted = {
        name: [rows.get(name, tensor.shape[0]), *tensor.shape[1:]] if tensor.shape else []
        for name, tensor in model.state_dict().items()
    }
    placed: dict[str, list[int]] = {}
    for theirs, shape in shapes.items():
        ours = names.ours(theirs)
        if ours is None:
            assert theirs.endswith(("rotary_emb.inv_freq", "position_ids"))
            continue
        parts = names.parts(ours)
        placed |= {part: [shape[0] // len(parts), *shape[1:]] for part in parts}
        assert {names.theirs(part) for part in parts} == {theirs}
    assert placed == wanted
    assert set(rows.values()) == {32000}
    assert model.lm_head.weight.shape[0] == 32064
    assert config.image_token_id == 32000


@pytest.mark.parametrize(("size", "rows", "side"), [("224", 257, 336), ("448", 1025, 448)])
def test_an_internvit_without_a_table_in_the_checkpoint(size, rows, side):
    name = "internvl-chat-13b-448" if size == "448" else "internvl-chat-7b"
    config = BeholderLlavaConfig.from_published(CONFIGS[name])
    assert config.picture_side == side
    assert config.tile_slots == (side // 14) ** 2
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    table = published(config)
    prefix = "model.vision_tower.vision_tower."
    for key, shape in manifest(f"internvit-6b-{size}").items():
        parts = table.parts(str(table.ours(prefix + key)))
        assert [model.get_parameter(part).shape[0] * len(parts) for part in parts[:1]] == shape[:1]
    assert model.model.vision_tower.embeddings.position_embeddings.shape[1] == rows


def test_tables_that_old_versions_stored_are_dropped():
    table = published(model_of("llava").config)
    listed = gzip.decompress((FOLDER / "manifests" / "manifest-optional-inv_freq.json.gz").read_bytes())
    for names in json.loads(listed).values():
        assert all(table.ours(name) is None for name in names)
    assert table.ours("model.vision_tower.vision_tower.vision_model.embeddings.position_ids") is None


def test_the_family_comes_from_content(tmp_path):
    for kind, name in (("llava", "llava"), ("internvl", "internvl_chat")):
        folder = shutil.copytree(FOLDER / kind / "model", tmp_path / kind / "intern_vit_6b_448px-cogvlm")
        for tower in (FOLDER / kind).iterdir():
            if tower.is_dir() and tower.name != "model":
                shutil.copytree(tower, tmp_path / kind / tower.name)
        assert identify_folder(Path(folder)).name == name
        assert BeholderLlavaConfig.from_pretrained(folder).picture_side == {"llava": 56, "internvl": 84}[kind]


def test_published_and_converted_files_say_the_same_type():
    assert is_published(LARGE)
    assert is_published(LARGE | {"model_type": "llava_llama"})
    assert not is_published(model_of("llava").config.to_dict())
    assert not is_published(
        {"model_type": "llava", "text_config": {}, "architectures": ["LlavaForConditionalGeneration"]}
    )


def test_pickled_weights(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(FOLDER / "llava" / "model", folder)
    shutil.copytree(FOLDER / "llava" / "clip-vit-tiny-patch14-56", tmp_path / "clip-vit-tiny-patch14-56")
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    torch.save(stored, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model = open_model(folder, identify_folder(folder), device="cpu")
    for name, tensor in model_of("llava").state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_the_tower_in_the_checkpoint_wins():
    """In the golden the tower's folder has the table before it was resized, the checkpoint the one after."""
    io, model = recorded("internvl"), model_of("internvl")
    table = model.model.vision_tower.embeddings.position_embeddings
    close(table, io["pos_embed.static_resize_from_llm_checkpoint"], 0)


def test_the_tower_from_its_folder_is_resized_as_it_runs(tmp_path):
    shutil.copytree(FOLDER / "internvl" / "pretrained", tmp_path / "pretrained")
    folder = shutil.copytree(FOLDER / "internvl" / "model", tmp_path / "model")
    stored = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in stored.items() if "vision_tower" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    model = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    io = recorded("internvl")
    embeddings = model.model.vision_tower.embeddings
    close(embeddings.position_embeddings, io["pos_embed.stored"], 0)
    close(embeddings.interpolate_pos_encoding(torch.zeros(1), 84, 84), io["pos_embed.interpolated"], 1e-6)
    for case in ("native_resolution", "one_image"):
        with torch.no_grad():
            logits = model(**inputs_of("internvl", case)).logits
        close(logits[:, -1, :ROWS], io[f"{case}.last_logits"])


def test_a_tower_that_is_nowhere(tmp_path):
    folder = shutil.copytree(FOLDER / "llava" / "model", tmp_path / "model")
    with pytest.raises(ConfigError, match="clip-vit-tiny-patch14-56' is unknown"):
        LlavaForConditionalGeneration.from_pretrained(folder)


def logits_of(model: LlavaForConditionalGeneration, kind: str) -> torch.Tensor:
    io = recorded(kind)
    with torch.no_grad():
        return model(expand(io["input_ids"][0], 16), pixel_values=io["pixel_values"]).logits[..., :ROWS]


def test_a_projector_folder(tmp_path):
    folder = beside_base("stage1", "llava-tiny-pretrain", tmp_path)
    assert identify_folder(folder).name == "llava"
    close(
        logits_of(LlavaForConditionalGeneration.from_pretrained(folder), "stage1"),
        recorded("stage1")["logits"],
    )


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("saved", ["bin", "safetensors"])
def test_an_adapter_folder(tmp_path, merge, saved):
    folder = beside_base("lora", "llava-tiny-lora", tmp_path)
    if saved == "safetensors":
        (folder / "adapter_model.bin").unlink()
        shutil.copy(FOLDER / "lora" / "llava-tiny-lora-safetensors" / "adapter_model.safetensors", folder)
    model = LlavaForConditionalGeneration.from_pretrained(
        folder, base=tmp_path / "vicuna-tiny", merge_adapter=merge, attn_implementation="eager"
    )
    logits = logits_of(model, "lora")
    close(logits, recorded("lora")["logits"])
    close(logits[:, -1], recorded("lora")["unmerged_last_logits"])
    has_adapter = any("lora_A" in name for name, _ in model.named_parameters())
    assert has_adapter != merge
    if merge:
        norms = told("lora/info.json")["merged_weight_l2"]
        table = published(model.config)
        for name, norm in norms.items():
            assert model.get_parameter(str(table.ours(name))).norm().item() == pytest.approx(norm, rel=1e-6)


def test_an_adapter_whose_base_is_unknown(tmp_path):
    folder = beside_base("lora", "llava-tiny-lora", tmp_path)
    shutil.rmtree(tmp_path / "vicuna-tiny")
    with pytest.raises(CheckpointError, match="base model 'vicuna-tiny', which is neither a folder here nor"):
        LlavaForConditionalGeneration.from_pretrained(folder)


def test_missing_and_unknown_tensors_are_named(tmp_path):
    shutil.copytree(FOLDER / "llava" / "clip-vit-tiny-patch14-56", tmp_path / "clip-vit-tiny-patch14-56")
    folder = shutil.copytree(FOLDER / "llava" / "model", tmp_path / "model")
    stored = load_file(folder / "model.safetensors")
    stored["model.mm_projector.4.weight"] = stored.pop("model.mm_projector.2.weight")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 missing: model\.mm_projector\.2\.weight, 1 unknown"):
        LlavaForConditionalGeneration.from_pretrained(folder)


def copied(kind: str, place: Path) -> Path:
    """A published golden with its tower beside it, and with a tokenizer."""
    for inside in (FOLDER / kind).iterdir():
        if inside.is_dir():
            shutil.copytree(inside, place / inside.name)
    for file in (FOLDER / "tokenizer").iterdir():
        shutil.copy(file, place / "model")
    return place / "model"


@pytest.mark.parametrize("to", ["ours", "llava-hf"])
@pytest.mark.parametrize("kind", ["llava", "internvl"])
def test_there_and_back_byte_for_byte(kind, to, tmp_path):
    source = copied(kind, tmp_path)
    found = identify_folder(source)
    there = convert(source, tmp_path / "there", found, to)
    assert identify_folder(there.target).name == found.name
    if to == "llava-hf":
        names = set(read_contents(there.target).tensors)
        assert {"language_model.lm_head.weight", "language_model.model.norm.weight"} <= names
        assert names == {hub(model_of(kind).config).theirs(name) for name in model_of(kind).state_dict()}
    back = convert(there.target, tmp_path / "back", found, "published")
    assert back.is_identical
    assert {path.name: path.read_bytes() for path in back.target.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    model = open_model(there.target, found, device="cpu")
    for name, tensor in model_of(kind).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


PLAIN = """
import sys
sys.modules["beholder"] = None  # as where it is not installed: importing it, or from it, is an ImportError
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, inputs, out = sys.argv[1:]
options = {"output_loading_info": True, "attn_implementation": "eager"}
model, info = AutoModelForImageTextToText.from_pretrained(folder, **options)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
with torch.no_grad():
    logits = model(**load_file(inputs)).logits
processor = AutoProcessor.from_pretrained(folder)
wide, tall = Image.linear_gradient("L").convert("RGB").resize((90, 40)), Image.new("RGB", (30, 71), "red")
pixels = processor.image_processor([wide, tall], return_tensors="pt")["pixel_values"]
tokenizer = processor.tokenizer
assert tokenizer.convert_tokens_to_ids("<image>") == model.config.image_token_id
ids = model.generate(**load_file(inputs), max_new_tokens=4, do_sample=True, temperature=100.0,
max_length=None)
assert not [name for name in sys.modules if name.startswith("beholder.")]
save_file({"logits": logits, "ids": ids, "pixels": pixels}, out)
"""


@pytest.mark.parametrize("to", ["ours", "llava-hf"])
@pytest.mark.parametrize("kind", ["llava", "internvl"])
def test_a_converted_folder_opens_without_this_package(kind, to, tmp_path):
    source = copied(kind, tmp_path)
    there = convert(source, tmp_path / "there", identify_folder(source), to).target
    save_file(inputs_of(kind, "one_image"), tmp_path / "inputs.safetensors")
    subprocess.run(
        [sys.executable, "-c", PLAIN, there, tmp_path / "inputs.safetensors", tmp_path / "out.safetensors"],
        check=True,
    )
    out = load_file(tmp_path / "out.safetensors")
    close(out["logits"][..., :ROWS], recorded(kind)["one_image.logits"])
    new = out["ids"][0, inputs_of(kind, "one_image")["input_ids"].shape[1] :]
    assert int(new.max()) < ROWS, "rows that fill up the vocabulary are never generated"
    wide = Image.linear_gradient("L").convert("RGB").resize((90, 40))
    views = LlavaImageProcessor.from_model_config(model_of(kind).config)
    wanted = views([wide, Image.new("RGB", (30, 71), "red")], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(out["pixels"], wanted, atol=1e-5, rtol=0)


def test_an_adapter_is_merged_by_converting(tmp_path):
    folder = beside_base("lora", "llava-tiny-lora", tmp_path)
    done = convert(folder, tmp_path / "merged", family("llava"), "published", allow_loss=True)
    assert not any("vision_tower" in name for name in read_contents(done.target).tensors)
    close(
        logits_of(open_model(done.target, family("llava"), device="cpu"), "lora"), recorded("lora")["logits"]
    )


@pytest.mark.parametrize("name", ["linear", "mlp3x_gelu", "identity", "mlp2x_gelu_ln", "mlp2x_gelu_Norm"])
def test_other_projectors_there_and_back(name, tmp_path):
    """They keep a model type of their own, so that transformers' LLaVA never opens them with random
    weights."""
    source = copied("llava", tmp_path)
    config = told("llava/model/config.json") | {"mm_projector_type": name}
    if name == "identity":
        config["hidden_size"] = 32
    (source / "config.json").write_text(json.dumps(config))
    model = LlavaForConditionalGeneration(BeholderLlavaConfig.from_pretrained(source))
    table = published(model.config)
    rows = padded(model.config)
    stored = {
        table.theirs(ours): tensor[: rows.get(ours)].contiguous() if ours in rows else tensor
        for ours, tensor in model.state_dict().items()
        if not ours.startswith("model.vision_tower.")
    }
    save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
    there = convert(source, tmp_path / "there", family("llava"), "ours").target
    assert json.loads((there / "config.json").read_text())["model_type"] == "beholder_llava"
    opened = open_model(there, identify_folder(there), device="cpu").state_dict()
    for ours, tensor in model.state_dict().items():
        if not ours.startswith("model.vision_tower."):
            used = rows.get(ours, len(tensor))
            assert torch.equal(opened[ours][:used], tensor[:used])
    assert convert(there, tmp_path / "back", family("llava"), "published").is_identical
    with pytest.raises(ConfigError, match="there is no llava-hf layout of this model"):
        convert(source, tmp_path / "hub", family("llava"), "llava-hf")


def test_unknown_settings_about_pictures_are_refused():
    with pytest.raises(ConfigError, match=r"unknown keys in the published LLaVA .*mm_vision_towr"):
        BeholderLlavaConfig.from_published(LARGE | {"mm_vision_towr": "x"})
    with pytest.raises(ConfigError, match="features of several scales"):
        BeholderLlavaConfig.from_published(LARGE | {"s2": True})


@pytest.mark.parametrize("name", CONFIGS)
def test_published_configuration_there_and_back(name):
    config = BeholderLlavaConfig.from_published(CONFIGS[name])
    again = BeholderLlavaConfig.from_published(config.to_published())
    assert again.to_dict() == config.to_dict()
    back = config.to_published()
    assert {key for key, value in CONFIGS[name].items() if back.get(key) != value} == {"model_type"}


def test_the_auto_classes_open_every_layout(tmp_path):
    from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

    source = copied("internvl", tmp_path)
    whole = AutoModelForImageTextToText.from_pretrained(source)
    assert type(whole) is LlavaForConditionalGeneration
    assert type(AutoModelForMultimodalLM.from_pretrained(source)) is LlavaForConditionalGeneration
    whole.save_pretrained(tmp_path / "saved")
    body = AutoModel.from_pretrained(tmp_path / "saved")
    wanted = model_of("internvl").model.state_dict()
    assert body.state_dict().keys() == wanted.keys()
    assert all(torch.equal(body.state_dict()[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("to", ["ours", "llava-hf"])
def test_pickled_there_and_back(to, shards, tmp_path):
    """Names, order, formats, bits and files come back, also of tensors that no other layout has."""
    source = copied("llava", tmp_path)
    stored = load_file(source / "model.safetensors")
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.arange(8.0)
    (source / "model.safetensors").unlink()
    names = list(stored)
    if shards == 1:
        torch.save(stored, source / "pytorch_model.bin")
    else:
        placed = {}
        for number in (1, 2):
            file = f"pytorch_model-0000{number}-of-00002.bin"
            torch.save({name: stored[name] for name in names[number - 1 :: 2]}, source / file)
            placed |= dict.fromkeys(names[number - 1 :: 2], file)
        index = {"metadata": {"total_size": 1}, "weight_map": placed}
        (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    there = convert(source, tmp_path / "there", family("llava"), to)
    assert there.dropped == ("model.layers.0.self_attn.rotary_emb.inv_freq",)
    back = convert(there.target, tmp_path / "back", family("llava"), "published")
    assert back.checksum == there.checksum
    assert {path.name for path in back.target.iterdir()} == {path.name for path in source.iterdir()}
    for path in source.iterdir():
        if path.suffix != ".bin":
            assert (back.target / path.name).read_bytes() == path.read_bytes(), path.name
            continue
        ours, theirs = (torch.load(place / path.name, weights_only=True) for place in (back.target, source))
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_a_step_that_cannot_be_undone_needs_permission(tmp_path):
    folder = beside_base("lora", "llava-tiny-lora", tmp_path)
    with pytest.raises(ConfigError, match=r"the adapter in .* is merged.*--allow-loss"):
        convert(folder, tmp_path / "merged", family("llava"), "ours")
    assert not (tmp_path / "merged").exists()


def test_one_checksum_in_every_layout(tmp_path, capsys):
    from beholder.cli import main

    source = copied("internvl", tmp_path)
    sums = {to: convert(source, tmp_path / to, family("internvl_chat"), to) for to in ("ours", "llava-hf")}
    assert len({done.checksum for done in sums.values()}) == 1
    made_of = sums["ours"].map["model.vision_tower.encoder.layer.0.attention.q_proj.weight"]
    assert made_of == ("model.vision_tower.vision_tower.encoder.layers.0.attn.qkv.weight",)
    ours, back = str(tmp_path / "ours"), str(tmp_path / "back")
    assert main(["convert", ours, back, "--to", "published", "--map"]) == 0
    shown = capsys.readouterr().out
    assert sums["ours"].checksum in shown
    assert "attention.q_proj.weight + model.vision_tower" in shown
    changed = load_file(tmp_path / "back" / "model.safetensors")
    changed["model.norm.weight"][0] += 1
    save_file(changed, tmp_path / "back" / "model.safetensors")
    again = convert(tmp_path / "back", tmp_path / "again", family("internvl_chat"), "ours")
    assert again.checksum != sums["ours"].checksum
