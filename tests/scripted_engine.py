"""A request whose tokens are known beforehand, for tests of what happens to tokens once they are chosen."""

from __future__ import annotations

from collections.abc import Iterable

from beholder.core.types import Sampling
from beholder.generation.request import Request


def scripted(
    tokens: Iterable[int], sampling: Sampling, terminators: Iterable[int], asked: list[int] | None = None
) -> Request:
    """Says these tokens as an engine would; `asked` is told each one that was really wanted."""
    script = iter(tokens)
    ends = sampling.ends(terminators)

    def wait(request: Request) -> None:
        token = next(script, None)
        if token is None:
            request.finish_reason = "length"
            return
        if asked is not None:
            asked.append(token)
        request.ids.append(token)
        if token in ends:
            request.finish_reason = "stop"
        elif len(request.ids) == sampling.max_tokens:
            request.finish_reason = "length"

    return Request(0, wait, lambda _: None)
