"""Adapters, projectors and tiles answer as the originals did, token for token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.golden_llava import CLIP, FOLDER, beside_base, expand, model_of, recorded, told

from beholder import Message, load
from beholder.checkpoints.assembled import Files
from beholder.checkpoints.doctor import diagnose
from beholder.core.errors import CheckpointError
from beholder.families import identify_folder
from beholder.families.llava.config import BeholderLlavaConfig
from beholder.families.llava.layout import padded, published
from beholder.families.llava.modeling import LlavaForConditionalGeneration
from beholder.families.llava.sources import read

CHANGED = {"lora": "llava-tiny-lora", "stage1": "llava-tiny-pretrain"}


@pytest.mark.parametrize("kind", CHANGED)
def test_greedy_tokens(kind, tmp_path):
    folder = beside_base(kind, CHANGED[kind], tmp_path)
    model = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    io = recorded(kind)
    generated = next(value for name, value in io.items() if "generated" in name or "greedy" in name)
    ids = expand(io["input_ids"][0], 16)
    out = model.generate(
        ids,
        pixel_values=io["pixel_values"],
        attention_mask=torch.ones_like(ids),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        max_length=None,
    )
    assert out[0, ids.shape[1] :].tolist() == generated.flatten().tolist()[-16:]
    text = io["input_ids"][:, :40].clamp(min=0)
    with torch.no_grad():
        logits = model(text).logits[:, -1, :512]
    torch.testing.assert_close(logits, io["text_logits_first40"].reshape(logits.shape), rtol=0, atol=1e-5)


PREFIXES = {
    "bare": lambda name: name.removeprefix("model.mm_projector."),
    "without model": lambda name: name.removeprefix("model."),
    "peft": lambda name: f"base_model.model.{name}",
    "data parallel": lambda name: f"module.{name}",
    "both": lambda name: f"module.base_model.model.{name}",
    "another language model": lambda name: name.replace("model.", "transformer.", 1),
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_projector_under_other_names(prefix, tmp_path):
    """The original looks for `mm_projector.` and not for what stands before it."""
    folder = beside_base("stage1", "llava-tiny-pretrain", tmp_path)
    wanted = read(folder).tensors
    stored = torch.load(folder / "mm_projector.bin", weights_only=True)
    renamed = {PREFIXES[prefix](name): tensor for name, tensor in stored.items()}
    torch.save(renamed, folder / "mm_projector.bin")
    found = read(folder).tensors
    assert {name: header.shape for name, header in found.items()} == {
        name: header.shape for name, header in wanted.items()
    }
    for name, tensor in stored.items():
        assert torch.equal(Files(read(folder)).read(found[name], name), tensor)
    assert diagnose(folder, identify_folder).is_healthy


def test_what_was_trained_beside_an_adapter_under_other_names(tmp_path):
    folder = beside_base("lora", "llava-tiny-lora", tmp_path)
    file = folder / "non_lora_trainables.bin"
    stored = torch.load(file, weights_only=True)
    assert all(name.startswith("base_model.model.model.mm_projector.") for name in stored)
    wanted = read(folder).tensors.keys()
    for shorter in ("base_model.", "base_model.model.", "base_model.model.model."):
        torch.save({name.removeprefix(shorter): tensor for name, tensor in stored.items()}, file)
        assert read(folder).tensors.keys() == wanted
    twice = {f"module.{name}": tensor for name, tensor in stored.items()} | stored
    torch.save(twice, file)
    with pytest.raises(CheckpointError, match=r"holds model\.mm_projector\.0\.\w+ twice"):
        read(folder)


def with_tokenizer(folder: Path) -> Path:
    for file in (FOLDER / "tokenizer").glob("*[!d]"):
        shutil.copy(file, folder)
    return folder


def with_tiles(place: Path) -> Path:
    """The golden as a published checkpoint of LLaVA-1.6's kind, with the learned end of a row."""
    shutil.copytree(CLIP, place / CLIP.name)
    folder = with_tokenizer(Path(shutil.copytree(FOLDER / "llava" / "model", place / "model")))
    config = told("llava/model/config.json") | {
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": told("llava/cases.json")["anyres"]["image_grid_pinpoints"],
        "mm_patch_merge_type": "spatial_unpad",
        "max_position_embeddings": 1024,
    }
    (folder / "config.json").write_text(json.dumps(config))
    held = load_file(folder / "model.safetensors")
    held["model.image_newline"] = recorded("llava")["anyres.image_newline"]
    save_file(held, folder / "model.safetensors")
    return folder


