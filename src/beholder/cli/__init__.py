"""The `beholder` command: a table of verbs, of which only the chosen one is imported.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 it failed, 2 wrong usage, 3 a
check did not hold, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

from beholder.core.errors import BeholderError, ConfigError


class Verb(NamedTuple):
    """Where a verb's function is and what it does, in a line."""

    module: str
    function: str
    help: str


VERBS = {
    "ask": Verb("ask", "ask", "Ask a model one question about one picture."),
    "chat": Verb("chat", "chat", "Talk with a model about pictures."),
    "ground": Verb(
        "ground", "ground", "Find what a phrase names in a picture: boxes, and the picture with them."
    ),
    "explain": Verb("explain", "explain", "Show where in a picture a model looked, on a page."),
    "serve": Verb("serve", "serve", "Serve models over the OpenAI API, with a web page."),
    "controller": Verb("controller", "controller", "Serve the models of workers on many machines."),
    "worker": Verb("worker", "worker", "Serve a model from this machine through a controller."),
    "web": Verb("web", "web", "Show the web page over any OpenAI-compatible server."),
    "train": Verb("train", "train", "Train a model by a recipe; resumes exactly."),
    "lab": Verb("lab", "lab", "Train four architectures alike and compare them on unseen scenes."),
    "eval": Verb("eval", "evaluate", "Score a model and write a record of the run."),
    "data draw": Verb("data", "draw", "Draw pictures with questions and answers to train and test on."),
    "data captchas": Verb("data", "captchas", "Draw captchas, named by what is written on them."),
    "data split": Verb("data", "split", "Move pictures to train, valid and test, 80 to 5 to 15."),
    "data check": Verb("data", "check", "Check a recipe's rows and pictures, and write a manifest."),
    "data show": Verb("data", "show", "Show how one row of a recipe is trained."),
    "inspect": Verb("inspect", "inspect", "Tell what a checkpoint is and whether it is whole."),
    "merge": Verb("merge", "merge", "Fold an adapter into its base model, and prove it."),
    "delta apply": Verb("delta", "apply", "Add published differences to their base model."),
    "delta make": Verb("delta", "make", "Take the base model off a model, to publish the differences."),
    "doctor": Verb("doctor", "doctor", "Tell what is wrong with a checkpoint and what to do."),
    "convert": Verb("convert", "convert", "Rewrite a checkpoint in another layout, bit for bit."),
    "fetch": Verb("fetch", "fetch", "Fetch a model with all that it needs, and pin it."),
    "parity": Verb("parity", "parity", "Compare this copy with the originals' numbers, stage by stage."),
    "bench": Verb("bench", "bench", "Measure how fast a model answers on this machine."),
    "models random": Verb("random", "random", "Write a checkpoint of a published size, of random numbers."),
    "models": Verb("models", "models", "List the models that are known by name."),
    "env": Verb("env", "env", "Show versions and devices, as a report of a problem needs them."),
    "completion": Verb("completion", "completion", "Print what a shell needs to complete verbs and options."),
}

# They say at every start which of their kernels are for other machines.
NOISY = ("torchao", "torch.utils._pytree")

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
DEBUG_VARIABLE = "BEHOLDER_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        _be_quick()
    debug = _take_debug(given)
    try:
        code = _run(given)
        sys.stdout.flush()  # a reader that went away is noticed here and not at exit
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _close_quietly()
    except Exception as error:
        if debug:
            raise
        return _tell(error)


def _be_quick() -> None:
    """In a process of our own: never look for cycles among the million objects of torch and transformers.

    At its end Python would go through all of them twice, for most of a second; memory goes back anyway.
    """
    import atexit
    import gc

    from beholder.core.imports import install

    install(forgets=True)
    atexit.register(gc.freeze)


def _run(given: list[str]) -> int:
    if len(given) > 1 and given[0] == "help":
        return _help(given[1:])
    if not given or given[0] in ("-h", "--help", "help"):
        print(help_text())
        return DONE
    if given[0] == "--version":
        from beholder import __version__

        print(f"beholder {__version__}")
        return DONE
    name = _verb_name(given)
    if name is None:
        print(help_text(given[0]))
        return DONE
    return _call(name, given[len(name.split()) :])


