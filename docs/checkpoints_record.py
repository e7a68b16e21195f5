"""Makes checkpoints.md: its tables from the code's own, its round trips from a record of them.

    python docs/checkpoints_record.py             the page from docs/checkpoints.json
    python docs/checkpoints_record.py --measure   makes the round trips on the goldens and the record first

What the page says in words stands in checkpoints.txt beside it, with a line {name} for each table.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECORD = ROOT / "docs" / "checkpoints.json"
PAGE = HERE / "checkpoints.md"
WORDS = HERE / "checkpoints.txt"
MADE = "<!-- Made by docs/checkpoints_record.py. Do not edit. -->\n\n"
GOLDEN = ROOT / "tests" / "golden"
BOTH, IN, NONE = "in, out", "in", ""

# Round trips: a golden, the layouts on the way, and the test that holds the same to account at every change.
LOADING = "tests/parity/test_llava_loading.py"
WRITER = "tests/unit/test_writer.py"
COGVLM = "tests/parity/test_cogvlm_layout.py"
SAT = "tests/parity/test_cogvlm_sat.py"
TRIPS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("llava", ("published", "ours", "published"), f"{LOADING}::test_there_and_back_byte_for_byte"),
    ("llava", ("published", "llava-hf", "published"), f"{LOADING}::test_there_and_back_byte_for_byte"),
    ("llava .bin", ("published", "llava-hf", "published"), f"{LOADING}::test_pickled_there_and_back"),
    ("internvl", ("published", "ours", "published"), f"{LOADING}::test_there_and_back_byte_for_byte"),
    ("internvl", ("published", "llava-hf", "published"), f"{LOADING}::test_there_and_back_byte_for_byte"),
    (
        "360vl",
        ("published", "ours", "published"),
        f"{WRITER}::test_the_original_checkpoint_comes_back_byte_for_byte",
    ),
    ("cogvlm", ("published", "ours", "published"), f"{COGVLM}::test_converted_there_and_back"),
    ("cogvlm", ("published", "sat of 1", "published"), f"{SAT}::test_to_sat_and_back"),
    ("cogvlm", ("published", "sat of 2", "published"), f"{SAT}::test_to_sat_and_back"),
    ("cogvlm", ("published", "sat of 4", "sat of 2", "published"), f"{SAT}::test_from_the_command_line"),
    ("cogvlm sat", ("sat of 1", "published"), f"{SAT}::test_from_sat"),
)


def families() -> list[Any]:
    """The rows of the table of families."""
    from beholder.families import FAMILIES, family

    return [family(name) for name in FAMILIES]


def opens() -> Iterator[str]:
    """Layouts by families, as the families' own records say."""
    known = families()
    others = sorted({name for found in known for name in found.other_layouts})
    kinds: tuple[tuple[str, Callable[[Any], str]], ...] = (
        ("published", lambda found: BOTH),
        ("ours (`save_pretrained`, `--to ours`)", lambda found: BOTH),
        *((name, lambda found, name=name: BOTH if name in found.other_layouts else NONE) for name in others),
        ("LoRA (`adapter_model`, `non_lora_trainables.bin`)", lambda found: IN if found.read else NONE),
        ("projector of the first stage (`mm_projector.bin`)", lambda found: IN if found.read else NONE),
        ("differences from a base (`delta`)", lambda found: BOTH if found.beside_base else NONE),
        ("SAT (`mp_rank_*`, any number)", lambda found: BOTH if found.from_sat and found.to_sat else NONE),
        ("adapter of `beholder train`", lambda found: BOTH),
    )
    yield f"| layout | {' | '.join(found.title for found in known)} |"
    yield f"|---|{'---|' * len(known)}"
    for kind, cell in kinds:
        yield f"| {kind} | {' | '.join(cell(found) for found in known)} |"


def marks() -> Iterator[str]:
    """By what each family is known."""
    yield "| family | published ids | `config.json` says | tensors that no other has |"
    yield "|---|---|---|---|"
    for found in families():
        types = [*found.published_model_types, *found.published_architectures, *found.model_types]
        cells = (found.hub_ids, tuple(dict.fromkeys(types)), tuple(f"{mark}*" for mark in found.tensor_marks))
        told = [", ".join(f"`{one}`" for one in cell) for cell in cells]
        yield f"| {found.title} | {' | '.join(told)} |"


def towers() -> Iterator[str]:
    """The towers that need no description of their own, being known by name."""
    from beholder.families.llava.towers import CLIPS, INTERNS
    from beholder.families.qh360vl.published import TOWERS

    tables = {"LLaVA": CLIPS, "InternVL-Chat": INTERNS, "360VL": TOWERS}
    yield "| tower, as `mm_vision_tower` names it | layers x width | pixels | known to |"
    yield "|---|---|--:|---|"
    for name in dict.fromkeys((*CLIPS, *INTERNS, *TOWERS)):
        of = {title: table[name] for title, table in tables.items() if name in table}
        told = next(iter(of.values()))
        size = f"{told['num_hidden_layers']} x {told['hidden_size']}"
        yield f"| `{name}` | {size} | {told['image_size']} | {', '.join(of)} |"


def sizes() -> Iterator[str]:
    """Published lists of tensors that every name and shape was compared with, both ways."""
    yield "| full-size list | tensors |"
    yield "|---|--:|"
    for file in sorted(GOLDEN.glob("*/manifests/manifest-*")):
        name = file.name.removeprefix("manifest-").split(".json")[0]
        if name.startswith("optional"):
            continue
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        yield f"| {name} | {len(json.loads(data))} |"


