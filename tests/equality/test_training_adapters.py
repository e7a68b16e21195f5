"""Adapters and projectors that a stage leaves open again as what they were, here and in LLaVA's layout."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.equality.training_cases import checkpoint, opened, recipe, write_rows
from tests.parity.golden_llava import CLIP, FOLDER

from beholder import families, load
from beholder.checkpoints.loader import open_model
from beholder.cli import main
from beholder.core.errors import CheckpointError, ConfigError
from beholder.evaluation.run import style_of
from beholder.evaluation.task import PLAIN
from beholder.training import adapters
from beholder.training.run import open_start, run
from beholder.training.sections import Adapters, Start
from beholder.training.trainer import train

# PEFT asks transformers under a name that transformers is about to give up.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
LORA: dict[str, Any] = {"rank": 2, "alpha": 4, "targets": {"model.language_model": ["q_proj", "down_proj"]}}
# One on every part of a LLaVA: language model, projector and tower.
EVERYWHERE = {
    "rank": 2, "alpha": 4,
    "targets": {
        "model.language_model": ["q_proj"], "model.multi_modal_projector": ["all"],
        "model.vision_tower": ["fc1"],
    },
}  # fmt: skip
COGVLM = {
    "rank": 2, "alpha": 1,
    "targets": {"model.language_model": ["vision_expert.q_proj"], "model.vision_tower": ["fc1"]},
}  # fmt: skip


def logits(model: Any, processor: Any) -> torch.Tensor:
    from PIL import Image

    from beholder.core.types import Message

    inputs = processor.encode([Message.user(Image.new("RGB", (40, 30), "green"), "What?")])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model.eval()(**inputs).logits


def trained(name: str, place: Path, llama3: Any, **changes: Any) -> tuple[Any, Any, Any, Any]:
    folder = checkpoint(name, place, llama3)
    write_rows(place)
    stage = recipe(name, folder, place / "out", learning_rate=1e-2, **changes)
    model, processor = open_start(stage)
    return stage, model, processor, train(stage, model, processor)


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_folder_says_what_it_is_and_opens(
    tmp_path: Path, llama3_tokenizer: Any, dora: bool
) -> None:
    trainable = ["model.multi_modal_projector"]
    stage, model, processor, final = trained(
        "llava", tmp_path, llama3_tokenizer, lora=LORA | {"dora": dora}, trainable=trainable
    )
    story = json.loads((final / "adapter.json").read_text())
    assert story["base"] == stage.model
    assert len(story["base_sha256"]) == 64
    assert story["recipe"]["lora"]["rank"] == 2
    assert any("linear_1.weight" in name for name in story["trained_beside"])
    assert (stage.output / "llava").exists() == (not dora)  # it has no place for DoRA's lengths
    again, _ = opened(Path(stage.model))
    before = logits(again, processor)
    adapters.load(again, final, story["base_sha256"])
    torch.testing.assert_close(logits(again, processor), logits(model, processor), rtol=0, atol=1e-6)
    assert not torch.allclose(logits(again, processor), before)
    with pytest.raises(CheckpointError, match="was trained on"):
        adapters.load(opened(Path(stage.model))[0], final, "0" * 64)


@pytest.mark.parametrize("twice", [True, False])
def test_adapters_beside_four_bit_weights(tmp_path: Path, llama3_tokenizer: Any, twice: bool) -> None:
    """QLoRA: what is frozen is rounded to nf4, and the adapters mean the same over the rounded weights."""
    from bitsandbytes.functional import dequantize_4bit

    targets = {"model.language_model": ["q_proj", "o_proj"]}
    lora = {"rank": 2, "alpha": 4, "targets": targets, "quantize": "4bit", "quantize_twice": twice}
    stage, model, processor, final = trained(
        "llava", tmp_path, llama3_tokenizer, lora=lora, trainable=[], precision="bf16"
    )
    small = {
        name.removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if type(module).__name__ == "Linear4bit"
    }
    assert {name.rpartition(".")[2] for name in small} == {"q_proj", "o_proj"}
    losses = [json.loads(line)["loss"] for line in (final.parent / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    again, _ = opened(Path(stage.model))
    adapters.load(again, final, json.loads((final / "adapter.json").read_text())["base_sha256"])
    unrounded = logits(again, processor)
    for name, module in small.items():  # before the first answer, for which bitsandbytes packs them anew
        dense = again.get_submodule(name).base_layer.weight
        assert module.weight.dtype == torch.uint8
        assert module.weight.numel() * 2 == dense.numel()
        with torch.no_grad():
            dense.copy_(dequantize_4bit(module.weight.data, module.weight.quant_state))
    rounded, found = logits(again, processor), logits(model, processor)
    real = rounded.isfinite()  # rows that fill the vocabulary up are minus infinity
    assert (found - rounded)[real].abs().max() < 0.2 * (found - unrounded)[real].abs().max()


def test_four_bit_weights_need_whole_blocks(tmp_path: Path, llama3_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"needs layers that read a multiple of 64 values.*down_proj reads"):
        trained("llava", tmp_path, llama3_tokenizer, lora=LORA | {"quantize": "4bit"}, trainable=[])


@pytest.mark.parametrize("name", ["llava", "cogvlm"])
def test_an_adapter_folder_is_opened_like_a_model(name: str, tmp_path: Path, llama3_tokenizer: Any) -> None:
    lora = LORA if name == "llava" else COGVLM
    stage, model, processor, final = trained(name, tmp_path, llama3_tokenizer, lora=lora, trainable=[])
    with closing(load(final, dtype="float32")) as vlm:
        assert vlm.name == str(final)
        expected = logits(model, processor)
        torch.testing.assert_close(logits(vlm.model, vlm.processor), expected, rtol=0, atol=1e-6)
        told = vlm.ask(None, "What?", max_tokens=4)
        with closing(load(stage.model, dtype="float32")) as bare:
            assert not torch.allclose(logits(bare.model, bare.processor), expected)
        assert told.usage.completion_tokens == 4
    (final / "adapter.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not name the adapter's base model; give it with --base"):
        load(final)
    with closing(load(final, base=stage.model, dtype="float32")) as given:
        torch.testing.assert_close(logits(given.model, given.processor), expected, rtol=0, atol=1e-6)


def test_an_adapter_of_the_built_in_model_is_scored_as_that_is(tmp_path: Path) -> None:
    """Both learned no endings, so both are asked a benchmark's questions as they stand."""
    write_rows(tmp_path)
    data = [{"rows": tmp_path / "rows.json", "pictures": tmp_path}]
    settings = {"data": data, "lora": LORA, "trainable": [], "learning_rate": 1e-2}
    stage = recipe("qh360vl", Path("beholder-mini"), tmp_path / "out", **settings)
    final = run(stage, open_start(stage))
    with closing(load(final)) as vlm, closing(load()) as plain:
        assert vlm.folder == plain.folder
        assert style_of(vlm) == style_of(plain) == PLAIN


