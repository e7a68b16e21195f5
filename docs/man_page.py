"""The manual page beholder(1), in the form that man reads, made from the verbs like reference/cli.md."""

from __future__ import annotations

from typing import Any

MADE = '.\\" Made by docs/make_reference.py. Do not edit.\n'
EXITS = (
    ("0", "done"),
    ("1", "it failed; one sentence on stderr says why and what to do"),
    ("2", "wrong usage"),
    ("3", "a check did not hold"),
)
VARIABLES = (
    ("BEHOLDER_API_KEYS", "keys that a server asks for, with commas between them"),
    ("BEHOLDER_API_KEY", "the key that the web page and an evaluation send to a server"),
    ("BEHOLDER_VLLM_PYTHON", "the Python of an environment that has vLLM, for --engine vllm"),
    ("HF_HOME, HF_HUB_OFFLINE, HF_TOKEN", "where downloads lie, whether to look nowhere else, and who asks"),
    ("NO_COLOR", "no colours, whatever its value"),
)


def man_page() -> str:
    """The whole page: each verb with its arguments and options."""
    from beholder.cli.commands import commands

    lines = [
        ".TH BEHOLDER 1 \"\" \"beholder\" \"User Commands\"",
        ".SH NAME",
        "beholder \\- chat with, serve, train and evaluate 360VL, InternVL\\-Chat, LLaVA\\-1.5, CogVLM",
        ".SH SYNOPSIS", ".B beholder", ".I VERB", "[OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        "Without a model's name a verb uses the small model in the package, which needs no network.",
        "Results go to stdout, progress and messages to stderr;", ".B \\-", "reads stdin.",
        ".SH VERBS",
    ]  # fmt: skip
    for verb in commands():
        lines += [f".SS {plain(verb.usage)}", plain(verb.text)]
        for given in (*verb.arguments, *verb.options):
            lines += [
                ".TP",
                _name(given),
                plain(given.help + (f" [{given.default}]" if given.default else "")),
            ]
    for title, rows in (("EXIT STATUS", EXITS), ("ENVIRONMENT", VARIABLES)):
        lines.append(f".SH {title}")
        for name, text in rows:
            lines += [".TP", f".B {plain(name)}", plain(text)]
    return "\n".join(lines)


def _name(given: Any) -> str:
    """A parameter as it is typed: flags in bold, what stands for a value in italics."""
    if not given.flags:
        return f".I {plain(given.metavar)}"
    flags = f"\\fB{plain(', '.join(given.flags))}\\fR"
    return flags if given.is_switch else f"{flags} \\fI{plain(given.metavar)}\\fR"


def plain(text: str) -> str:
    """Text in which man sees no command of its own."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("\n", " ")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
