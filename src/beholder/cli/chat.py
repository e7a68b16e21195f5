"""`beholder chat`: a conversation at a terminal, or in a pipe with one question per line."""

from __future__ import annotations

import io
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer

from beholder.cli import options
from beholder.core.errors import BeholderError
from beholder.core.types import Sampling

if TYPE_CHECKING:
    from beholder.cli.conversation import Conversation

PROMPT = "> "


def chat(
    image: Annotated[
        str | None, typer.Argument(metavar="[IMAGE]", help="A file or URL to talk about.", show_default=False)
    ] = None,
    model: options.Model = None,
    system: options.System = None,
    max_tokens: options.MaxTokens = 512,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    seed: options.Seed = None,
    base: options.Base = None,
    template: options.Template = None,
    quantize: options.Quantize = None,
    tokenizer: options.Tokenizer = None,
    kv_dtype: options.KvDtype = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Talk with a model about pictures. /help lists the commands; stop or Ctrl-D ends it."""
    sampling = options.check_sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    from beholder.processing.images import open_picture

    picture = None if image is None else open_picture(image)

    from beholder.api import load
    from beholder.cli.conversation import Conversation

    vlm = load(
        model, device=device, dtype=dtype, **options.origin(base, template, quantize, tokenizer, kv_dtype)
    )
    conversation = Conversation(vlm, Sampling.of(sampling), system)
    if picture is not None and image is not None:
        conversation.show(picture, image)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        _tell(f"{conversation.vlm.name}; /image PATH shows a picture, /help lists the commands, stop leaves")
    failures = _talk(conversation, _prompted_lines() if is_terminal else _piped_lines())
    if failures and not is_terminal:
        raise typer.Exit(1)


def _talk(conversation: Conversation, lines: Iterable[str]) -> int:
    """Line after line until one leaves or they end. Returns how many failed."""
    from beholder.cli.conversation import Left

    failures = 0
    with suppress(Left):
        for line in lines:
            failures += _turn(conversation, line)
    return failures


def _piped_lines() -> Iterable[str]:
    """Lines of a pipe. What is no UTF-8 in one of them is told when it is asked, and the others are read."""
    lines: TextIO = sys.stdin
    if isinstance(lines, io.TextIOWrapper):
        cast("Any", lines).reconfigure(errors="surrogateescape")
    return cast("TextIO", lines)


def _prompted_lines() -> Iterator[str]:
    """Lines from the keyboard; Ctrl-C gives up the line, Ctrl-D ends."""
    with suppress(ImportError):
        import_module("readline")  # input() edits lines and remembers them once this is loaded

    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            _tell("\n(stop or Ctrl-D leaves)")


def _turn(conversation: Conversation, line: str) -> bool:
    """One line: a command, a question or nothing. Returns whether it failed."""
    try:
        _show(_reply(conversation, line.strip()))
    except BeholderError as error:
        _tell(f"error: {error}")
        return True
    return False


def _reply(conversation: Conversation, line: str) -> str | Generator[str]:
    from beholder.cli.conversation import BARE_WORDS

    if not line:
        return ""
    if line.lower() in BARE_WORDS:
        return conversation.command(line.lower(), "")
    if line.startswith("/"):
        name, *rest = line[1:].split(maxsplit=1) or [""]
        return conversation.command(name, "".join(rest))
    return conversation.ask(line)


def _show(reply: str | Generator[str]) -> None:
    """An answer goes to stdout while it comes, what a command says to stderr. Ctrl-C ends the answer only."""
    if isinstance(reply, str):
        if reply:
            _tell(reply)
        return
    is_stopped = False
    try:
        for piece in reply:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        is_stopped = True
        reply.close()
    print(flush=True)
    if is_stopped:
        _tell("(stopped)")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
