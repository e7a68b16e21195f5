"""`beholder env`: what a report needs is there, what is private is not; and the completion scripts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from beholder.cli import VERBS, env, main
from beholder.cli.commands import command, commands


def told(capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["env", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_report_has_what_is_asked_for_first(capsys):
    facts = told(capsys)
    assert facts["packages"]["beholder"] == metadata.version("beholder")
    assert {"torch", "transformers", "python"} <= facts["packages"].keys()
    assert facts["threads"] >= 1
    assert facts["devices"][-1] == "cpu"
    assert len(facts["built-in model"]) == 16
    assert set(facts["processor features"]) <= set(env.FEATURES)


def test_text_and_json_tell_the_same(capsys):
    facts = told(capsys)
    assert main(["env"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert set(facts) - {"packages", "extras"} <= lines.keys()
    assert lines["offline"].strip() == ("yes" if facts["offline"] else "no")
    assert all(f"extra {name}" in lines for name in facts["extras"])


def test_the_home_folder_and_the_token_are_not_told(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "jane"))
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s" * 34)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "jane" / "cache"))
    assert main(["env", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "hf_sss" not in shown
    assert json.loads(shown)["signed in to the hub"] is True
    assert json.loads(shown)["variables"]["HF_HOME"] == "~/cache"


@pytest.mark.parametrize(
    ("path", "shown"), [("{home}", "~"), ("{home}/a/b", "~/a/b"), ("{home}ly/a", "{home}ly/a"), ("/a", "/a")]
)
def test_only_the_home_folder_is_shortened(path, shown, monkeypatch):
    monkeypatch.setenv("HOME", "/users/jane")
    assert env.without_home(path.format(home="/users/jane")) == shown.format(home="/users/jane")


def test_an_extra_tells_what_is_missing(monkeypatch):
    lines = [
        "numpy>=1",
        'pillow>=1; extra == "fine"',
        'pillow>=9999; extra == "old"',
        'nope>=2; extra == "old"',
    ]
    monkeypatch.setattr(env.metadata, "requires", lambda _name: [*lines, 'beholder[old]; extra == "all"'])
    assert env.missing_of_extras() == {"fine": [], "old": ["pillow>=9999", "nope>=2"]}


def test_the_package_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "beholder", "--version"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, f"beholder {metadata.version('beholder')}\n")


def test_verbs_as_data_are_what_help_shows(capsys):
    """Typer reads the same signatures; an option that it would call otherwise is noticed here."""
    for verb in commands():
        assert main([*verb.name.split(), "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        missing = [flag for option in verb.options for flag in option.flags if flag not in shown]
        assert not missing, f"{verb.name}: {missing}"
        assert f"Usage: {verb.usage.split(' [OPTIONS]')[0]}" in shown


def test_a_verb_as_data():
    ask = command("ask")
    assert [argument.name for argument in ask.arguments] == ["image", "question"]
    model = next(option for option in ask.options if option.name == "model")
    assert model.flags == ("--model", "-m")
    assert next(o for o in ask.options if o.name == "max_tokens").default == "512"
    assert ask.usage == "beholder ask [OPTIONS] IMAGE QUESTION"


@pytest.mark.parametrize(
    ("typed", "found", "not_found"),
    [
        ("beholder as", "ask", "eval"),
        ("beholder data sh", "show", "ask"),
        ("beholder data show --tem", "", "--temperature"),
        ("beholder ask --tem", "--temperature", "--export"),
        ("beholder models random --la", "--layers", "--api"),
    ],
)
def test_bash_completes(typed, found, not_found, capsys, tmp_path: Path):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "beholder.bash"
    script.write_text(capsys.readouterr().out)
    words = typed.split()
    asked = f"""source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}
    _beholder; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    completed = done.stdout.split()
    assert not_found not in completed
    assert found in completed if found else completed == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_knows_every_verb(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for name in VERBS for word in name.split())
    assert "--max-tokens" in script or "-l max-tokens" in script
