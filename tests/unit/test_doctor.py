"""Goldens broken in every way that was thought of: none of them is called healthy."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.golden_cogvlm import FOLDER as COGVLM
from tests.parity.golden_llava import CLIP, FOLDER, beside_base

from beholder.api import checkpoint_folder
from beholder.checkpoints.doctor import Diagnosis, diagnose
from beholder.cli import main
from beholder.families import identify_folder

MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123\n"


def add_tokenizer(folder: Path) -> Path:
    for file in (FOLDER / "tokenizer").iterdir():
        if file.suffix != ".md":
            shutil.copy(file, folder)
    return folder


@pytest.fixture
def whole(tmp_path) -> Path:
    """LLaVA's golden beside its tower."""
    shutil.copytree(CLIP, tmp_path / CLIP.name)
    return add_tokenizer(Path(shutil.copytree(FOLDER / "llava" / "model", tmp_path / "model")))


def told(folder: Path, **options: Any) -> Diagnosis:
    return diagnose(folder, identify_folder, **options)


def problems(folder: Path, **options: Any) -> str:
    found = told(folder, **options)
    assert not found.is_healthy
    assert all(finding.remedy for finding in found.findings)
    return "\n".join(finding.problem for finding in found.findings)


# Ways of breaking


def tensors(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Change what the weight file holds, as a correct file."""

    def run(folder: Path) -> None:
        held = load_file(folder / MODEL)
        edit(held)
        save_file({name: tensor.contiguous() for name, tensor in held.items()}, folder / MODEL)

    return run


def header(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the text of the header alone."""

    def run(folder: Path) -> None:
        data = (folder / MODEL).read_bytes()
        length = int.from_bytes(data[:8], "little")
        told = json.loads(data[8 : 8 + length])
        edit(told)
        text = json.dumps(told).encode()
        (folder / MODEL).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return run


def config(**changes: Any) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        held = json.loads((folder / "config.json").read_text()) | changes
        kept = {key: value for key, value in held.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(kept))

    return run


def text(name: str, content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(content)


def cut(name: str, share: float) -> Callable[[Path], Any]:
    def run(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return run


def flip(position: int) -> Callable[[Path], Any]:
    """Turn one bit of the weight file over."""

    def run(folder: Path) -> None:
        data = bytearray((folder / MODEL).read_bytes())
        data[position] ^= 1
        (folder / MODEL).write_bytes(bytes(data))

    return run


def swap(held: dict[str, torch.Tensor], one: str, other: str) -> None:
    held[one], held[other] = held[other], held[one]


def sharded(folder: Path) -> dict[str, str]:
    """The same weights in two files with an index."""
    held = load_file(folder / MODEL)
    placed: dict[str, str] = {}
    for number, names in enumerate((sorted(held)[::2], sorted(held)[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: held[name] for name in names}, folder / file)
        placed |= dict.fromkeys(names, file)
    (folder / MODEL).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return placed


def shards(edit: Callable[[Path, dict[str, str]], Any]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        placed = sharded(folder)
        edit(folder, placed)
        if (folder / INDEX).is_file():
            (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))

    return run


def swap_shards(folder: Path, _: dict[str, str]) -> None:
    one, other = sorted(folder.glob("model-*"))
    one.rename(folder / "aside")
    other.rename(one)
    (folder / "aside").rename(other)


def pickled(edit: Callable[[Path], Any]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        torch.save(load_file(folder / MODEL), folder / PICKLED)
        (folder / MODEL).unlink()
        edit(folder / PICKLED)

    return run


class Harm:
    def __reduce__(self):
        return sys.exit, (1,)


def with_code(path: Path) -> None:
    torch.save({"model.norm.weight": Harm()}, path)


def another_table(path: Path) -> None:
    """Change a letter in the table of contents of a .bin file and leave the checksum beside it."""
    data = path.read_bytes()
    place = data.index(b"model.norm.weight")
    path.write_bytes(data[:place] + b"m" + data[place + 1 : place + 6] + b"nork" + data[place + 10 :])


NORM = "model.norm.weight"
Q, K, UP = (
    f"model.layers.0.{name}.weight" for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
)
WAYS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a tensor dropped": (tensors(lambda held: held.pop(Q)), f"1 tensors missing: {Q}"),
    "a bias of the projector dropped": (
        tensors(lambda held: held.pop("model.mm_projector.2.bias")),
        "1 tensors missing: model.mm_projector.2.bias",
    ),
    "a layer dropped": (
        tensors(lambda held: [held.pop(name) for name in list(held) if ".layers.1." in name]),
        "9 tensors missing",
    ),
    "the head dropped": (tensors(lambda held: held.pop("lm_head.weight")), "missing: lm_head.weight"),
    "a tensor renamed": (
        tensors(lambda held: held.update({"model.norm.weights": held.pop(NORM)})),
        "1 tensors unknown to LLaVA: model.norm.weights",
    ),
    "a layer too many": (
        tensors(lambda held: held.update({Q.replace(".0.", ".7."): held[Q].clone()})),
        "unknown to LLaVA: model.layers.7",
    ),
    "reshaped": (
        tensors(lambda held: held.update({UP: held[UP].T})),
        f"{UP} is [64, 172] and must be [172, 64]",
    ),
    "flattened": (tensors(lambda held: held.update({Q: held[Q].flatten()})), "[4096]"),
    "cut short": (tensors(lambda held: held.update({NORM: held[NORM][:-1]})), "is [63] and must be [64]"),
    "two of other shapes swapped": (
        tensors(lambda held: swap(held, UP, UP.replace("up", "down"))),
        "2 tensors of another shape",
    ),
    "names swapped in the header": (header(lambda told: swap(told, UP, NORM)), "2 tensors of another shape"),
    "whole numbers": (
        tensors(lambda held: held.update({Q: held[Q].to(torch.int64)})),
        "1 weights are stored in a format that cannot be computed with",
    ),
    "called whole numbers": (header(lambda told: told[Q].update(dtype="I32")), "is I32"),
    "another number format": (
        tensors(lambda held: held.update({Q: held[Q].half()})),
        f"another number format than the rest of their part of the model: {Q} is F16 and not F32",
    ),
    "an unknown number format": (header(lambda told: told[Q].update(dtype="F31")), "is F31"),
    "a shape that its bytes do not have": (
        header(lambda told: told[NORM].update(shape=[32])),
        "which is 128 bytes, and its place has 256",
    ),
    "overlapping tensors": (
        header(lambda told: told[Q].update(data_offsets=told[K]["data_offsets"])),
        "does not begin where the tensor before it ends",
    ),
    "truncated": (cut(MODEL, 0.9), "is truncated"),
    "truncated in the header": (cut(MODEL, 0.001), "its header is not there"),
    "longer than it should be": (
        lambda folder: (folder / MODEL).write_bytes((folder / MODEL).read_bytes() + b"\0" * 8),
        "is damaged: it must have",
    ),
    "a bit of the header's length": (flip(0), "is damaged"),
    "a high bit of the header's length": (flip(6), "its header is not there"),
    "the header's first brace": (flip(8), "its header cannot be read"),
    "an empty file": (text(MODEL, ""), "model.safetensors is empty"),
    "a pointer": (text(MODEL, POINTER), "is a Git LFS pointer"),
    "a pointer as tokenizer": (text("tokenizer.model", POINTER), "tokenizer.model is a Git LFS pointer"),
    "no weights": (lambda folder: (folder / MODEL).unlink(), "but no weights"),
    "half a download": (
        lambda folder: (folder / MODEL).rename(folder / f"{MODEL}.incomplete"),
        "a download did not come to its end: model.safetensors.incomplete",
    ),
    "half a download beside": (text("model-00002.part", ""), "did not come to its end"),
    "a link to nothing": (lambda folder: (folder / "x.json").symlink_to("gone"), "links point to files"),
    "a missing shard": (
        shards(lambda folder, placed: (folder / placed[Q]).unlink()),
        "lacks 1 of the 2 weight files its index lists",
    ),
    "a shard that the index calls otherwise": (
        shards(lambda folder, placed: placed.update({Q: "model-00003-of-00002.safetensors"})),
        "lacks 1 of the 3",
    ),
    "a tensor in another shard": (
        shards(lambda folder, placed: placed.update({Q: next(v for v in placed.values() if v != placed[Q])})),
        "1 tensors are not in the file",
    ),
    "a tensor that the index leaves out": (
        shards(lambda folder, placed: placed.pop(Q)),
        "1 stored tensors are not in model.safetensors.index.json",
    ),
    "shards exchanged": (shards(swap_shards), "25 tensors are not in the file"),
    "no index": (shards(lambda folder, placed: (folder / INDEX).unlink()), f"and no {INDEX}"),
    "a broken index": (
        lambda folder: (sharded(folder), (folder / INDEX).write_text("{")),
        f"{INDEX} is not valid JSON",
    ),
    "an index that counts more": (
        lambda folder: (folder / INDEX).write_text(
            json.dumps({"metadata": {"total_size": 10**9}, "weight_map": sharded(folder)})
        ),
        "counts 1000000000 bytes of weights",
    ),
    "a single file and an index": (
        lambda folder: (folder / INDEX).write_text('{"weight_map": {}}'),
        "has both model.safetensors and",
    ),
    "a pickle with code": (pickled(with_code), "cannot be read as weights"),
    "a bare pickle": (
        pickled(lambda path: path.write_bytes(pickle.dumps({"a": Harm()}))),
        "cannot be read as weights",
    ),
    "a pickle of another thing": (pickled(lambda path: torch.save([1], path)), "holds a list"),
    "a truncated pickle": (
        pickled(lambda path: cut(path.name, 0.7)(path.parent)),
        "cannot be read as weights",
    ),
    "a changed table of contents": (pickled(another_table), "cannot be read as weights"),
    "other weights beside": (
        lambda folder: torch.save({NORM: torch.zeros(2)}, folder / PICKLED),
        "the folder holds weights twice",
    ),
    "code beside": (lambda folder: with_code(folder / PICKLED), "cannot be read as weights"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "a broken configuration": (text("config.json", '{"model_type": '), "is not valid JSON"),
    "no object": (text("config.json", "[]"), "holds a list"),
    "another width": (config(hidden_size=96), "tensors of another shape than config.json says"),
    "a text as width": (config(hidden_size="wide"), "no model can be built from"),
    "heads that do not share": (config(num_attention_heads=5), "config.json"),
    "more layers": (config(num_hidden_layers=3), "tensors missing: model.layers.2"),
    "fewer layers": (config(num_hidden_layers=1), "unknown to LLaVA: model.layers.1"),
    "another vocabulary": (config(vocab_size=300), "tensors of another shape"),
    "another projector": (config(mm_projector_type="linear"), "missing: model.mm_projector.bias"),
    "an unknown projector": (config(mm_projector_type="resampler"), "resampler"),
    "a plain language model's type": (
        config(model_type="llama", mm_projector_type=...),
        "the tensors are LLaVA's but config.json has model_type 'llama'",
    ),
    "an unknown type": (config(model_type="nonesuch"), "nonesuch"),
    "a converted file's configuration": (
        lambda folder: (folder / "config.json").write_text(
            json.dumps({"model_type": "llava", "text_config": {"model_type": "llama"}, "vision_config": {}})
        ),
        "ill-typed",
    ),
    "no tower": (lambda folder: shutil.rmtree(folder.parent / CLIP.name), "vision tower"),
    "a broken tower": (
        lambda folder: cut(MODEL, 0.5)(folder.parent / CLIP.name),
        "is truncated",
    ),
    "a tower that is not here": (
        config(mm_vision_tower="openai/clip-vit-large-patch14", mm_hidden_size=1024),
        "not (completely) in the download cache",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), "has no tokenizer.model"),
    "a broken tokenizer": (cut("tokenizer.model", 0.5), "tokenizer"),
    "more words than rows": (
        text("added_tokens.json", json.dumps({f"<{number}>": 512 + number for number in range(9)})),
        "the vocabulary is wrong: the tokenizer has 521 words and the model 512 rows",
    ),
    "broken settings": (text("generation_config.json", "{"), "generation_config.json is not valid JSON"),
}


def test_the_golden_is_healthy(whole):
    found = told(whole, deep=True)
    assert found.findings == ()
    assert (found.family, found.layout, found.is_healthy) == ("llava", "published", True)


def test_shards_and_pickles_are_healthy(whole):
    torch.save(load_file(whole / MODEL), whole / PICKLED)
    assert told(whole, deep=True).findings == ()
    sharded(whole)
    assert told(whole).findings == ()


@pytest.mark.parametrize("way", WAYS)
def test_broken(way, whole):
    damage, sentence = WAYS[way]
    damage(whole)
    assert sentence in problems(whole)


def test_every_bit_of_a_headers_beginning(whole):
    """Whatever bit of the length or of the first entry is turned over, it shows."""
    data = (whole / MODEL).read_bytes()
    unseen = []
    for position in range(8, 110):
        changed = bytearray(data)
        changed[position] ^= 1
        (whole / MODEL).write_bytes(bytes(changed))
        if is_header_as_good(data, bytes(changed)):
            continue
        if not any("model.safetensors" in finding.problem for finding in told_of_files(whole)) and not (
            told(whole).findings
        ):
            unseen.append(position)
    assert not unseen


def is_header_as_good(one: bytes, other: bytes) -> bool:
    """Whether two files say the same, as where a blank became another blank."""
    length = int.from_bytes(one[:8], "little")
    try:
        heads = [json.loads(data[8 : 8 + length]) for data in (one, other)]
    except ValueError:
        return False
    for head in heads:
        head.pop("__metadata__", None)
    return heads[0] == heads[1]


def told_of_files(folder: Path):
    from beholder.checkpoints.remains import look_at_files

    return look_at_files(folder)


DEEP: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not a number": (
        tensors(lambda held: held[Q].view(-1)[5:6].fill_(float("nan"))),
        f"NaN or infinity: {Q}",
    ),
    "infinity": (tensors(lambda held: held[NORM][:1].fill_(float("inf"))), f"NaN or infinity: {NORM}"),
    "nothing but zeros": (tensors(lambda held: held[UP].zero_()), f"nothing but zeros: {UP}"),
}


@pytest.mark.parametrize("way", DEEP)
def test_broken_numbers(way, whole):
    damage, sentence = DEEP[way]
    damage(whole)
    assert told(whole).is_healthy, "this shows only in the numbers"
    assert sentence in problems(whole, deep=True)


def test_a_bit_in_a_pickles_numbers(whole):
    torch.save(load_file(whole / MODEL), whole / PICKLED)
    (whole / MODEL).unlink()
    with zipfile.ZipFile(whole / PICKLED) as archive:
        record = max(archive.infolist(), key=lambda found: found.file_size)
    data = bytearray((whole / PICKLED).read_bytes())
    data[record.header_offset + record.file_size // 2 + 128] ^= 1
    (whole / PICKLED).write_bytes(bytes(data))
    assert "the checksum of" in problems(whole, deep=True)


def test_a_file_that_is_not_what_was_fetched(whole):
    note = whole / ".cache" / "huggingface" / "download" / f"{MODEL}.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{'0' * 40}\n{'a' * 64}\n0.0\n")
    assert "its SHA-256 must be aaaa" in problems(whole, deep=True)


# Adapters and projectors


@pytest.fixture
def adapter(tmp_path) -> Path:
    return beside_base("lora", "llava-tiny-lora", tmp_path)


def narrow_base(folder: Path) -> None:
    """A base model of another size under the same name."""
    base = folder.parent / "vicuna-tiny"
    held = {name: tensor[..., :32].contiguous() for name, tensor in load_file(base / MODEL).items()}
    save_file(held, base / MODEL)


def half_adapter(folder: Path, wanted: Callable[[str], bool]) -> None:
    held = torch.load(folder / "adapter_model.bin", weights_only=True)
    torch.save({name: tensor for name, tensor in held.items() if wanted(name)}, folder / "adapter_model.bin")


ADAPTERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no projector": (
        lambda folder: (folder / "non_lora_trainables.bin").unlink(),
        "non_lora_trainables.bin is missing, which holds the projector",
    ),
    "no weights": (
        lambda folder: (folder / "adapter_model.bin").unlink(),
        "there is adapter_config.json and neither",
    ),
    "no settings": (lambda folder: (folder / "adapter_config.json").unlink(), "and no adapter_config.json"),
    "no base": (
        lambda folder: shutil.rmtree(folder.parent / "vicuna-tiny"),
        "belongs to the base model 'vicuna-tiny'",
    ),
    "a base of another size": (narrow_base, "does not fit its base model"),
    "half a pair": (
        lambda folder: half_adapter(folder, lambda name: "layers.0.mlp.up_proj.lora_A" not in name),
        "holds only lora_B",
    ),
    "a pair dropped": (
        lambda folder: half_adapter(folder, lambda name: "layers.0.mlp.up_proj" not in name),
        "it has no pair for 1 weights, model.layers.0.mlp.up_proj.weight",
    ),
    "a kind dropped": (
        lambda folder: half_adapter(folder, lambda name: "up_proj" not in name),
        "all of up_proj.weight",
    ),
    "another method": (
        lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
        "only LORA can be opened",
    ),
    "truncated": (cut("adapter_model.bin", 0.6), "cannot be read as weights"),
    "no tokenizer": (
        lambda folder: (folder.parent / "vicuna-tiny" / "tokenizer.model").unlink(),
        "has no tokenizer",
    ),
}


