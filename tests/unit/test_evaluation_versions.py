"""A score carries the version of its rules. Here the code that can move one is tied to the versions.

A hash that differs is a question: can an answer score otherwise now, or be asked otherwise? Then raise
`version` of the benchmarks that are named, here and in their tasks, and tell it in the changelog under
Numbers. If not, write the new hash only.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest

import beholder.evaluation as room
from beholder.evaluation.tasks import TASKS, find_task

ROOM = Path(str(room.__file__)).parent
# At 2 since POPE, MME, MMMU, RefCOCO, TextVQA and ScienceQA count odd answer files as the originals' scorers
# do, LLaVA-Bench rounds as the original, and Visual7W reads boxes in answers made elsewhere. Others are at 1.
RAISED: dict[str, int] = dict.fromkeys(
    ("pope", "mme", "mmmu", "textvqa", "scienceqa", "llava-bench", "llava-bench-coco", "visual7w"), 2
)
RAISED |= {name: 2 for name in TASKS if name.startswith("refcoco")}
HASHES = {
    "metrics/caption_words.py": "87e1121c1ea0",
    "metrics/captions.py": "7f436b071bff",
    "metrics/choices.py": "f3d683641e12",
    "metrics/open_answers.py": "68801d128e76",
    "metrics/region.py": "003ecac47c77",
    "metrics/reviews.py": "f844740fbc24",
    "metrics/soft_score.py": "f0661a8816c0",
    "metrics/words.py": "b90fc5f052c1",
    "metrics/yes_no.py": "b7142952d364",
    "pairing.py": "0956c24531d3",
    "prompts.py": "0dc937e4270a",
    "tasks/captcha.py": "d5ad8a4074c9",
    "tasks/captions.py": "68a0b8e7b2a6",
    "tasks/custom.py": "a948d11b7dee",
    "tasks/gqa.py": "c8db7e2bfcb6",
    "tasks/llava_bench.py": "de6d12c6234c",
    "tasks/mmbench.py": "4a6a7afdb209",
    "tasks/mme.py": "f97e70c555f7",
    "tasks/mmmu.py": "de58d8ec02ee",
    "tasks/mmvet.py": "25bc3e6643b3",
    "tasks/okvqa.py": "de2d7debe677",
    "tasks/pope.py": "7abae687e30a",
    "tasks/refcoco.py": "c3fd80e0497b",
    "tasks/scienceqa.py": "76ce2dd0a417",
    "tasks/seed.py": "71b756779930",
    "tasks/tdiuc.py": "f447691ff020",
    "tasks/textvqa.py": "4aff8266ae3a",
    "tasks/touchstone.py": "52f391ccc64c",
    "tasks/visual7w.py": "4161234adacb",
    "tasks/vizwiz.py": "a09c365505b6",
    "tasks/vqav2.py": "3dfd34ab4759",
    "tasks/worlds.py": "7e92222bfb3c",
}  # fmt: skip


def bare(path: Path) -> str:
    """The code of a file without comments, docstrings and empty lines."""
    text = path.read_text(encoding="utf-8")
    lines = dict(enumerate(text.split("\n"), 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            for number in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1):
                del lines[number]
    return "\n".join(line for line in lines.values() if line.strip() and not line.lstrip().startswith("#"))


def names_of(path: Path) -> list[str]:
    """The benchmarks whose task is in a file, or in one that imports from it."""
    module = ".".join(["beholder.evaluation", *path.relative_to(ROOM).with_suffix("").parts])
    users = {
        other for other in ROOM.rglob("*.py") if other == path or f"from {module} import" in other.read_text()
    }
    return [name for name in TASKS if ROOM / "tasks" / f"{TASKS[name].partition(':')[0]}.py" in users]


FILES = sorted(
    path
    for path in (
        *ROOM.glob("tasks/*.py"),
        *ROOM.glob("metrics/*.py"),
        ROOM / "pairing.py",
        ROOM / "prompts.py",
    )
    if path.name not in ("__init__.py", "other_renderer.py")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_code_that_can_move_a_score_is_tied_to_versions(path):
    name = str(path.relative_to(ROOM))
    digest = hashlib.sha256(bare(path).encode()).hexdigest()[:12]
    users = ", ".join(names_of(path)) or "what uses it"
    assert HASHES.get(name) == digest, (
        f"{name} has changed. If that can move a score or a prompt, raise `version` of {users}, in the task "
        f'and in RAISED here. In any case write here: "{name}": "{digest}",'
    )


def test_no_file_is_left_over():
    assert set(HASHES) == {str(path.relative_to(ROOM)) for path in FILES}


def test_versions():
    assert {name: find_task(name).version for name in TASKS} == {name: RAISED.get(name, 1) for name in TASKS}


def test_a_benchmark_of_ones_own_has_one_too(tmp_path):
    """At 2 since a model that learned no endings is asked without them."""
    (tmp_path / "mine.jsonl").write_text('{"image": "", "question": "?", "answer": "x"}\n')
    assert find_task(str(tmp_path / "mine.jsonl")).measure == "mine v2"


def test_comments_and_docstrings_are_no_code(tmp_path):
    (tmp_path / "a.py").write_text('"""About."""\n\n# Why.\ndef f():\n    """What."""\n    return "# 1"\n')
    (tmp_path / "b.py").write_text('def f():\n    return "# 1"\n')
    assert bare(tmp_path / "a.py") == bare(tmp_path / "b.py")
