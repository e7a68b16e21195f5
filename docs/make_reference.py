"""Writes what follows from the code: the pages of docs/reference, docs/models/sizes.md and the manual page.

    python docs/make_reference.py [--check]

`--check` writes nothing and fails where a page would change; a test does the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import man_page  # noqa: E402
import sizes_page  # noqa: E402

MADE = "<!-- Made by docs/make_reference.py. Do not edit. -->\n\n"
# What the API page describes: a module, and of it these names.
API = {
    "beholder": (
        "load", "VLM", "AnswerStream", "Message", "Sampling", "Answer", "Usage", "Timings", "Box",
    ),
    "beholder.generation.engine": ("Engine",),
    "beholder.grounding.habits": ("Grounding",),
    "beholder.explaining": ("explain", "Explanation", "Said", "render"),
    "beholder.core.records": ("RunRecord", "capture", "hash_weights"),
    "beholder.checkpoints.inspect": ("examine",),
    "beholder.training.stages": ("read_recipe", "recipe_names"),
    "beholder.evaluation.task": ("Task",),
    "beholder.families": ("family", "identify", "identify_folder"),
    "beholder.core.troubles": ("trouble_of",),
}  # fmt: skip


def cli_page() -> str:
    """Every verb with what it takes."""
    from beholder.cli.commands import commands

    lines = [
        "# Command line", "",
        "Results go to stdout, progress and messages to stderr; `-` reads stdin; `NO_COLOR` is honoured.",
        "`--debug` shows",
        "where an error comes from. Exit codes: 0 done, 1 it failed, 2 wrong usage, 3 a check did not",
        "hold.", "",
        "`beholder` and `python -m beholder` are the same program. [Completion](completion.md) of verbs and",
        "options",
        "is there for bash, zsh and fish.", "",
    ]  # fmt: skip
    for verb in commands():
        lines += [f"## beholder {verb.name}", "", verb.text, "", "```text", verb.usage, "```", ""]
        if verb.parameters:
            lines += ["| | | left out |", "|---|---|---|"]
            lines += [_parameter_row(given) for given in (*verb.arguments, *verb.options)]
            lines.append("")
    return "\n".join(lines)


def _parameter_row(given: Any) -> str:
    name = ", ".join(given.flags) or given.metavar
    shown = name if given.is_switch or not given.flags else f"{name} {given.metavar}"
    return f"| `{_cell(shown)}` | {_cell(given.help)} | {_cell(given.default)} |"


def recipes_page() -> str:
    """Every key of a recipe, and the recipes that come with the package."""
    from beholder.training.sections import Adapters, Start
    from beholder.training.stages import Recipe, Source, read_recipe, recipe_names

    lines = [
        "# Recipes", "",
        "A recipe is one YAML file; an unknown key is an error that names the nearest one. Any key can be",
        "set on the",
        "command line as `key=value`, with dots reaching inside: `lora.rank=16`. What they mean for a run is",
        "told in",
        "[Training](../training.md).", "",
    ]  # fmt: skip
    tables: tuple[tuple[str, str, type[Any]], ...] = (
        ("A recipe", "", Recipe),
        ("`data`: a list of sources", "", Source),
        ("`lora`", "", Adapters),
        ("`start`", "", Start),
    )
    for title, _, model in tables:
        about = " ".join((model.__doc__ or "").split())
        lines += [f"## {title}", "", about, "", "| key | type | left out | |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            needed = field.is_required()
            default = "**needed**" if needed else f"`{_default(field)}`"
            kind = _cell(_type(field.annotation))
            lines.append(f"| `{name}` | `{kind}` | {_cell(default)} | {_cell(field.description or '')} |")
        lines.append("")
    lines += ["## In the package", "", "| recipe | |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(read_recipe(name).about)} |" for name in recipe_names()]
    return "\n".join([*lines, ""])


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    return "nothing" if value is None or value in ((), {}, "") else str(value).replace("'", "")


def _type(annotation: Any) -> str:
    """A type as the page writes it: `list of Source`, `one of a, b`, `integer`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
    if annotation in names:
        return names[annotation]
    if annotation is Any:
        return "anything"
    if origin is None:
        return annotation.__name__
    if str(origin) == "typing.Literal":
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple:
        return "list of " + _type(inner[0])
    if origin is list:
        return "list of " + _type(inner[0])
    if origin is dict:
        return f"{_type(inner[0])} to {_type(inner[1])}"
    return " or ".join(_type(one) for one in inner if one is not type(None))


def api_page() -> str:
    """Signatures and docstrings of what is meant to be used from outside."""
    lines = [
        "# Python",
        "",
        "What is meant to be used from outside. `import beholder` is quick and silent.",
        "",
    ]
    for module_name, names in API.items():
        module = importlib.import_module(module_name)
        lines += [f"## {module_name}", "", _first(module.__doc__), ""]
        for name in names:
            lines += _definition(name, getattr(module, name))
    return "\n".join(lines)