def test_fewer_rows_than_a_batch_are_told(tmp_path: Path, llama3_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="8 rows are less than one batch of 9 x 1 processes"):
        trained("llava", tmp_path, llama3_tokenizer, lora=LORA, device_batch=9, global_batch=9)


def test_inspect_tells_of_which_model_an_adapter_is(
    tmp_path: Path, llama3_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, _, _, final = trained("llava", tmp_path, llama3_tokenizer, lora=LORA)
    assert "{'loss'" not in capsys.readouterr().out, "the log is told once"
    assert main(["inspect", str(final), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    files = [load_file(final / name) for name in ("adapter_model.safetensors", "trained.safetensors")]
    tensors = [tensor for file in files for tensor in file.values()]
    assert (told["adapter_of"], told["rank"], told["problems"]) == (stage.model, 2, [])
    assert told["parameters"] == sum(tensor.numel() for tensor in tensors)
    assert main(["inspect", str(final)]) == 0
    assert capsys.readouterr().out.endswith("whole: yes\n")
    assert main(["doctor", str(final)]) == 0
    assert capsys.readouterr().out.startswith(f"{final}: an adapter\n")
    Path(stage.model).rename(tmp_path / "elsewhere")
    assert main(["inspect", str(final)]) == 3
    assert "problem: there is no folder" in capsys.readouterr().out
    assert main(["inspect", str(final), "--base", str(tmp_path / "elsewhere")]) == 0


def test_an_adapter_of_visual_experts_and_tower(tmp_path: Path, llama3_tokenizer: Any) -> None:
    stage, model, processor, final = trained(
        "cogvlm", tmp_path, llama3_tokenizer, lora=COGVLM, trainable=[], gradient_checkpointing=True
    )
    again, _ = opened(Path(stage.model))
    adapters.load(again, final)
    torch.testing.assert_close(logits(again, processor), logits(model, processor), rtol=0, atol=1e-6)
    assert not (stage.output / "llava").exists()


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_of_every_part(tmp_path: Path, llama3_tokenizer: Any, dora: bool) -> None:
    """LLaVA's layout has no place for those of projector and tower, so there is no folder in it."""
    lora = EVERYWHERE | {"dora": dora}
    stage, model, processor, final = trained("llava", tmp_path, llama3_tokenizer, lora=lora, trainable=[])
    names = load_file(final / adapters.WEIGHTS)
    for part in ("language_model", "multi_modal_projector.linear_2", "vision_tower"):
        assert any(part in name for name in names), part
    again, _ = opened(Path(stage.model))
    adapters.load(again, final)
    torch.testing.assert_close(logits(again, processor), logits(model, processor), rtol=0, atol=1e-6)
    assert not (stage.output / "llava").exists()


def test_an_adapter_in_llavas_layout_opens(tmp_path: Path, llama3_tokenizer: Any) -> None:
    stage, model, processor, _ = trained(
        "llava", tmp_path, llama3_tokenizer, lora=LORA, trainable=["model.multi_modal_projector"]
    )
    folder = stage.output / "llava"
    names = load_file(folder / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    beside = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    assert sorted(beside) == [
        f"base_model.model.model.mm_projector.{n}.{p}" for n in (0, 2) for p in ("bias", "weight")
    ]
    again = open_model(
        folder, families.identify_folder(folder), device="cpu", dtype=torch.float32, base=stage.model
    )
    torch.testing.assert_close(logits(again, processor), logits(model, processor), rtol=0, atol=1e-5)


def test_adapters_that_change_nothing_are_refused(tmp_path: Path, llama3_tokenizer: Any) -> None:
    stage, *_, final = trained("llava", tmp_path, llama3_tokenizer, lora=LORA, trainable=[])
    tensors = load_file(final / adapters.WEIGHTS)
    idle = {name: value * ("lora_B" not in name) for name, value in tensors.items()}
    save_file(idle, final / adapters.WEIGHTS)
    with pytest.raises(CheckpointError, match=r"changes nothing: all 4 second halves"):
        adapters.load(opened(Path(stage.model))[0], final)


def test_an_adapter_run_goes_on_where_it_was(tmp_path: Path, llama3_tokenizer: Any) -> None:
    folder = checkpoint("llava", tmp_path, llama3_tokenizer)
    write_rows(tmp_path)
    more: dict[str, Any] = {
        "lora": LORA, "trainable": ["model.multi_modal_projector"], "steps": 4, "save_every": 2, "keep": 5,
    }  # fmt: skip
    whole, cut = (recipe("llava", folder, tmp_path / name, **more) for name in ("whole", "cut"))
    run(whole)
    run(cut)
    (cut.output / "checkpoint-4" / "complete").unlink()
    run(cut)
    for name in (adapters.WEIGHTS, adapters.BESIDE):
        straight, resumed = (load_file(stage.output / "adapter" / name) for stage in (whole, cut))
        assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_a_first_stage_begins_with_parts_and_leaves_a_projector(
    tmp_path: Path, llama3_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    language = FOLDER / "lora" / "vicuna-tiny"
    published = json.loads((FOLDER / "llava" / "model" / "config.json").read_text())
    monkeypatch.setattr(
        "beholder.training.assemble.geometries", lambda: {"tiny": {"family": "llava", "config": published}}
    )
    write_rows(tmp_path)
    start = Start(geometry="tiny", language_model=str(language), vision_tower=str(CLIP))
    stage = recipe(
        "llava", tmp_path / "start", tmp_path / "out", start=start, template="plain", image_aspect="square",
        trainable=["model.multi_modal_projector"],
    )  # fmt: skip
    model, processor = open_start(stage)
    words = load_file(language / "model.safetensors")
    assert torch.equal(model.lm_head.weight[:512], words["lm_head.weight"])
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    with pytest.raises(ConfigError, match="other is there and is no model"):
        open_start(stage.model_copy(update={"model": str(other)}))
    assert sorted(path.name for path in tmp_path.glob(".*.part")) == []
    # Texts have no place in this template: the original asks for a picture in the first turn.
    rows = [row for row in json.loads((tmp_path / "rows.json").read_text()) if "image" in row]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    final = train(stage, model, processor)
    kept = torch.load(stage.output / "projector" / "mm_projector.bin", weights_only=True)
    assert sorted(kept) == [f"model.mm_projector.{n}.{p}" for n in (0, 2) for p in ("bias", "weight")]
    folder = stage.output / "projector"
    alike = load_file(folder / "mm_projector.safetensors")
    assert alike.keys() == kept.keys()
    assert all(torch.equal(alike[name], kept[name]) for name in kept)
    for place in (folder, final):
        again = open_model(place, families.identify_folder(place), device="cpu", dtype=torch.float32)
        torch.testing.assert_close(logits(again, processor), logits(model, processor), rtol=0, atol=1e-6)


def test_what_is_frozen_is_kept_in_few_bits(tmp_path: Path, llama3_tokenizer: Any) -> None:
    """What learns stays in float32, and what was frozen is saved as it was opened."""
    settings = {"precision": "bf16", "frozen_precision": "bf16", "trainable": ["model.multi_modal_projector"]}
    stage, model, _, final = trained("llava", tmp_path, llama3_tokenizer, **settings)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert all(kind == torch.float32 for name, kind in kinds.items() if "multi_modal_projector" in name)
    assert all(kind == torch.bfloat16 for name, kind in kinds.items() if "multi_modal_projector" not in name)
    before, after = opened(Path(stage.model))[0].state_dict(), opened(final)[0].state_dict()
    for name, tensor in before.items():
        is_trained = "multi_modal_projector" in name
        assert torch.equal(after[name].bfloat16(), tensor.bfloat16()) != is_trained, name
    with pytest.raises(ConfigError, match="frozen_precision bf16 needs precision bf16"):
        trained("llava", tmp_path / "again", llama3_tokenizer, frozen_precision="bf16", precision="fp32")


def test_targets_must_be_there(tmp_path: Path, llama3_tokenizer: Any) -> None:
    model, _ = opened(checkpoint("cogvlm", tmp_path, llama3_tokenizer))
    everywhere = Adapters(rank=1, alpha=1, targets={"model.language_model": ("vision_expert.q_proj",)})
    assert len(adapters.targets_of(model, everywhere)) == 3
    with pytest.raises(ConfigError, match=r"no linear layer under 'model\.vision_tower' ends with 'qkv'"):
        adapters.targets_of(model, Adapters(rank=1, alpha=1, targets={"model.vision_tower": ("qkv",)}))
