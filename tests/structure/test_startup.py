"""Nothing heavy is imported before it is needed. What is imported is counted, not timed, so a busy machine
cannot fail these; `benchmarks/startup.py` measures the seconds."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

HEAVY = [
    "PIL", "accelerate", "huggingface_hub", "numpy", "peft", "pydantic", "safetensors", "sentencepiece",
    "tokenizers", "torch", "transformers", "yaml",
]  # fmt: skip

REPORT = f"""
import json, sys
print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)
"""

CALL = """
import sys
from beholder.cli import main
sys.argv = ["beholder", *{arguments}]
assert main() == 0
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_import_is_light_and_silent():
    done = run("import beholder" + REPORT)
    assert done.stdout == ""
    assert json.loads(done.stderr) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ask", "--help"]])
def test_help_is_light(arguments):
    done = run(CALL.format(arguments=arguments) + REPORT)
    assert done.stdout.strip()
    assert json.loads(done.stderr.splitlines()[-1]) == []


RESTING = """
import gc, json, sys
import beholder
before = [one["collections"] for one in gc.get_stats()]
import beholder.api
after = [one["collections"] for one in gc.get_stats()]
print(json.dumps([sum(after) - sum(before), gc.isenabled(), gc.get_freeze_count()]), file=sys.stderr)
"""


def test_the_collector_rests_while_torch_and_transformers_are_imported():
    collections, is_enabled, frozen = json.loads(run(RESTING).stderr.splitlines()[-1])
    assert collections <= 1, "modules of torch were searched for cycles again and again"
    assert is_enabled
    assert frozen == 0, "another's process keeps its objects collectable"


LEAVING = """
import gc, sys
from beholder.cli import main
sys.argv = ["beholder", "--version"]
assert main() == 0
import atexit
atexit._run_exitfuncs()
assert gc.get_freeze_count() > 0
"""


def test_the_command_leaves_without_looking_for_cycles():
    run(LEAVING)


def test_help_names_the_verbs():
    shown = run(CALL.format(arguments=["--help"])).stdout
    for verb in ("ask", "chat", "inspect", "train", "eval"):
        assert re.search(rf"\b{verb}\b", shown), f"{verb} is not in --help"