def _definition(name: str, value: Any) -> list[str]:
    if not inspect.isclass(value):
        return [f"### {name}", "", "```text", f"{name}{_signature(value)}", "```", "", _text(value), ""]
    lines = [f"### {name}", "", _text(value), ""]
    if dataclasses.is_dataclass(value):
        lines += ["| field | type | left out |", "|---|---|---|"]
        for field in dataclasses.fields(value):
            lines.append(f"| `{field.name}` | `{_cell(str(field.type))}` | {_cell(_field_default(field))} |")
        lines.append("")
    else:
        lines += ["```text", f"{name}{_signature(value.__init__, drop_self=True)}", "```", ""]
    for member, found in vars(value).items():
        if member.startswith("_"):
            continue
        raw = getattr(found, "__func__", found)
        if isinstance(found, property) and found.__doc__:
            lines += [f"**`{member}`**: {_first(found.__doc__)}", ""]
        elif inspect.isfunction(raw) and raw.__doc__:
            shown = _signature(raw, drop_self=True)
            lines += ["```text", f"{name}.{member}{shown}", "```", "", _text(raw), ""]
    return lines


def _field_default(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    return "empty" if field.default_factory is not dataclasses.MISSING else ""


def _signature(function: Any, *, drop_self: bool = False) -> str:
    """As it is written, with annotations; the first parameter of a method is left out."""
    found = inspect.signature(function)
    given = list(found.parameters.values())
    if drop_self and given and given[0].name in ("self", "cls"):
        given = given[1:]
    shown = found.replace(parameters=given)
    return str(shown).replace("'", "")


def errors_page() -> str:
    """The classes of errors, with their exit codes and HTTP statuses, and the codes of single ones."""
    from beholder.cli import FAILED, WRONG_USAGE
    from beholder.core import errors
    from beholder.core.troubles import TROUBLES
    from beholder.serving.errors import from_exception

    lines = [
        "# Errors", "",
        "Whatever a person can cause is one of these, with one sentence that says what is wrong and what to",
        "do. All are",
        "`BeholderError`; each is also the class of Python's own that fits.", "",
        "| class | also | exit code | HTTP | |", "|---|---|--:|--:|---|",
    ]  # fmt: skip
    for name, value in vars(errors).items():
        if not inspect.isclass(value) or value is errors.BeholderError:
            continue
        refusal = from_exception(value("x"))
        status = refusal.status if refusal else 500
        also = ", ".join(f"`{base.__name__}`" for base in value.__bases__ if base is not errors.BeholderError)
        code = WRONG_USAGE if issubclass(value, errors.ConfigError) else FAILED
        lines.append(f"| `{name}` | {also} | {code} | {status} | {_first(value.__doc__)} |")
    lines += [
        "", "## Codes", "",
        "Errors that people meet often have a code of their own, which stays; the command line prints where",
        "the",
        "documentation says more (`help: …`), and `beholder.core.troubles.trouble_of(message)` tells it in",
        "Python.", "",
        "| code | the sentence has in it |", "|---|---|",
    ]  # fmt: skip
    for trouble in TROUBLES:
        where = f"../troubleshooting.md#{trouble.code}"
        lines.append(f"| [{trouble.code}]({where}) | `{_cell(trouble.pattern)}` |")
    return "\n".join([*lines, ""])


def metrics_page() -> str:
    """Every metric of `/metrics`."""
    from beholder.serving.metrics import Metrics

    metrics = Metrics()
    source = (HERE.parent / "src" / "beholder" / "serving" / "completing.py").read_text(encoding="utf-8")
    for name, text in re.findall(r'\.watch\("(\w+)", "([^"]+)"', source):
        metrics.watch(name, text, lambda: 0.0)
    lines = [
        "# Metrics", "",
        "`GET /metrics` of `beholder serve`, in Prometheus' text format. `deploy/grafana/beholder.json`",
        "shows them.", "",
        "| metric | kind | labels | |", "|---|---|---|---|",
    ]  # fmt: skip
    for collector in _collectors(metrics.registry):
        (family,) = collector.collect()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)
        lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join([*lines, ""])


def _collectors(registry: Any) -> Iterable[Any]:
    return sorted(registry._collector_to_names, key=lambda collector: next(iter(collector.collect())).name)


def _first(text: str | None) -> str:
    """The first paragraph of a docstring, as one line."""
    return _prose(" ".join((inspect.cleandoc(text or "").split("\n\n") or [""])[0].split()))


def _text(value: Any) -> str:
    """A whole docstring, its paragraphs as they are."""
    told = inspect.cleandoc(value.__doc__ or "")
    return "\n\n".join(_prose(" ".join(part.split())) for part in told.split("\n\n"))


def _prose(text: str) -> str:
    """What Markdown would take for a mark of its own, where a docstring means the letters."""
    return re.sub(r"(?<![`\w])\*(?=\w)", r"\\*", text).replace("<", "&lt;").replace("[", "\\[")


def _cell(text: str) -> str:
    """Text that a table can hold."""
    return text.replace("|", "\\|").replace("\n", " ")


PAGES: dict[str, Callable[[], str]] = {
    "reference/cli.md": cli_page,
    "reference/recipes.md": recipes_page,
    "reference/api.md": api_page,
    "reference/errors.md": errors_page,
    "reference/metrics.md": metrics_page,
    "models/sizes.md": sizes_page.sizes_page,
    "man/beholder.1": man_page.man_page,
}


def made(name: str) -> str:
    """The text of a page as it should be."""
    mark = MADE if name.endswith(".md") else man_page.MADE
    return mark + PAGES[name]().rstrip("\n") + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or tell which are not current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page would change")
    check = parser.parse_args(arguments).check
    stale = 0
    for name in PAGES:
        path, text = HERE / name, made(name)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if check:
            sys.stderr.write(f"{name} is not current: python docs/make_reference.py\n")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
