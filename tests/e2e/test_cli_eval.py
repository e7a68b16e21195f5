"""`beholder eval` as a user runs it: in a process of its own, stopped by a kill, started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.tiny_checkpoint import make_tiny_checkpoint

from beholder.cli import main
from beholder.mini.dataset import Plan, write
from beholder.mini.fonts import FontBook

WRONG_USAGE = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return make_tiny_checkpoint(folder, llama3_tokenizer, image_aspect_ratio="square")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write(folder, Plan(scenes=4, seed=1, split="test"), FontBook())
    return folder


def command(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        "eval",
        "worlds",
        "--model",
        str(model),
        "--data",
        str(data),
        "--out",
        str(out),
        "--device",
        "cpu",
        *more,
    ]


def test_table_and_files(model, data, tmp_path, capsys):
    assert main(command(model, data, tmp_path, "--limit", "10")) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "worlds v1: tiny, 10 rows; percent with 95 % intervals"
    assert lines[1].split() == ["all", "en", "zh", "en-zh"]
    assert lines[2].startswith("overall")
    assert "worlds: 10 of 10 rows" in printed.err
    assert len((tmp_path / "worlds" / "answers.jsonl").read_text().splitlines()) == 10
    assert json.loads((tmp_path / "worlds" / "score.json").read_text())["samples"] == 10


def test_json_is_one_object_and_nothing_else(model, data, tmp_path, capsys):
    assert main(command(model, data, tmp_path, "--limit", "4", "--json")) == 0
    record = json.loads(capsys.readouterr().out)["worlds"]
    assert record == json.loads((tmp_path / "worlds" / "score.json").read_text())
    assert record["settings"]["data"]
    assert record["weights"]


def test_killed_and_started_again(model, data, tmp_path, capsys):
    limit = ("--limit", "24")
    assert main(command(model, data, tmp_path / "whole", "--json", *limit)) == 0
    whole = json.loads(capsys.readouterr().out)["worlds"]
    program = [
        sys.executable,
        "-c",
        "import sys; from beholder.cli import main; sys.exit(main(sys.argv[1:]))",
    ]
    arguments = command(model, data, tmp_path / "killed", "--batch", "4", *limit)
    answers = tmp_path / "killed" / "worlds" / "answers.jsonl"
    process = subprocess.Popen([*program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 120
    while not (answers.exists() and answers.stat().st_size) and process.poll() is None:
        assert time.monotonic() < give_up, "no answer came"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = answers.read_bytes().count(b"\n")
    assert 0 < before <= whole["samples"]
    assert main(command(model, data, tmp_path / "killed", "--json", *limit)) == 0
    again = json.loads(capsys.readouterr().out)["worlds"]
    assert again["values"] == whole["values"]
    ids = [json.loads(line)["id"] for line in answers.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == whole["samples"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["eval", "world"], "there is no benchmark 'world'; did you mean 'worlds'?"),
        (["eval", "worlds", "worlds"], "worlds is given twice"),
    ],
)
def test_wrong_names(arguments, told, capsys):
    assert main(arguments) == WRONG_USAGE
    assert told in capsys.readouterr().err


def test_a_folder_without_questions(model, tmp_path, capsys):
    (tmp_path / "data" / "worlds").mkdir(parents=True)
    assert main(command(model, tmp_path / "data", tmp_path / "out")) == 1
    assert "has no questions.json" in capsys.readouterr().err


def test_answers_of_other_weights_are_refused(model, data, tmp_path, llama3_tokenizer, capsys):
    assert main(command(model, data, tmp_path / "out", "--limit", "2")) == 0
    other = make_tiny_checkpoint(
        tmp_path / "other", llama3_tokenizer, image_aspect_ratio="square", initializer_range=0.1
    )
    assert main(command(other, data, tmp_path / "out", "--limit", "2")) == 1
    assert "choose another --out" in capsys.readouterr().err


def test_a_rounded_model_has_a_record_of_its_own(model, data, tmp_path, capsys, monkeypatch):
    """In the records stands how the model was opened, and answers of another form of it are refused."""
    monkeypatch.chdir(tmp_path)
    short = ["--limit", "2", "--dtype", "float32"]
    plain = command(model, data, tmp_path / "out", *short)
    rounded = ["--quantize", "int8", "--kv-dtype", "int8"]
    assert main(plain) == 0
    assert main([*plain, *rounded]) == 1
    assert "choose another --out" in capsys.readouterr().err
    place = plain.index("--out")
    bare = plain[:place] + plain[place + 2 :]
    assert main(bare) == main([*bare, *rounded]) == 0
    records = {
        path.parts[2]: json.loads(path.read_text()) for path in Path().glob("runs/eval/*/*/score.json")
    }
    assert [name.split("-")[2:] for name in sorted(records)] == [[], ["int8", "int8"]]
    dense, small = (records[name]["settings"] for name in sorted(records))
    assert not {"quantization", "kv_dtype"} & dense.keys()
    assert (small["quantization"], small["kv_dtype"]) == ("int8, the head int8", "int8")


@pytest.mark.parametrize("name", ["worlds", "worlds-redrawn"])
def test_missing_data_are_drawn(model, tmp_path, monkeypatch, capsys, name):
    from beholder.evaluation.tasks import worlds

    monkeypatch.setattr(worlds, "PLAN", Plan(scenes=3, seed=1, split="test"))
    arguments = command(model, tmp_path / "data", tmp_path / "out", "--limit", "3")
    arguments[1] = name
    assert main(arguments) == 0
    assert f"{name}: drawing the pictures" in capsys.readouterr().err
    assert len(list((tmp_path / "data" / name / "images").iterdir())) == 3
    assert main(arguments) == 0
    assert "drawing" not in capsys.readouterr().err


POPE_ANSWERS = Path(__file__).resolve().parents[1] / "golden" / "eval-llava" / "pope"


def score_pope(out: Path, *more: str) -> list[str]:
    return [
        "eval", "pope", "--answers", str(POPE_ANSWERS / "answers.jsonl"), "--data", str(POPE_ANSWERS),
        "--out", str(out), *more,
    ]  # fmt: skip


def test_answers_are_scored_without_a_model(tmp_path):
    program = (
        "import sys; from beholder.cli import main; code = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules, 'a model room was opened'; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *score_pope(tmp_path, "--json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)["pope"]
    assert record["values"]["f1_mean"] == pytest.approx((0.8148148 + 0.7142857 + 0.6666667) / 3, abs=1e-6)
    assert record["subject"] == "tiny-model"
    assert record["settings"]["quirks"] == ["no-among-words", "by-order", "else-yes"]
    assert (tmp_path / "pope" / "report.html").read_text().count("<article") == 42


def test_strict_metric_and_comparison(tmp_path, capsys):
    assert main(score_pope(tmp_path / "a")) == 0
    assert main(score_pope(tmp_path / "b", "--strict-metric")) == 0
    assert "pope v2: tiny-model, 42 rows" in capsys.readouterr().out
    assert (
        main(["eval", "--compare", str(tmp_path / "a" / "pope"), str(tmp_path / "b" / "pope"), "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["test"]) == (42, "McNemar, exact")
    assert told["lost"]
    assert main(["eval", "--compare", str(tmp_path / "a")]) == WRONG_USAGE


def test_beside_published_figures(tmp_path, capsys):
    CHECK_DID_NOT_HOLD = 3
    more = ("--compare", "published", "--published-as", "llava-v1.5-13b")
    assert main(score_pope(tmp_path, *more)) == CHECK_DID_NOT_HOLD
    printed = capsys.readouterr().out
    assert "published for llava-v1.5-13b 85.9" in printed
    assert "OUT OF tolerance" in printed


def test_a_benchmark_of_ones_own(model, data, tmp_path, capsys):
    picture = next((data / "images").iterdir())
    bench = data / "mine.jsonl"
    bench.write_text(
        json.dumps({"image": f"images/{picture.name}", "question": "What?", "answer": "x"}) + "\n"
    )
    arguments = [
        "eval",
        str(bench),
        "--model",
        str(model),
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
        "--json",
    ]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["mine"]["samples"] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["eval"], "name a benchmark"),
        (["eval", "worlds", "--shard", "4/4"], "does not exist"),
        (["eval", "worlds", "--api", "http://127.0.0.1:9"], "--api needs --model"),
        (["eval", "pope", "mme", "--answers", "x"], "only one"),
        (["eval", "pope", "--answers", "x", "--limit", "3"], "--limit tells how a model is asked, but"),
        (["eval", "pope", "--answers", "x", "--style", "llava", "--batch", "2"], "--style, --batch tells"),
        (["eval", "pope", "--answers", "x", "--quantize", "int8"], "--quantize tells how a model is opened"),
        (["eval", "worlds", "--api", "http://a", "--base", "b"], "is opened by the server at http://a"),
        (["eval", "worlds", "--quantize", "int3"], "quantize is 'int3'; use"),
        (["eval", "worlds", "--kv-dtype", "int4"], "--kv-dtype is 'int4'; it must be int8"),
        (["eval", "worlds", "--published-as", "llava-v1.5-7b"], "belongs to --compare published"),
        (["eval", "worlds", "--out", __file__], "is a file; name a folder"),
    ],
)
def test_wrong_usage(arguments, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "data" / "worlds" / "images").mkdir(parents=True)
    assert main(arguments) == WRONG_USAGE
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "rank", "here", "chosen"),
    [
        ("auto", "1", ["cuda:0", "cuda:1", "cpu"], {"device": "cuda:1"}),
        ("auto", "1", ["cpu"], {}),
        ("auto", None, ["cuda:0", "cuda:1", "cpu"], {}),
        ("cpu", "1", ["cuda:0", "cuda:1", "cpu"], {}),
    ],
)
def test_every_rank_has_a_gpu_of_its_own(device, rank, here, chosen, monkeypatch):
    from beholder.cli import eval as verb

    monkeypatch.setattr("beholder.core.device.available_devices", lambda: here)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert verb.device_of_rank(device) == chosen
