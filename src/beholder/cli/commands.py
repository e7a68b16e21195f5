"""The verbs as data: their arguments and options, for shell completion and the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from inspect import Signature, signature
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from beholder.cli import VERBS

KINDS: dict[type[Any], str] = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a verb. `flags` is empty for an argument; `choices` for free values."""

    name: str
    flags: tuple[str, ...]
    metavar: str
    help: str
    default: str
    required: bool
    is_switch: bool
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """One verb: what it does, in a line and in full, and what it takes."""

    name: str
    summary: str
    text: str
    parameters: tuple[Parameter, ...]

    @property
    def arguments(self) -> tuple[Parameter, ...]:
        """What is given by place."""
        return tuple(parameter for parameter in self.parameters if not parameter.flags)

    @property
    def options(self) -> tuple[Parameter, ...]:
        """What is given by flag."""
        return tuple(parameter for parameter in self.parameters if parameter.flags)

    @property
    def usage(self) -> str:
        """The line of its call."""
        places = [
            parameter.metavar if parameter.required or "[" in parameter.metavar else f"[{parameter.metavar}]"
            for parameter in self.arguments
        ]
        return " ".join(["beholder", self.name, "[OPTIONS]", *places])


def command(name: str) -> Command:
    """The verb of that name, from its function's signature: what Typer reads as well."""
    verb = VERBS[name]
    function = getattr(import_module(f"beholder.cli.{verb.module}"), verb.function)
    hints = get_type_hints(function, include_extras=True)
    given = [
        _parameter(parameter.name, hints[parameter.name], parameter.default)
        for parameter in signature(function).parameters.values()
    ]
    return Command(name, verb.help, " ".join((function.__doc__ or "").split()), tuple(given))


def commands() -> list[Command]:
    """Every verb, in the order of `beholder --help`."""
    return [command(name) for name in VERBS]


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    from typer.models import ArgumentInfo

    told: Any = next(iter(getattr(hint, "__metadata__", ())), None)
    kind = hint.__origin__ if told is not None else hint
    is_argument = isinstance(told, ArgumentInfo) or (told is None and default is Signature.empty)
    base, is_many = _base(kind)
    is_switch = base is bool and not is_argument
    choices = tuple(str(choice.value) for choice in base) if issubclass(base, Enum) else ()
    return Parameter(
        name=name,
        flags=() if is_argument else _flags(name, told, is_switch, default),
        metavar=_metavar(name, told, base, is_argument, is_many, choices),
        help=" ".join((getattr(told, "help", None) or "").split()),
        default=_default(told, default, is_argument),
        required=default is Signature.empty,
        is_switch=is_switch,
        choices=choices,
    )


def _base(kind: Any) -> tuple[type[Any], bool]:
    """The type of one value, and whether there may be several: `list[str] | None` is (str, True)."""
    if isinstance(kind, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) in (list, tuple):
        return get_args(kind)[0], True
    return kind, False


def _flags(name: str, told: Any, is_switch: bool, default: Any) -> tuple[str, ...]:
    # In Annotated the first flag stands where Typer expects a default.
    written = (getattr(told, "default", None), *(getattr(told, "param_decls", None) or ()))
    flags = tuple(flag for text in written if isinstance(text, str) for flag in text.split("/"))
    flags = tuple(flag for flag in flags if flag.startswith("-"))
    if flags:
        return flags
    flag = "--" + name.replace("_", "-")
    return (flag, "--no-" + flag[2:]) if is_switch else (flag,)


def _metavar(
    name: str, told: Any, base: type[Any], is_argument: bool, is_many: bool, choices: tuple[str, ...]
) -> str:
    more = "…" if is_many and is_argument else ""
    if given := getattr(told, "metavar", None):
        return str(given).removesuffix("...").removesuffix("…") + more
    if choices:
        return "|".join(choices)
    return (name.upper() if is_argument else KINDS.get(base, base.__name__.upper())) + more


def _default(told: Any, default: Any, is_argument: bool) -> str:
    """What holds where it is left out, in the words of the verb where it has some; empty for nothing."""
    shown = getattr(told, "show_default", True)
    if isinstance(shown, str):
        return shown
    if is_argument or shown is False or default is None or default is Signature.empty:
        return ""
    if isinstance(default, bool):
        return "on" if default else ""
    return str(getattr(default, "value", default))