def test_pictures_in_tiles_from_load_to_answer(tmp_path):
    """The prompt has as many places as the original's merged row, and the features in them are its own."""
    from PIL import Image

    vlm = load(with_tiles(tmp_path), device="cpu")
    pictures = [Image.open(FOLDER / "llava" / f"anyres_image{number}.png") for number in range(2)]
    inputs = vlm.processor.encode([Message.user(*pictures, "What?")])
    slots = int((inputs["input_ids"] == vlm.processor.image_token_id).sum())
    io = recorded("llava")
    words = int((io["anyres.input_ids"] != -200).sum())
    assert slots == io["anyres.spatial_unpad.inputs_embeds"].shape[1] - words
    with torch.no_grad():
        found = vlm.model.get_image_features(inputs["pixel_values"], image_sizes=inputs["image_sizes"])
    assert sum(len(features) for features in found.pooler_output) == slots
    for number, tiles in enumerate(inputs["pixel_values"]):
        wanted = io[f"anyres.image{number}.pixel_values"]
        torch.testing.assert_close(tiles[: len(wanted)], wanted, rtol=0, atol=1e-6)
    answer = vlm.chat([Message.user(pictures[0], "What?")], max_tokens=4)
    assert answer.usage.completion_tokens > 0
    assert answer.usage.picture_tokens > 16
    vlm.close()


RELATIVES = {
    # SVIT's weights are LLaVA-1.5's in every respect but the numbers.
    "svit": {"model_type": "llava_llama", "_name_or_path": "svit-v1.5"},
    # Yi-VL: a norm after each linear layer of the projector, a template of its own, the bigger CLIP.
    "yi-vl": {"mm_projector_type": "mlp2x_gelu_Norm", "model_type": "llava", "image_aspect_ratio": "pad"},
}


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_open_and_answer(name, tmp_path):
    shutil.copytree(CLIP, tmp_path / CLIP.name)
    folder = with_tokenizer(Path(shutil.copytree(FOLDER / "llava" / "model", tmp_path / "model")))
    config = told("llava/model/config.json") | RELATIVES[name]
    (folder / "config.json").write_text(json.dumps(config))
    if name == "yi-vl":
        held = {
            key: value
            for key, value in load_file(folder / "model.safetensors").items()
            if "mm_proj" not in key
        }
        torch.manual_seed(0)
        for index, width in ((0, 32), (3, 64)):
            held[f"model.mm_projector.{index}.weight"] = torch.randn(64, width) / width**0.5
            held[f"model.mm_projector.{index}.bias"] = torch.zeros(64)
            for kind in ("weight", "bias"):
                held[f"model.mm_projector.{index + 1}.{kind}"] = torch.full((64,), float(kind == "weight"))
        save_file(held, folder / "model.safetensors")
    vlm = load(folder, device="cpu")
    answer = vlm.ask(FOLDER / "preprocess" / "square.png", "What is it?", max_tokens=4)
    assert answer.usage.picture_tokens == 16
    if name == "yi-vl":
        assert vlm.processor.template_name == "yi_vl"
        assert "###" in vlm.processor.template.stop_text
    else:
        for key, tensor in model_of("llava").state_dict().items():
            assert torch.equal(vlm.model.state_dict()[key], tensor), key
    vlm.close()


YI_VL = {  # what its config.json says besides the sizes
    "_name_or_path": "/mnt/pretrain/Yi-6B-Chat", "architectures": ["LlavaLlamaForCausalLM"],
    "bos_token_id": 1, "eos_token_id": 2, "freeze_mm_mlp_adapter": False, "hidden_act": "silu",
    "image_aspect_ratio": "pad", "initializer_range": 0.02, "mm_projector_type": "mlp2x_gelu_Norm",
    "mm_use_im_patch_token": False, "mm_use_im_start_end": False, "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2, "mm_vision_tower": "./vit/clip-vit-H-14-yi-vl-448", "model_type": "llava",
    "num_key_value_heads": 2, "pad_token_id": 0, "pretraining_tp": 1, "rope_scaling": None,
    "rope_theta": 5000000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0", "tune_mm_mlp_adapter": False, "use_cache": True, "use_mm_proj": True,
}  # fmt: skip


