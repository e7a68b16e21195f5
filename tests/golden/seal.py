"""Writes and checks `provenance.json`, which says where a folder of goldens came from and what is in it.

    python tests/golden/seal.py 360vl        after the goldens were rebuilt with the original code
    python tests/golden/seal.py --check      every folder; exits 1 and names what does not match

Where the numbers came from is written in ORIGINS below, by whoever made them; the sums come from the files.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOTE = "provenance.json"


@dataclass(frozen=True)
class Provenance:
    """Where goldens came from: whose code, at which commit, with which packages, run how."""

    repository: str
    commit: str
    packages: dict[str, str]
    made_by: str
    sha256: dict[str, str]


ORIGINS = {
    "cogvlm": Provenance(
        repository="THUDM/CogVLM",
        commit="8bd8be9",
        packages={
            "torch": "2.13.0",
            "transformers": "4.38.2",
            "SwissArmyTransformer": "0.4.11",
            "pillow": "13.0.0",
        },
        made_by=(
            "the original's SAT model and text processors, and the remote code of the hub's checkpoints "
            "(which gives the same logits bit for bit), on the inputs stored beside the outputs: tiny random "
            "weights, CPU, float32, eager. See README.md. manifests/: keys and shapes of the original's "
            "modules at full size. quick_start.txt: the code printed in the document"
        ),
        sha256={},
    ),
    "eval-llava": Provenance(
        repository="haotian-liu/LLaVA",
        commit="c121f04",
        packages={},
        made_by=(
            "the original's scorers, converters and answer scripts (the fork in OpenGVLab/InternVL has the "
            "same), the official GQA and MME scorers and the public MM-Vet evaluator, on synthetic questions "
            "and answers; generation/prompts.json: the answer lines and generate() arguments of its scripts"
        ),
        sha256={},
    ),
    "eval-360vl": Provenance(
        repository="360CVGroup/360VL",
        commit="ad6a11c",
        packages={},
        made_by=(
            "the original's scorers and converters; MMMU and MME scorers of BAAI-DCAI/Bunny 08273ac, which "
            "its scripts call; synthetic questions and answers. What its scripts ask is in "
            "360vl/eval/prompts/expected_prompts.json"
        ),
        sha256={},
    ),
    "360vl": Provenance(
        repository="360CVGroup/360VL",
        commit="ad6a11c",
        packages={
            "torch": "2.13.0",
            "transformers": "4.37.2",
            "timm": "0.6.13",
            "einops": "0.6.1",
            "numpy": "1.26.4",
            "pillow": "13.0.0",
        },
        made_by=(
            "the original's own loading, preprocessing, forward and generate on the inputs stored beside the "
            "outputs: tiny random weights, CPU, one thread, float32, deterministic, eager attention."
            " See README.md. manifests/: keys and shapes of the original's modules on the meta device, built "
            "from the published configurations. quick_start.txt: the code printed in the model card"
        ),
        sha256={},
    ),
    "llava": Provenance(
        repository="haotian-liu/LLaVA; OpenGVLab/InternVL (internvl_chat_llava)",
        commit="c121f04; 568dcb7",
        packages={
            "torch": "2.13.0",
            "transformers": "4.37.2; 4.36.2; 4.31.0",
            "tokenizers": "0.15.2; 0.13.3",
            "peft": "0.7.1",
            "pillow": "13.0.0",
        },
        made_by=(
            "the originals' own loading, preprocessing, forward and generate on the inputs stored beside the "
            "outputs: tiny random weights, CPU, float32, eager attention. See README.md. manifests/: keys "
            "and shapes of the originals' modules on the meta device"
        ),
        sha256={},
    ),
}


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below the folder but the note itself."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in sorted(files.keys() - {NOTE})
    }


def seal(folder: Path) -> None:
    """Write the note of a folder whose origin is known."""
    if folder.name not in ORIGINS:
        raise SystemExit(f"write down where {folder.name} came from, in ORIGINS of {Path(__file__).name}")
    note = asdict(ORIGINS[folder.name]) | {"sha256": sums(folder)}
    (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n")
    print(f"{folder.name}: {len(note['sha256'])} files sealed")


def broken(folder: Path) -> list[str]:
    """What does not match the note, one sentence each; empty when all is as it was recorded."""
    if not (folder / NOTE).is_file():
        return [f"{folder.name} has no {NOTE}; nobody can tell where its numbers came from"]
    told = Provenance(**json.loads((folder / NOTE).read_text()))
    problems = []
    if asdict(told) | {"sha256": {}} != asdict(ORIGINS[folder.name]):
        problems.append(f"{folder.name}: {NOTE} and ORIGINS disagree; rebuild and seal it")
    have = sums(folder)
    for name in sorted(told.sha256.keys() | have.keys()):
        if name not in have:
            problems.append(f"{folder.name}/{name} is missing")
        elif name not in told.sha256:
            problems.append(f"{folder.name}/{name} is not in {NOTE}")
        elif have[name] != told.sha256[name]:
            problems.append(
                f"{folder.name}/{name} was changed by hand; goldens come only from the original code"
            )
    return problems


def golden_folders() -> list[Path]:
    """Every folder of goldens."""
    return sorted(path for path in HERE.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))


def main(arguments: list[str]) -> int:
    """Seal the folders named, or check all of them."""
    if arguments == ["--check"]:
        problems = [line for folder in golden_folders() for line in broken(folder)]
        print("\n".join(problems) or "every golden is as it was recorded")
        return 1 if problems else 0
    if not arguments or any(name.startswith("-") for name in arguments):
        print(__doc__)
        return 2
    for name in arguments:
        seal(HERE / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