def test_the_adapter_is_healthy(adapter):
    found = told(adapter, deep=True)
    assert found.findings == ()
    assert found.notes == ("this is an adapter, which needs its base model: vicuna-tiny",)


@pytest.mark.parametrize("way", ADAPTERS)
def test_broken_adapters(way, adapter):
    damage, sentence = ADAPTERS[way]
    damage(adapter)
    assert sentence in problems(adapter)


def test_which_base_an_adapter_needs(adapter):
    (adapter.parent / "vicuna-tiny").rename(adapter.parent / "elsewhere")
    remedies = " ".join(finding.remedy for finding in told(adapter).findings)
    assert "--base" in remedies
    assert told(adapter, base=adapter.parent / "elsewhere").is_healthy


def test_a_projector_and_a_base_of_another_size(tmp_path):
    folder = beside_base("stage1", "llava-tiny-pretrain", tmp_path)
    assert told(folder).is_healthy
    narrow_base(folder)
    found = told(folder)
    assert any("another size" in finding.remedy for finding in found.findings)


# Other families, and the command


def test_a_sat_folder():
    assert "is a SAT checkpoint, which is not opened as it is" in problems(COGVLM / "sat")


def test_half_a_sat_folder(tmp_path):
    folder = Path(shutil.copytree(COGVLM / "sat", tmp_path / "sat"))
    (folder / "latest").unlink()
    assert "needs model_config.json and latest" in problems(folder)
    assert "SAT checkpoint" in problems(folder / "1")


