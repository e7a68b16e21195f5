"""lmms-eval finds our model by its entry point and runs a task of its own kind on it.

It is no dependency of ours (see docs/evaluation.md); where it is not installed there is nothing to run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from beholder.core.errors import ConfigError, InputError
from beholder.mini.dataset import Plan, write
from beholder.mini.fonts import FontBook

pytest.importorskip("lmms_eval")

TASK = """
task: local_scenes
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
doc_to_visual: !function seeing.pictures
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  max_new_tokens: 16
  temperature: 0
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
"""
SEEING = """
from PIL import Image


def pictures(doc):
    return [Image.open(doc["image"]).convert("RGB")]
"""


def local_task(folder: Path) -> list[dict[str, str]]:
    """The files of a task with a few drawn scenes; its rows."""
    write(folder / "data", Plan(scenes=2, seed=1, split="test"), FontBook())
    asked = json.loads((folder / "data" / "questions.json").read_text(encoding="utf-8"))
    rows = [
        {"image": str(folder / "data" / one["image"]), "question": one["question"], "answer": one["answer"]}
        for one in asked
        if one["kind"] in ("exists", "count", "colour") and one["language"] == "en"
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "local_scenes.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    (folder / "seeing.py").write_text(SEEING)
    return rows


def test_a_local_task(tmp_path):
    rows = local_task(tmp_path)
    done = subprocess.run(
        [
            sys.executable, "-m", "lmms_eval", "--model", "beholder", "--model_args", "device=cpu",
            "--tasks", "local_scenes", "--include_path", str(tmp_path), "--batch_size", "4",
            "--log_samples", "--output_path", str(tmp_path / "out"),
        ],
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("*samples*.jsonl")
    told = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert len(told) == len(rows)
    import beholder

    vlm = beholder.load(device="cpu")
    said = {row["question"] + row["image"]: vlm.ask(row["image"], row["question"]).text for row in rows}
    answers = [one["filtered_resps"] for one in sorted(told, key=lambda one: one["doc_id"])]
    flat = [one[0] if isinstance(one, list) else one for one in answers]
    assert flat == [said[row["question"] + row["image"]] for row in rows]


def test_what_a_task_asks_for():
    from beholder.evaluation.lmms_model import BeholderModel, message_of, sampling_of

    given = {"max_new_tokens": 8, "temperature": 0, "do_sample": False, "num_beams": 1, "until": "\n"}
    assert sampling_of(given) == {"max_tokens": 8, "temperature": 0.0, "stop": ["\n"]}
    sampled = sampling_of({"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    assert sampled == {"max_tokens": 1024, "temperature": 0.7, "top_p": 0.9, "stop": []}
    with pytest.raises(InputError, match="num_beams"):
        sampling_of({"num_beams": 4})
    picture = Image.new("RGB", (2, 2))
    assert message_of("What?", [picture]).parts == (picture, "What?")
    with pytest.raises(InputError, match="shows a str"):
        message_of("What?", ["film.mp4"])
    with pytest.raises(ConfigError, match="attn"):
        BeholderModel(attn="sdpa")
    with pytest.raises(NotImplementedError):
        BeholderModel.loglikelihood(SimpleNamespace(), [])