def trips(record: dict[str, Any]) -> Iterator[str]:
    """The round trips that were measured."""
    yield "| golden | way | tensors | checksums on the way | files at the end | held by |"
    yield "|---|---|--:|---|---|---|"
    for row in record["trips"]:
        file, test = row["test"].split("::")
        sums = "all equal" if row["checksums"] == 1 else f"**{row['checksums']} different ones**"
        yield (
            f"| {row['golden']} | {' → '.join(row['way'])} | {row['tensors']} | {sums} | {row['files']} | "
            f"`{file.rsplit('/', 1)[-1]}::{test}` |"
        )


def ways() -> Iterator[str]:
    """Everything that `doctor` is tried on, from the tables of its test."""
    sys.path.insert(0, str(ROOT))
    from tests.unit.test_doctor import ADAPTERS, DEEP, WAYS

    for title, table in (("", WAYS), ("With `--deep`: ", DEEP), ("Adapters: ", ADAPTERS)):
        yield f"{title}{', '.join(table)} ({len(table)})."
        yield ""


def page(record: dict[str, Any]) -> str:
    """The whole page."""
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    parts = {
        "opens": opens(), "marks": marks(), "towers": towers(), "sizes": sizes(), "trips": trips(record),
        "ways": ways(), "provenance": [f"Code {record['code']}; {record['machine']}; {packages}."],
    }  # fmt: skip
    text = WORDS.read_text(encoding="utf-8")
    for name, lines in parts.items():
        text = text.replace(f"{{{name}}}", "\n".join(lines).rstrip())
    return MADE + text


def measure() -> dict[str, Any]:
    """Make every round trip on the goldens, and say what came back."""
    from beholder.core.records import code_version, describe_machine, package_versions

    rows = []
    for golden, way, test in TRIPS:
        with tempfile.TemporaryDirectory() as place:
            found = _travelled(golden, way, Path(place))
        rows.append({"golden": golden, "way": list(way), "test": test} | found)
        print(rows[-1], file=sys.stderr)  # noqa: T201
    return {
        "trips": rows, "code": code_version(), "machine": describe_machine(),
        "packages": package_versions(),
    }  # fmt: skip


def _travelled(golden: str, way: tuple[str, ...], place: Path) -> dict[str, Any]:
    """The number of different checksums, and how the files at the end compare with the first ones."""
    from beholder.checkpoints.sat import is_sat
    from beholder.checkpoints.writer import convert
    from beholder.families import identify_folder, identify_sat

    start = folder = _golden(golden, place)
    checksums: set[str] = set()
    done: Any = None
    for number, to in enumerate(way[1:]):
        target = place / f"step-{number}"
        if is_sat(folder) or to.startswith("sat"):
            found = identify_sat(folder) if is_sat(folder) else identify_folder(folder)
            ranks = {"ranks": int(to.split()[-1])} if to.startswith("sat") else {}
            done = (found.to_sat if ranks else found.from_sat)(folder, target, **ranks)
        else:
            done = convert(folder, target, identify_folder(folder), to)
        folder = target
        checksums.add(done.checksum)
    # The original's SAT files and its published ones hold the same model.
    first = GOLDEN / "cogvlm" / "model" if golden == "cogvlm sat" else start
    return {"checksums": len(checksums), "tensors": done.tensors, "files": _compared(first, folder)}


def _golden(name: str, place: Path) -> Path:
    import torch
    from safetensors.torch import load_file

    kind = name.split()[0]
    if name == "cogvlm sat":
        return Path(shutil.copytree(GOLDEN / "cogvlm" / "sat", place / "model"))
    if kind == "360vl":
        shutil.copytree(GOLDEN / "360vl" / "vision_tower", place / "model" / "vision_tower")
        for file in ("config.json", "model.safetensors"):
            shutil.copy(GOLDEN / "360vl" / file, place / "model")
        return place / "model"
    home = GOLDEN / "cogvlm" if kind == "cogvlm" else GOLDEN / "llava" / kind
    for inside in home.iterdir():
        if inside.is_dir() and (inside.name == "model" or kind != "cogvlm"):
            shutil.copytree(inside, place / inside.name)
    folder = place / "model"
    if name.endswith(".bin"):
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    if kind != "cogvlm":
        shutil.copy(GOLDEN / "llava" / "tokenizer" / "tokenizer.model", folder)
    return folder


def _compared(one: Path, other: Path) -> str:
    """How the files of two folders compare; pickled ones by what they hold."""
    import torch

    held = [{path.name: path for path in folder.iterdir() if path.is_file()} for folder in (one, other)]
    shared = held[0].keys() & held[1].keys()
    if held[0].keys() == held[1].keys():
        differ = [name for name in shared if held[0][name].read_bytes() != held[1][name].read_bytes()]
        if not differ:
            return "byte for byte the first ones"
        if all(name.endswith(".bin") for name in differ):
            pairs = [[torch.load(files[name], weights_only=True) for files in held] for name in differ]
            if all(list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs):
                return "byte for byte, the `.bin` tensor for tensor"
    weights = "model.safetensors"
    if weights in shared and _tensors(held[0][weights]) == _tensors(held[1][weights]):
        return "every tensor bit for bit"
    return "written anew"


def _tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    import torch
    from safetensors.torch import load_file

    return {
        name: (str(tensor.dtype), tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for name, tensor in load_file(path).items()
    }


def main() -> None:
    """See above."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--measure", action="store_true", help="make the record first")
    if asked.parse_args().measure:
        RECORD.write_text(json.dumps(measure(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(RECORD.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