def test_yi_vl_as_its_authors_lay_it_out(tmp_path):
    """Shards of `.bin` with an index, fewer heads for keys, and the tower as `.bin` in a folder inside."""
    folder = with_tokenizer(Path(shutil.copytree(FOLDER / "llava" / "model", tmp_path / "model")))
    tower = Path(shutil.copytree(CLIP, folder / "vit" / "clip-vit-H-14-yi-vl-448"))
    torch.save(load_file(tower / "model.safetensors"), tower / "pytorch_model.bin")
    (tower / "model.safetensors").unlink()
    sizes = {key: value for key, value in told("llava/model/config.json").items() if key not in YI_VL}
    (folder / "config.json").write_text(json.dumps(sizes | YI_VL))
    model = LlavaForConditionalGeneration(BeholderLlavaConfig.from_pretrained(folder)).to(torch.bfloat16)
    table, rows = published(model.config), padded(model.config)
    stored = {
        table.theirs(name): tensor[: rows.get(name)].clone() if tensor.ndim else tensor
        for name, tensor in model.state_dict().items()
        if "vision_tower" not in name
    }
    (folder / "model.safetensors").unlink()
    placed = {}
    for number, names in enumerate((sorted(stored)[::2], sorted(stored)[1::2]), start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: stored[name] for name in names}, folder / file)
        placed |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 1}, "weight_map": placed}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert diagnose(folder, identify_folder, deep=True).findings == ()
    vlm = load(folder, device="cpu")
    assert vlm.processor.template_name == "yi_vl"
    assert vlm.model.config.text_config.rope_parameters["rope_theta"] == 5000000.0
    opened = vlm.model.state_dict()
    for name, tensor in model.state_dict().items():
        if "vision_tower" not in name:
            used = rows.get(name)
            assert torch.equal(opened[name][:used], tensor[:used]), name
    tower_own = load_file(CLIP / "model.safetensors")
    name = "embeddings.patch_embedding.weight"
    theirs = next(tensor for key, tensor in tower_own.items() if key.endswith(name))
    assert torch.equal(opened[f"model.vision_tower.{name}"], theirs.to(torch.bfloat16))
    assert vlm.ask(FOLDER / "preprocess" / "square.png", "What?", max_tokens=2).usage.picture_tokens == 16
    vlm.close()


def laid_out(name: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The recorded training rows without padding, pictures spread, cut to `name`'s width: ids and labels."""
    io = recorded("llava")
    rows, labels = [], []
    for ids, merged, mask in zip(
        io["train_batch.input_ids"],
        io["train_batch.merged.labels"],
        io["train_batch.merged.attention_mask"],
        strict=True,
    ):
        length = int(mask.sum())
        rows.append(expand(ids, 16)[0][:length])
        labels.append(merged[:length])
    width = io[f"{name}.attention_mask"].shape[1]
    return [row[:width] for row in rows], [row[:width] for row in labels]


@pytest.mark.parametrize("name", ["left_pad", "truncate60"])
def test_rows_padded_on_the_left_and_rows_cut_short(name):
    """Where the original pads or cuts, ids, labels, positions and embeddings are those of our rows."""
    io, model = recorded("llava"), model_of("llava")
    rows, labels = laid_out(name)
    mask = io[f"{name}.attention_mask"].bool()
    words = model.get_input_embeddings()
    with torch.no_grad():
        features = model.get_image_features(io["train_batch.pixel_values"][:1]).pooler_output[0]
    for row, (ids, wanted) in enumerate(zip(rows, labels, strict=True)):
        is_slot = ids == model.config.image_token_id
        embedded = words(ids.clamp(max=511)).detach().clone()
        embedded[is_slot] = features[: int(is_slot.sum())]
        assert int(mask[row].sum()) == len(ids)
        assert mask[row].tolist() == (
            [False] * (mask.shape[1] - len(ids)) + [True] * len(ids)
            if name == "left_pad"
            else [True] * len(ids) + [False] * (mask.shape[1] - len(ids))
        )
        assert torch.equal(io[f"{name}.labels"][row][mask[row]], wanted)
        assert io[f"{name}.position_ids"][row][mask[row]].tolist() == list(range(len(ids)))
        if name == "left_pad":
            theirs = io["left_pad.inputs_embeds_row_norms"][row][mask[row]]
            torch.testing.assert_close(embedded.norm(dim=-1), theirs, rtol=0, atol=1e-5)
        else:
            torch.testing.assert_close(
                embedded, io["truncate60.inputs_embeds"][row][mask[row]], rtol=0, atol=1e-5
            )