def _help(asked: list[str]) -> int:
    """`help CODE` prints what is known of an error, `help VERB` the same as `VERB --help`."""
    from beholder.core.troubles import PAGE, TROUBLES, section

    codes = [trouble.code for trouble in TROUBLES]
    if asked[0] in codes:
        print(section(asked[0]) or f"{PAGE}#{asked[0]}")
        return DONE
    if any(name.split()[0] == asked[0] for name in VERBS):
        return _run([*asked, "--help"])
    nearest = get_close_matches(asked[0], [*VERBS, *codes], n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "`beholder help` lists the verbs"
    raise ConfigError(f"{asked[0]!r} is neither a verb nor the code of an error; {hint}")


def _verb_name(given: Sequence[str]) -> str | None:
    """The verb that the arguments begin with; None if help was asked for a group of two-word verbs."""
    for words in (2, 1):
        name = " ".join(given[:words])
        if name in VERBS:
            return name
    first = given[0]
    group = [name for name in VERBS if name.startswith(f"{first} ")]
    if group and (len(given) == 1 or given[1] in ("-h", "--help")):
        return None
    known = group or list(VERBS)
    tried = " ".join(given[:2]) if group else first
    nearest = get_close_matches(tried, known, n=1)
    hint = f"did you mean `beholder {nearest[0]}`?" if nearest else f"known: {', '.join(known)}"
    raise ConfigError(f"there is no verb {tried!r}; {hint}")


def _call(name: str, arguments: list[str]) -> int:
    """Import the verb's module and let Typer read the arguments from its function's signature."""
    import logging
    from importlib import import_module

    import typer

    from beholder.cli.aliases import translate

    for logger in NOISY:
        logging.getLogger(logger).setLevel(logging.ERROR)
    verb = VERBS[name]
    function = getattr(import_module(f"beholder.cli.{verb.module}"), verb.function)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help=function.__doc__)(function)
    try:
        app(args=translate(name, arguments), prog_name=f"beholder {name}")
    except SystemExit as stop:  # how Typer ends a command
        return stop.code if isinstance(stop.code, int) else DONE
    return DONE


def help_text(group: str = "") -> str:
    """All verbs with their line, or those of one group."""
    verbs = {name: verb for name, verb in VERBS.items() if not group or name.startswith(f"{group} ")}
    width = max(map(len, verbs))
    lines = [f"  {name:{width}}  {verb.help}" for name, verb in verbs.items()]
    return "\n".join(
        [
            "Usage: beholder VERB [ARGUMENTS]",
            "",
            "Runs open vision-language models from the checkpoints their authors published.",
            "",
            "Verbs:",
            *lines,
            "",
            "`beholder VERB --help` tells a verb's arguments; `--version` prints the version;",
            f"`--debug` (or {DEBUG_VARIABLE}=1) shows where an error comes from; `beholder help CODE`,",
            "with the code that an error prints, what to do about it.",
        ]
    )


def _take_debug(given: list[str]) -> bool:
    """Remove `--debug`, which may stand anywhere before a `--`."""
    end = given.index("--") if "--" in given else len(given)
    if "--debug" in given[:end]:
        given.remove("--debug")
        return True
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def _tell(error: Exception) -> int:
    """One sentence on stderr, where more is written about it, and the exit code of this kind of error."""
    if isinstance(error, BeholderError):
        from beholder.core.troubles import trouble_of

        print(f"error: {error}", file=sys.stderr)
        if trouble := trouble_of(str(error)):
            print(f"help: {trouble.told}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, ConfigError) else FAILED
    kind = type(error).__name__
    print(f"error: unexpected {kind}: {error} (run again with --debug to see where)", file=sys.stderr)
    return FAILED


def _close_quietly() -> int:
    """The reader of our output went away, as `| head` does; the flush at exit must not complain either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
