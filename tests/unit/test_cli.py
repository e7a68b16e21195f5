"""The command before any verb runs: the table, wrong usage, old flags, exit codes."""

from __future__ import annotations

import ast
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import beholder
from beholder import cli
from beholder.cli.aliases import translate
from beholder.cli.commands import commands
from beholder.core.errors import CheckpointError, ConfigError, InputError


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Installs a verb `act` that does what a test wants."""

    def install(function) -> None:
        module = ModuleType("beholder.cli.act")
        module.act = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "beholder.cli.act", module)
        monkeypatch.setitem(cli.VERBS, "act", cli.Verb("act", "act", "Acts."))

    return install


def raising(error: BaseException):
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_is_one_documented_function_in_one_module(name):
    verb = cli.VERBS[name]
    spec = find_spec(f"beholder.cli.{verb.module}")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert ast.get_docstring(functions[verb.function])
    assert verb.help.endswith(".")
    assert len(verb.help) < 80


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_verb(arguments, capsys):
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and verb.help in shown for name, verb in cli.VERBS.items())


def test_help_of_a_group(capsys):
    assert cli.main(["data"]) == cli.main(["data", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "data draw" in shown
    assert "inspect" not in shown


@pytest.mark.parametrize("name", cli.VERBS)
def test_help_of_a_verb(name, capsys):
    assert cli.main([*name.split(), "--help"]) == 0
    assert f"Usage: beholder {name}" in capsys.readouterr().out


def test_every_argument_and_option_says_what_it_is():
    assert not [
        f"{verb.name} {given.name}" for verb in commands() for given in verb.parameters if not given.help
    ]


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"beholder {beholder.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["insepct"], "there is no verb 'insepct'; did you mean `beholder inspect`?"),
        (["xyzzy"], "there is no verb 'xyzzy'; known: ask, chat"),
        (["data", "drwa"], "there is no verb 'data drwa'; did you mean `beholder data draw`?"),
    ],
)
def test_unknown_verbs(arguments, sentence, capsys):
    assert cli.main(arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("a b"), 1), (CheckpointError("a b"), 1), (ConfigError("a b"), 2)],
)
def test_an_error_is_one_sentence(verb, error, code, capsys):
    verb(raising(error))
    assert cli.main(["act"]) == code
    captured = capsys.readouterr()
    assert captured.err == "error: a b\n"
    assert captured.out == ""


def test_an_unexpected_error_is_one_sentence_too(verb, capsys):
    verb(raising(KeyError("k")))
    assert cli.main(["act"]) == 1
    assert (
        capsys.readouterr().err == "error: unexpected KeyError: 'k' (run again with --debug to see where)\n"
    )


def test_debugging_shows_where(verb, monkeypatch: pytest.MonkeyPatch):
    verb(raising(InputError("a b")))
    with pytest.raises(InputError):
        cli.main(["act", "--debug"])
    with pytest.raises(InputError):
        cli.main(["--debug", "act"])
    monkeypatch.setenv("BEHOLDER_DEBUG", "1")
    with pytest.raises(InputError):
        cli.main(["act"])
    monkeypatch.setenv("BEHOLDER_DEBUG", "0")
    assert cli.main(["act"]) == 1


def test_debug_behind_two_dashes_is_an_argument(verb):
    given: list[str] = []

    def act(text: str) -> None:
        given.append(text)

    verb(act)
    assert cli.main(["act", "--", "--debug"]) == 0
    assert given == ["--debug"]


def test_interrupted(verb):
    verb(raising(KeyboardInterrupt()))
    assert cli.main(["act"]) == 130


def test_a_check_that_does_not_hold(verb):
    import typer

    verb(raising(typer.Exit(3)))
    assert cli.main(["act"]) == 3


@pytest.mark.parametrize("arguments", [["act", "surplus"], ["act", "--nonesuch"]])
def test_wrong_arguments(verb, arguments, capsys):
    verb(raising(AssertionError("ran")))
    assert cli.main(arguments) == 2
    assert "Usage: beholder act" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--model-path", "m", "a.png", "q"], ["--model", "m", "a.png", "q"]),
        (["--from_pretrained=m", "a.png"], ["--model=m", "a.png"]),
        (["--max_new_tokens", "9", "--bf16"], ["--max-tokens", "9", "--dtype", "bfloat16"]),
        (["--query", "q", "--image-file", "a.png", "--fp16"], ["a.png", "--dtype", "float16", "q"]),
        (["--image-file=a.png"], ["a.png"]),
        (["a.png", "q", "--model-base", "b"], ["a.png", "q", "--base", "b"]),
        (["--conv-mode=v1", "a.png"], ["--template=v1", "a.png"]),
        (["--version", "chat", "--english", "a.png"], ["--template", "chat", "a.png"]),
        (["--local_tokenizer", "x/y", "a.png"], ["--tokenizer", "x/y", "a.png"]),
        (["--load-4bit", "a.png"], ["--quantize", "4bit", "a.png"]),
        (["--load-8bit", "a.png"], ["--quantize", "8bit", "a.png"]),
        (["--quant", "8", "a.png"], ["--quantize", "8bit", "a.png"]),
        (["--quant=4", "a.png"], ["--quantize", "4bit", "a.png"]),
    ],
)
def test_old_flags_are_translated_with_a_hint(given, wanted, capsys):
    assert translate("ask", given) == wanted
    assert capsys.readouterr().err.startswith("hint: --")


@pytest.mark.parametrize("flag", ["--slide_window"])
def test_old_flags_without_a_place_are_refused(flag):
    for given in ([flag, "x"], [f"{flag}=x"]):
        with pytest.raises(ConfigError, match=f"^{flag}: "):
            translate("chat", given)


def test_where_a_checkpoint_is_the_subject_its_base_has_an_old_flag(capsys):
    for verb in ("inspect", "doctor", "convert", "merge"):
        assert translate(verb, ["x", "--model-base", "b", "--", "--model-base"]) == [
            "x", "--base", "b", "--", "--model-base"
        ]  # fmt: skip
    assert capsys.readouterr().err.count("hint: --model-base is --base here") == 4


def test_what_looks_like_an_old_flag_may_be_text(capsys):
    assert translate("ask", ["a.png", "--", "--query"]) == ["a.png", "--", "--query"]
    assert translate("inspect", ["--model-path"]) == ["--model-path"]
    assert capsys.readouterr().err == ""


def test_an_old_flag_without_its_value():
    with pytest.raises(ConfigError, match="--query needs a value"):
        translate("ask", ["--query"])
