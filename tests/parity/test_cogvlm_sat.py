"""CogVLM's SAT checkpoints in and out, shared among any number of ranks, and adapters folded in."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.parity.golden_cogvlm import FOLDER, close, inputs_of, manifest, model, recorded, told

from beholder.checkpoints.sat import delta, fold, join, open_sat, share, write_sat
from beholder.cli import main
from beholder.core.errors import CheckpointError, ConfigError
from beholder.families.cogvlm.layout import PUBLISHED
from beholder.families.cogvlm.lora import ALPHA, peft_tensors
from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration
from beholder.families.cogvlm.sat import SAT, config_from_sat, config_to_sat, cuts_of, template_of
from beholder.families.cogvlm.sat_folders import from_sat, published_tensors, to_sat

SPLIT = told("mp_split")
STORED = FOLDER / "sat"
TINY = cuts_of(512)


def stored() -> dict[str, torch.Tensor]:
    return dict(open_sat(STORED).ranks[0])


def test_names_are_those_that_were_recorded():
    pairs = told("sat/key_map_sat_to_hf")
    for sat, published in pairs.items():
        assert SAT.ours(sat) == published
        assert SAT.theirs(published) == sat
    assert SAT.ours("mixins.rotary.rotary_emb.inv_freq") is None
    assert stored().keys() == {*pairs, "mixins.rotary.rotary_emb.inv_freq"}


def test_every_name_and_shape_of_the_full_size():
    sat, published = manifest("sat"), manifest("chat-hf")
    sat.pop("mixins.rotary.rotary_emb.inv_freq", None)
    assert len(sat) == 1155
    assert {SAT.ours(name): shape for name, shape in sat.items()} == published
    assert {SAT.theirs(name): shape for name, shape in published.items()} == sat


@pytest.mark.parametrize("ranks", [int(count) for count in SPLIT])
def test_ranks_share_as_was_recorded(ranks):
    """Row and column numbers of what each rank holds, tried on tensors that hold their own numbers."""
    told_of = SPLIT[str(ranks)]
    for name, entry in told_of["split"].items():
        size = torch.Size(entry["full"]).numel()
        whole = torch.arange(size).reshape(entry["full"])
        for rank, held in enumerate(entry["ranks"]):
            wanted = torch.cat([whole[begin:end] for begin, end in held["rows"]])
            if "cols" in held:
                wanted = torch.cat([wanted[:, begin:end] for begin, end in held["cols"]], dim=1)
            assert share(name, whole, rank, ranks, TINY).equal(wanted), name
        shares = [share(name, whole, rank, ranks, TINY) for rank in range(ranks)]
        assert join(name, shares, TINY).equal(whole), name
    for name in told_of["replicated"]:
        assert TINY(name) == "whole", name


def test_a_full_vocabulary_is_cut():
    assert cuts_of(32000)("transformer.word_embeddings.weight") == "rows"
    assert cuts_of(32000)("mixins.eva.vit_model.transformer.word_embeddings.weight") == "whole"


def same_as_golden(folder: Path) -> None:
    ours, theirs = load_file(folder / "model.safetensors"), load_file(FOLDER / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(tensor) for name, tensor in theirs.items())


def test_from_sat(tmp_path):
    done = from_sat(STORED, tmp_path / "published")
    same_as_golden(done.target)
    assert done.dropped == ("mixins.rotary.rotary_emb.inv_freq",)
    assert done.map == {hf: (sat,) for sat, hf in told("sat/key_map_sat_to_hf").items()}
    net = CogVLMForConditionalGeneration.from_pretrained(tmp_path / "published", dtype=torch.float32)
    with torch.no_grad():
        close(net(**inputs_of("chat")).logits, recorded()["chat/logits"], 1e-4)
    assert net.config.text_config.rms_norm_eps == 1e-5


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_to_sat_and_back(ranks, tmp_path):
    to_sat(FOLDER / "model", tmp_path / "sat", ranks=ranks)
    files = sorted(path.name for path in (tmp_path / "sat" / "1").iterdir())
    assert files == [f"mp_rank_{rank:02}_model_states.pt" for rank in range(ranks)]
    assert json.loads((tmp_path / "sat" / "model_config.json").read_text())["model_parallel_size"] == ranks
    if ranks == 1:
        made, given = open_sat(tmp_path / "sat").ranks[0], stored()
        assert all(made[name].equal(given[name]) for name in made)
        assert given.keys() - made.keys() == {"mixins.rotary.rotary_emb.inv_freq"}
    same_as_golden(from_sat(tmp_path / "sat", tmp_path / "back").target)


def test_the_configuration_is_the_recorded_one():
    assert config_to_sat(model().config) == told("sat/model_config")


def adapters() -> dict[str, torch.Tensor]:
    tensors = load_file(FOLDER / "lora.safetensors")
    return {
        name.removeprefix("lora/"): tensor for name, tensor in tensors.items() if name.startswith("lora/")
    }


def exact(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}


def test_adapters_folded_in():
    lora, folded = load_file(FOLDER / "lora.safetensors"), fold(exact({**stored(), **adapters()}))
    merged = [name for name in lora if name.startswith("merged/")]
    assert len(merged) == 2
    for name in merged:
        close(folded[name.removeprefix("merged/")], lora[name], 1e-6)
    net = CogVLMForConditionalGeneration(model().config).eval()
    held = {str(SAT.ours(name)): tensor for name, tensor in folded.items() if SAT.ours(name)}
    net.load_state_dict(
        {
            part: piece
            for name, tensor in held.items()
            for parts in [PUBLISHED.parts(str(PUBLISHED.ours(name)))]
            for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True)
        }
    )
    with torch.no_grad():
        logits = net(**inputs_of("chat")).logits
    close(logits, lora["logits_chat"], 1e-4)
    assert (logits - recorded()["chat/logits"]).abs().max() > 0.01


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks it
def test_adapters_beside_the_weights():
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    tensors = exact(peft_tensors(adapters()))
    modules = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
    net = CogVLMForConditionalGeneration.from_pretrained(FOLDER / "model", dtype=torch.float32)
    adapted = get_peft_model(net, LoraConfig(r=10, lora_alpha=ALPHA, target_modules=modules))
    done = set_peft_model_state_dict(
        adapted, {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    )
    assert not done.unexpected_keys
    with torch.no_grad():
        logits = adapted.eval()(**inputs_of("chat")).logits
    close(logits, load_file(FOLDER / "lora.safetensors")["logits_chat"], 1e-4)


def test_a_checkpoint_with_adapters_of_two_ranks(tmp_path):
    """A trained checkpoint holds adapters in every rank; each rank folds its own share."""
    whole = exact(stored())
    config = told("sat/model_config")
    write_sat(tmp_path / "sat", config, whole.items(), TINY, ranks=2)
    for rank in range(2):
        path = tmp_path / "sat" / "1" / f"mp_rank_{rank:02}_model_states.pt"
        held = torch.load(path, weights_only=True)["module"]
        for name, tensor in exact(adapters()).items():
            layer, side = name.rsplit(".", 2)[0], name.rsplit(".", 2)[1]
            is_fused = "query_key_value" in name
            cut = {("matrix_B", True): 0, ("matrix_A", False): 1}.get((side, is_fused))
            held[name] = tensor if cut is None else tensor.chunk(2, dim=cut)[rank]
            held[f"{layer}.original.weight"] = held.pop(
                f"{layer}.weight", held.get(f"{layer}.original.weight")
            )
        torch.save({"module": held}, path)
    _, found = published_tensors(tmp_path / "sat")
    for name, tensor in fold({**whole, **exact(adapters())}).items():
        if (published := SAT.ours(name)) is not None:
            close(found[published], tensor, 1e-6)


def broken(tmp_path: Path) -> Path:
    shutil.copytree(STORED, tmp_path / "broken")
    return tmp_path / "broken"


def change(folder: Path, edit) -> None:
    path = folder / "1" / "mp_rank_00_model_states.pt"
    held = torch.load(path, weights_only=True)
    edit(held)
    torch.save(held, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda held: held["module"].pop("mixins.eva.boi"), "1 tensors, first model.vision.boi"),
        (
            lambda held: held["module"].update({"mixins.new": torch.zeros(1)}),
            "unknown to the SAT layout: mixins.new",
        ),
        (lambda held: held.update(module=held.pop("module"), other=1) or held.pop("module"), "no 'module'"),
        (
            lambda held: held["module"].update(
                {"transformer.layers.0.attention.dense.matrix_A.0": torch.zeros(2, 64)}
            ),
            "not pairs of matrix_A and matrix_B",
        ),
    ],
)
def test_what_does_not_fit_is_an_error(edit, message, tmp_path):
    folder = broken(tmp_path)
    change(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        from_sat(folder, tmp_path / "out", allow_loss=True)
    assert not list(tmp_path.glob("out*"))


def test_ranks_that_are_missing(tmp_path):
    folder = broken(tmp_path)
    (folder / "1" / "mp_rank_00_model_states.pt").rename(folder / "1" / "mp_rank_01_model_states.pt")
    with pytest.raises(CheckpointError, match=r"ranks 0, 1, \.\.\.; there are those of 1"):
        from_sat(folder, tmp_path / "out")


def test_code_in_a_file_is_not_run(tmp_path):
    import pickle

    class Harm:
        def __reduce__(self):
            return sys.exit, (1,)

    folder = broken(tmp_path)
    (folder / "1" / "mp_rank_00_model_states.pt").write_bytes(pickle.dumps({"module": Harm()}))
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        open_sat(folder)


def test_heads_that_cannot_be_shared(tmp_path):
    with pytest.raises(ConfigError, match="4 and 4 heads cannot be shared among 3 ranks"):
        to_sat(FOLDER / "model", tmp_path / "sat", ranks=3)


def test_adapters_without_a_weight():
    with pytest.raises(CheckpointError, match=r"adapters of x and no x.weight"):
        fold({"x.matrix_A.0": torch.zeros(1, 2), "x.matrix_B.0": torch.zeros(2, 1)})
    assert delta("x", {"A": {0: torch.ones(2, 3)}, "B": {0: torch.ones(4, 2)}}).equal(torch.ones(4, 3))


def whole_of(folder: Path) -> dict[str, torch.Tensor]:
    return {SAT.theirs(name): tensor for name, tensor in published_tensors(folder)[1].items()}


def test_a_trainings_checkpoint_has_more_than_tensors(tmp_path):
    """The state of numpy's and Python's random numbers, shapes, an optimizer that is not there."""
    import random

    import numpy as np

    folder = broken(tmp_path)
    states = {"np_rng_state": np.random.get_state(), "random_rng_state": random.getstate(), "optimizer": None}
    change(folder, lambda held: held.update(states, param_shapes=[torch.Size([1, 2])], ds_version="0.12"))
    same_as_golden(from_sat(folder, tmp_path / "out").target)


def test_adapters_are_folded_in_only_where_it_is_allowed(tmp_path):
    folder = broken(tmp_path)
    change(folder, lambda held: held["module"].update(adapters()))
    with pytest.raises(ConfigError, match=r"the adapters of \d+ layers are folded in.*--allow-loss"):
        from_sat(folder, tmp_path / "out")
    with pytest.raises(ConfigError, match="--allow-loss"):
        to_sat_again(folder, tmp_path / "out")
    done = from_sat(folder, tmp_path / "out", allow_loss=True)
    found, wanted = load_file(done.target / "model.safetensors"), fold({**stored(), **adapters()})
    assert all(tensor.equal(wanted[SAT.theirs(name)]) for name, tensor in found.items())


def to_sat_again(folder: Path, target: Path):
    from beholder.families import identify_sat

    turn = identify_sat(folder).to_sat
    assert turn is not None
    return turn(folder, target)


def test_how_prompts_are_written_comes_along(tmp_path):
    """Later revisions say it in model_config.json; so do we, where it is not chat."""
    config = model().config.__class__.from_dict(model().config.to_dict() | {"template": "vqa"})
    assert config_to_sat(config)["text_processor_version"] == "vqa"
    assert template_of(config_to_sat(config), None) == "vqa"
    again = config_from_sat(config_to_sat(config), "vqa").to_published()
    assert again == {key: value for key, value in config.to_published().items() if key != "torch_dtype"}
    assert template_of({"text_processor_version": "chat_old"}, None) == "chat"
    assert template_of({"text_processor_version": "base"}, "vqa") == "vqa"
    assert template_of({}, None) == "chat"
    with pytest.raises(ConfigError, match="text_processor_version 'chat'"):
        template_of({"text_processor_version": "chat"}, None)


def test_settings_without_a_place_are_not_lost_in_silence(tmp_path):
    source = Path(shutil.copytree(FOLDER / "model", tmp_path / "model"))
    held = json.loads((source / "config.json").read_text()) | {"rope_theta": 20000.0}
    (source / "config.json").write_text(json.dumps(held))
    with pytest.raises(ConfigError, match=r"no place for text_config\.rope_base; allow it with --allow-loss"):
        to_sat(source, tmp_path / "sat")
    assert to_sat(source, tmp_path / "sat", allow_loss=True).layout == "sat"


def test_the_tokenizer_comes_along(tmp_path):
    source = Path(shutil.copytree(FOLDER / "model", tmp_path / "model"))
    shutil.copy(FOLDER / "tokenizer" / "tokenizer.model", source)
    to_sat(source, tmp_path / "sat")
    from_sat(tmp_path / "sat", tmp_path / "back")
    kept = (tmp_path / "back" / "tokenizer.model").read_bytes()
    assert kept == (source / "tokenizer.model").read_bytes()


def test_from_the_command_line(tmp_path, capsys):
    published, shared, back = tmp_path / "published", tmp_path / "shared", tmp_path / "back"
    how = ["--to", "published", "--template", "base", "--map"]
    assert main(["convert", str(STORED), str(published), *how]) == 0
    assert json.loads((published / "config.json").read_text())["template_version"] == "base"
    assert main(["convert", str(FOLDER / "model"), str(shared), "--to", "sat", "--ranks", "2", "--json"]) == 0
    first, second = capsys.readouterr().out.rsplit("\n", 2)[:2]
    shown = json.loads(second)
    assert (shown["target"], shown["layout"], len(shown["files"])) == (str(shared), "sat", 2)
    assert f"checksum of the parameters, in every layout the same: {shown['checksum']}" in first
    for layer in range(3):
        expert = f"model.layers.{layer}.mlp.language_mlp.gate_proj.weight"
        assert f"mixins.mlp.gate_proj.{layer}.weight -> {expert}" in first
    assert main(["convert", str(shared), str(back), "--to", "published"]) == 0
    assert shown["checksum"] in capsys.readouterr().out
    four = tmp_path / "four"
    assert main(["convert", str(shared), str(four), "--to", "sat", "--ranks", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checksum"] == shown["checksum"]
    assert all(found.equal(stored()[name]) for name, found in whole_of(four).items())
    for folder in (published, back):
        same_as_golden(folder)
    assert main(["convert", str(STORED), str(tmp_path / "x"), "--to", "ours"]) == 2
    assert "convert it --to published first" in capsys.readouterr().err
