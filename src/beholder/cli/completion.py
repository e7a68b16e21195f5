"""`beholder completion`: what a shell needs to complete verbs and options when Tab is pressed.

The script holds them all, so that completing starts no Python.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from beholder.cli.commands import Command, commands


class Shell(StrEnum):
    """Shells that are known."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print a script that completes verbs and options; `docs/reference/completion.md` tells where it goes."""
    print(SCRIPTS[shell](commands()), end="")


def bash(known: list[Command]) -> str:
    """For bash: read it with `source`, or put it where bash-completion looks."""
    cases = "\n".join(f'    "{verb}") words="{" ".join(_words(verb, known))}" ;;' for verb in _places(known))
    return f"""# Completion of beholder for bash, made by `beholder completion bash`.
_beholder() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} words verb=""
  if ((COMP_CWORD > 1)); then verb=${{COMP_WORDS[1]}}; fi
  if ((COMP_CWORD > 2)) && [[ " {" ".join(_pairs(known))} " == *" $verb:${{COMP_WORDS[2]}} "* ]]; then
    verb="$verb ${{COMP_WORDS[2]}}"
  fi
  case $verb in
{cases}
    *) words="" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _beholder beholder
"""


def zsh(known: list[Command]) -> str:
    """For zsh, through its layer for bash's scripts."""
    head = "# Completion of beholder for zsh, made by `beholder completion zsh`.\n"
    return f"{head}autoload -U +X bashcompinit && bashcompinit\n{bash(known).partition(chr(10))[2]}"


def fish(known: list[Command]) -> str:
    """For fish: put it into ~/.config/fish/completions/beholder.fish."""
    lines = ["# Completion of beholder for fish, made by `beholder completion fish`."]
    for first in _next_words("", known):
        summary = next((verb.summary for verb in known if verb.name == first), "")
        lines.append(f"complete -c beholder -n __fish_use_subcommand -a {first} -d '{_quoted(summary)}'")
    for verb in known:
        seen = " and ".join(f"__fish_seen_subcommand_from {word};" for word in verb.name.split())
        first, _, second = verb.name.partition(" ")
        if second:
            lines.append(
                f"complete -c beholder -n '__fish_seen_subcommand_from {first}' -a {second} "
                f"-d '{_quoted(verb.summary)}'"
            )
        for option in verb.options:
            for flag in option.flags:
                kind = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                value = "" if option.is_switch else " -r"
                lines.append(
                    f"complete -c beholder -n '{seen.rstrip(';')}' {kind}{value} -d '{_quoted(option.help)}'"
                )
    return "\n".join(lines) + "\n"


SCRIPTS = {Shell.bash: bash, Shell.zsh: zsh, Shell.fish: fish}


def _places(known: list[Command]) -> list[str]:
    """What may stand before the word that is completed: nothing, the first word of a verb, or a verb."""
    firsts = [verb.name.split()[0] for verb in known]
    return list(dict.fromkeys(["", *firsts, *(verb.name for verb in known)]))


def _words(place: str, known: list[Command]) -> list[str]:
    """What may follow there."""
    options = [
        flag for verb in known if verb.name == place for option in verb.options for flag in option.flags
    ]
    return [*_next_words(place, known), *options, *(["--help"] if place in {v.name for v in known} else [])]


def _next_words(place: str, known: list[Command]) -> list[str]:
    """The words with which verbs go on from there."""
    start = f"{place} " if place else ""
    going_on = [verb.name for verb in known if verb.name.startswith(start)]
    return list(dict.fromkeys(name[len(start) :].split()[0] for name in going_on))


def _pairs(known: list[Command]) -> list[str]:
    return [verb.name.replace(" ", ":") for verb in known if " " in verb.name]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
