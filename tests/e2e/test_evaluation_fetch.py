"""Benchmarks that are not there are fetched: huggingface_hub's own client asks a hub on loopback."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.hub_stand_in import Hub

ROWS = """
import json, sys
from pathlib import Path
from beholder.evaluation.tasks import find_task
task, data = find_task(sys.argv[1]), Path(sys.argv[2])
task.prepare(data)
print(json.dumps(task.load(data)))
"""
SEED = "datasets/AILab-CVC/SEED-Bench"
WILD = "datasets/liuhaotian/llava-bench-in-the-wild"
MME = "datasets/darkyarding/MME"
MMMU = "datasets/MMMU/MMMU"


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def lines(*values: Any) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def seed_bench(question: str = "How many towels?") -> dict[str, bytes]:
    asked = {"question": question, "answer": "A", "question_type_id": 5}
    asked |= {f"choice_{letter}": letter for letter in "abcd"}
    questions = [
        asked | {"question_id": "101669", "data_id": "1454426_2591111986", "data_type": "image"},
        asked | {"question_id": "v1738", "data_id": "94328.webm", "data_type": "video"},
    ]
    return {
        "SEED-Bench.json": json.dumps(
            {"questions": questions, "question_type": {"Instances Counting": 5}}
        ).encode(),
        "SEED-Bench-image.zip": zipped(
            {"SEED-Bench-image/1454426_2591111986": picture(), "__MACOSX/SEED-Bench-image/._x": b""}
        ),
        "v1_video.zip.001": b"never asked for",
    }


def in_the_wild() -> dict[str, bytes]:
    return {
        "questions.jsonl": lines(
            {"question_id": 0, "image": "001.jpg", "text": "Where?", "category": "conv"}
        ),
        "context.jsonl": lines({"id": "001", "image": "001.jpg", "caption": "A volcano."}),
        "answers_gpt4.jsonl": lines({"question_id": 0, "text": "Hawaii.", "answer_id": "x"}),
        "bard_0718.jsonl": lines({"question_id": 0, "text": "There."}),
        "images/001.jpg": picture(),
        "README.md": b"",
    }


def mme() -> dict[str, bytes]:
    text = b"Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n"
    around = "MME_Benchmark_release_version/MME_Benchmark"
    return {
        "MME_Benchmark_release_version.zip": zipped(
            {
                f"{around}/color/000.txt": text,
                f"{around}/color/000.jpg": picture(),
                f"{around}/landmark/questions_answers_YN/a.txt": text,
                f"{around}/landmark/images/a.jpg": picture(),
            }
        ),
        "data/test-00000-of-00002.parquet": b"never asked for",
    }


def mmmu() -> dict[str, bytes]:
    sample = {"id": "validation_Art_1", "question": "Which?", "options": "['a', 'b']", "answer": "B"}
    return {
        "Art/validation-00000.jsonl": lines(sample | {"question_type": "multiple-choice"}),
        "Art/test-00000.jsonl": lines({}),
    }


@pytest.fixture
def hub() -> Generator[Hub]:
    served = Hub()
    served.repositories = {SEED: seed_bench(), WILD: in_the_wild(), MME: mme(), MMMU: mmmu()}
    yield served
    served.close()


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Any:
    """Runs a program in a folder of its own against the hub, with a cache of its own."""
    return partial(hub.run, tmp_path)


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fetched(hub: Hub) -> set[str]:
    """The files whose content was asked for."""
    return {
        path.rsplit("/", 1)[-1] for method, path, _ in hub.requests if method == "GET" and "resolve" in path
    }


def test_a_model_is_asked_what_the_hub_has(run, hub, tmp_path):
    """From nothing to a score; then, pinned, the same without a network although the data set has changed."""
    done = run("eval", "seed-image", "--json", "--limit", "1", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "seed-image: fetching the data from the hub into" in done.stderr
    record = json.loads(done.stdout)["seed-image"]
    assert (record["samples"], record["settings"]["rows"]) == (1, 1)
    data = tmp_path / "runs" / "data" / "seed-image"
    assert (data / "SEED-Bench-image" / "1454426_2591111986").read_bytes() == picture()
    assert sorted(path.name for path in data.iterdir()) == ["SEED-Bench-image", "SEED-Bench.json"]
    assert fetched(hub) == {"SEED-Bench.json", "SEED-Bench-image.zip"}

    hub.repositories[SEED] = seed_bench("How many cats?")
    again = rows(run("seed-image", str(tmp_path / "again"), code=ROWS, offline=True))
    assert [row["question"].split("\n")[0] for row in again] == ["How many towels?"]
    pins = json.loads((tmp_path / "hf" / "hub" / "beholder.lock.json").read_text())["pins"]
    assert set(pins[SEED]["files"]) == {"SEED-Bench.json", "SEED-Bench-image.zip"}


def test_answers_need_no_pictures(run, hub, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_bytes(lines({"question_id": "101669", "text": "A"}, {"question_id": "v1738", "text": "B"}))
    done = run("eval", "seed", "--answers", str(answers), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seed"]["values"]["accuracy"] == 0.5
    assert fetched(hub) == {"SEED-Bench.json"}


def test_frames_of_videos_are_nowhere(run, hub):
    done = run("eval", "seed", "--device", "cpu")
    assert done.returncode == 1
    assert "has no llava-seed-bench.jsonl with SEED-Bench-video-image" in done.stderr
    assert "or ask seed-image, which the hub has" in done.stderr
    assert "SEED-Bench-image.zip" not in fetched(hub)


def test_questions_in_the_wild(run, hub, tmp_path):
    """The data set has no rules for the judge; LLaVA's stand in."""
    (row,) = rows(run("llava-bench", str(tmp_path / "data"), code=ROWS))
    assert (row["id"], row["image"], row["reference"]) == ("0", "images/001.jpg", "Hawaii.")
    assert row["rule"]["prompt"].startswith("We would like to request your feedback")
    assert (tmp_path / "data" / row["image"]).read_bytes() == picture()
    assert "bard_0718.jsonl" not in fetched(hub)