@pytest.fixture
def cogvlm(tmp_path) -> Path:
    folder = Path(shutil.copytree(COGVLM / "model", tmp_path / "model"))
    for file in (COGVLM / "tokenizer").iterdir():
        shutil.copy(file, folder)
    return folder


def test_cogvlm(cogvlm):
    assert told(cogvlm, deep=True).findings == ()
    tensors(lambda held: held.pop("model.vision.boi"))(cogvlm)
    assert "1 tensors missing: model.vision.boi" in problems(cogvlm)


def test_cogvlm_without_a_tokenizer(cogvlm):
    (cogvlm / "tokenizer.model").unlink()
    assert "has no tokenizer" in problems(cogvlm)


def test_the_model_in_the_package_is_healthy():
    assert told(checkpoint_folder(), deep=True).findings == ()


def test_the_command(whole, capsys):
    assert main(["doctor", str(whole)]) == 0
    assert "healthy" in capsys.readouterr().out
    tensors(lambda held: held.pop(Q))(whole)
    assert main(["doctor", str(whole)]) == 3
    shown = capsys.readouterr().out
    assert f"problem: 1 tensors missing: {Q}" in shown
    assert "     do: " in shown
    assert "healthy" not in shown
    assert main(["doctor", str(whole), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["is_healthy"] is False
    assert report["findings"][0]["problem"].startswith("1 tensors missing")
