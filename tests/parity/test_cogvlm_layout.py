"""Every key, shape and setting of CogVLM's published checkpoints has its place in ours, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.golden_cogvlm import FOLDER, close, inputs_of, manifest, published_config, recorded

from beholder.checkpoints.accounting import account
from beholder.checkpoints.planning import Plan
from beholder.checkpoints.reader import Contents
from beholder.checkpoints.shards import TensorHeader
from beholder.checkpoints.splits import targets, whole_shape
from beholder.checkpoints.writer import convert
from beholder.core.errors import CheckpointError, ConfigError
from beholder.families import family, identify_folder
from beholder.families.cogvlm.config import CogVLMConfig
from beholder.families.cogvlm.layout import PUBLISHED
from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration, CogVLMModel

SIZES = {"chat-hf": 490, "base-224-hf": 224}  # base-490 and the grounding checkpoints are as chat
LAYERS = range(32)


def full_model(side: int) -> CogVLMForConditionalGeneration:
    with torch.device("meta"):
        return CogVLMForConditionalGeneration(CogVLMConfig(vision_config={"image_size": side}))


@pytest.mark.parametrize("name", SIZES)
def test_every_published_tensor_has_its_place(name):
    stored, side = manifest(name), SIZES[name]
    ours = {key: tuple(tensor.shape) for key, tensor in full_model(side).state_dict().items()}
    assert len(stored) == 1155
    held = {theirs: targets(PUBLISHED, theirs) for theirs in stored}
    assert sorted(part for parts in held.values() for part in parts) == sorted(ours)
    for theirs, parts in held.items():
        assert whole_shape([ours[part] for part in parts]) == tuple(stored[theirs])
    assert {PUBLISHED.theirs(parameter) for parameter in ours} == stored.keys()
    total = sum(torch.Size(shape).numel() for shape in ours.values())
    assert total == {490: 17_639_685_376, 224: 17_637_948_928}[side]


@pytest.mark.parametrize("with_tables", [False, True], ids=["without", "with"])
def test_the_account_of_a_published_checkpoint(with_tables):
    """With and without the 32 rotary tables that the release may hold."""
    shapes = {name: tuple(shape) for name, shape in manifest("chat-hf").items()}
    if with_tables:
        shapes |= {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": (64,) for n in LAYERS}
    tensors = {name: TensorHeader(shape, "BF16", "m", 0, 0) for name, shape in shapes.items()}
    net = full_model(490)
    wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    plan = Plan("published", net.config, PUBLISHED, wanted, frozenset(), ())
    found = account(Contents(Path(), ("m",), tensors), plan)
    assert found.holds
    assert len(found.dropped) == (32 if with_tables else 0)

    fused = "model.layers.3.self_attn.vision_expert_query_key_value.weight"
    wrong = {**tensors, fused: TensorHeader((12289, 4096), "BF16", "m", 0, 0)}
    assert account(Contents(Path(), ("m",), wrong), plan).mismatched == (
        (fused, (12289, 4096), (12288, 4096)),
    )
    del wrong[fused]
    assert account(Contents(Path(), ("m",), wrong), plan).missing == (fused,)


def rewritten(folder: Path, change) -> Path:
    """The golden checkpoint with other tensors."""
    stored = load_file(FOLDER / "model" / "model.safetensors")
    change(stored)
    folder.mkdir(exist_ok=True)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(published_config()))
    return folder


def test_rotary_tables_in_the_checkpoint_change_nothing(tmp_path):
    def add(stored):
        for n in range(3):
            stored[f"model.layers.{n}.self_attn.rotary_emb.inv_freq"] = torch.full((8,), 7.0)

    folder = rewritten(tmp_path / "tables", add)
    net = CogVLMForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        close(net(**inputs_of("chat")).logits, recorded()["chat/logits"], 1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda stored: stored.pop("model.vision.boi"),
            "1 tensors missing: model.multi_modal_projector.begin",
        ),
        (
            lambda stored: stored.pop("model.layers.1.self_attn.vision_expert_query_key_value.weight"),
            "3 tensors missing: model.language_model.layers.1.self_attn.vision_expert.k_proj.weight",
        ),
        (lambda stored: stored.update({"model.visionary": torch.zeros(1)}), "unknown: model.visionary"),
        (
            lambda stored: stored.update(
                {"model.layers.0.self_attn.language_expert_query_key_value.weight": torch.zeros(96, 64)}
            ),
            "3 tensors of another shape",
        ),
    ],
)
def test_what_does_not_fit_is_an_error(change, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        CogVLMForConditionalGeneration.from_pretrained(rewritten(tmp_path, change))


def test_the_model_without_its_head_opens_too():
    net = CogVLMModel.from_pretrained(FOLDER / "model", dtype=torch.float32)
    with torch.no_grad():
        close(net(**inputs_of("chat")).last_hidden_state, recorded()["chat/last_hidden_state"], 3e-5)


def test_converted_there_and_back(tmp_path):
    """Fused tensors are cut and joined again; the files come back byte for byte."""
    source, found = FOLDER / "model", identify_folder(FOLDER / "model")
    assert found.name == "cogvlm"
    done = convert(source, tmp_path / "ours", found, "ours")
    assert (done.tensors, done.dropped) == (87 + 2 * 12, ())
    with torch.no_grad():
        net = CogVLMForConditionalGeneration.from_pretrained(tmp_path / "ours", dtype=torch.float32)
        close(net(**inputs_of("vqa")).logits, recorded()["vqa/logits"], 1e-4)
    back = convert(tmp_path / "ours", tmp_path / "back", found, "published")
    assert back.is_identical
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()


def test_saved_and_opened_again(tmp_path):
    """What is saved is our layout; made anew or opened makes no difference."""
    net = CogVLMForConditionalGeneration(CogVLMConfig.from_published(published_config()))
    net.save_pretrained(tmp_path / "anew")
    assert identify_folder(tmp_path / "anew").name == "cogvlm"
    again = CogVLMForConditionalGeneration.from_pretrained(tmp_path / "anew")
    assert all(again.state_dict()[name].equal(tensor) for name, tensor in net.state_dict().items())
    assert load_file(tmp_path / "anew" / "model.safetensors").keys() == net.state_dict().keys()
    assert again.config.to_published() == net.config.to_published()
    again.save_pretrained(tmp_path / "again")
    stored = [load_file(tmp_path / name / "model.safetensors") for name in ("anew", "again")]
    assert stored[0].keys() == stored[1].keys()


def test_published_configuration_there_and_back():
    stored = published_config()
    config = CogVLMConfig.from_published(stored)
    assert (config.slots_per_picture, config.template, config.image_token_id) == (18, "chat", 0)
    back = config.to_published()
    said_by_the_saver = {"transformers_version"}
    assert {key for key in stored | back if stored.get(key) != back.get(key)} <= said_by_the_saver
    assert CogVLMConfig.from_published(back).to_dict() == config.to_dict()
    assert CogVLMConfig.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()


def test_description():
    found = family("cogvlm")
    assert found.claims(published_config())
    told = found.describe(CogVLMConfig())
    assert (told["slots_per_picture"], told["context"]) == (1227, 2048)
    assert "63 x 1792, 490 px in patches of 14" in told["vision_tower"]
    assert found.describe(published_config())["slots_per_picture"] == 18


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden_size": 64}, "unknown keys in the published CogVLM config.json: hiden_size"),
        ({"rms_norm_eps": None}, "lacks rms_norm_eps"),
        ({"template_version": "chatty"}, "template is 'chatty'; it must be one of chat, vqa, base"),
        ({"num_attention_heads": 5}, "64 wide, which 5 heads cannot share"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is set"),
        ({"pad_token_id": None}, "slots hold that id"),
        ({"rotary_tables": "fp8"}, "rotary_tables is 'fp8'"),
        ({"vision_config.num_positions": 26}, "num_positions is 26 in vision_config; .* need 17"),
        ({"vision_config.image_size": 60, "vision_config.num_positions": 17}, "60 pixels cannot be cut"),
        ({"vision_config.window": 7}, "vision_config: window"),
        ({"vision_config.layer_norm_eps": None}, "vision_config .* lacks layer_norm_eps"),
    ],
)
def test_what_cannot_work_is_named(changes, message):
    config = published_config()
    for key, value in changes.items():
        *parts, last = key.split(".")
        place = config[parts[0]] if parts else config
        if value is None and last != "pad_token_id":
            del place[last]
        else:
            place[last] = value
    with pytest.raises(ConfigError, match=message):
        CogVLMConfig.from_published(config)