def test_the_release_of_mme(run, hub, tmp_path):
    told = rows(run("mme", str(tmp_path / "data"), code=ROWS))
    assert [row["category"] for row in told] == ["color", "color", "landmark", "landmark"]
    assert all((tmp_path / "data" / row["image"]).read_bytes() == picture() for row in told)
    assert fetched(hub) == {"MME_Benchmark_release_version.zip"}


def test_a_split_of_mmmu(run, hub, tmp_path):
    (row,) = rows(run("mmmu", str(tmp_path / "data"), code=ROWS))
    assert (row["id"], row["truth"]) == ("validation_Art_1", "B")
    assert fetched(hub) == {"validation-00000.jsonl"}


OFFLINE = "is not (completely) in the download cache, and the hub cannot be reached (no network, or"


def test_without_a_network_and_without_the_data(run):
    """One sentence, and before any model is opened."""
    done = run("eval", "llava-bench", "--model", "no/such-model", offline=True)
    assert done.returncode == 1
    assert f"the data set liuhaotian/llava-bench-in-the-wild {OFFLINE}" in done.stderr
    assert "or give its files with --data" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_benchmark_of_the_hub_without_a_network(run, tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom beholder.core.errors import InputError\n"
        "from beholder.evaluation.tasks import TASKS, find_task\n"
        "for name in TASKS:\n    task = find_task(name)\n    if task.fetch:\n        try:\n"
        "            task.prepare(Path(sys.argv[1]))\n        except InputError as error:\n"
        "            print(name, error)"
    )
    told = run(str(tmp_path / "data"), code=program, offline=True).stdout.splitlines()
    assert [line.split()[0] for line in told] == ["mme", "seed", "seed-image", "mmmu", "llava-bench"]
    assert all(OFFLINE in line for line in told)


def test_a_data_set_that_is_gone(run, hub):
    del hub.repositories[WILD]
    done = run("eval", "llava-bench", "--model", "no/such-model")
    assert done.returncode == 1
    assert "liuhaotian/llava-bench-in-the-wild could not be fetched from the hub" in done.stderr
    assert "Traceback" not in done.stderr
