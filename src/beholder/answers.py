"""An answer while it comes: one admitted question, its pieces of text, and the `Answer` at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from beholder.core.types import Answer, Box, FinishReason, Message, Sampling, Timings, TokenScore, Usage
from beholder.generation.sampling import TokenMask
from beholder.processing.tokens import TextStream


class Model(Protocol):
    """What an answer needs of the `VLM` that gives it."""

    processor: Any
    engine: Any

    def boxes(self, text: str, messages: Iterable[Message]) -> tuple[Box, ...]:
        """The boxes in a text, in pixels of the conversation's last picture."""
        ...


@dataclass(frozen=True)
class Request:
    """One admitted question: what the engine needs, and what the answer will report."""

    messages: tuple[Message, ...]
    inputs: Mapping[str, Any]
    sampling: Sampling
    usage: Usage
    start: float
    prepared: float


class AnswerStream(Iterator[str]):
    """Pieces of an answer as they come. `answer` is there after the last piece, or after `close()`.

    Closing early cancels the rest; the answer then has what came and the finish reason "cancelled".
    """

    def __init__(self, vlm: Model, request: Request, mask: TokenMask | None = None) -> None:
        self._vlm = vlm
        self._request = request
        # Beside the request's own: texts that end an answer in this template and are no tokens.
        stop = (*request.sampling.stop, *getattr(vlm.processor, "stop", ()))
        self._text = TextStream(vlm.processor.tokenizer, stop)
        terminators: tuple[int, ...] = vlm.processor.terminators
        self._ends = request.sampling.ends(terminators)
        self._tokens = vlm.engine.submit(request.inputs, request.sampling, terminators, mask)
        self._pieces: list[str] = []
        self._space = ""
        self._completion = 0
        self._first_token = 0.0
        self._answer: Answer | None = None

    def __next__(self) -> str:
        while self._answer is None:
            if piece := self._advance():
                return piece
        raise StopIteration(self._answer)

    def gather(self, seconds: float | None) -> str | None:
        """More of the answer: its first piece at once, then the text of each `seconds` together, None: of all
        that is left. Less where it ends sooner, and None after its end. For answers of `VLM.submit`."""
        if self._pieces:
            self._tokens.pause(seconds)
        piece = next(self, None)
        if piece is None:
            return None
        # An error is raised by the next call, after what came before it.
        while self._answer is None and self._tokens.error is None and self._tokens.has_news:
            piece += self._advance()
        return piece

    def _advance(self) -> str:
        """Take one token; what it adds to the text may be nothing yet."""
        token = next(self._tokens, None)
        if token is None:
            return self._finish(self._tokens.finish_reason or "cancelled")
        self._completion += 1
        if self._completion == 1:
            self._first_token = time.perf_counter() - self._request.start
        if token in self._ends:
            return self._finish("stop")
        piece = self._trim(self._text.push(token))
        return piece + self._finish("stop") if self._text.stopped else piece

    def _trim(self, piece: str) -> str:
        """Leave out white space at both ends of the answer: at the end it is held until more text follows."""
        text = self._space + piece
        if not self._pieces:
            text = text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._pieces.append(shown)
        return shown

    def _finish(self, reason: FinishReason) -> str:
        """Stop the engine, complete the answer, and return the text that was held back."""
        self._tokens.close()
        rest = self._trim(self._text.finish())
        request, text = self._request, "".join(self._pieces)
        total = time.perf_counter() - request.start
        self._answer = Answer(
            text=text,
            finish_reason=reason,
            usage=replace(
                request.usage, completion_tokens=self._completion, cached_tokens=self._tokens.cached_tokens
            ),
            timings=self._timings(total),
            boxes=self._vlm.boxes(text, request.messages),
            scores=self.scores,
        )
        return rest

    def _timings(self, total: float) -> Timings:
        clock = self._tokens.clock
        return Timings(
            self._request.prepared,
            self._first_token or total,
            total,
            queue=clock.queue,
            tower=clock.tower,
            prefill=clock.prefill,
            per_token=self._tokens.seconds_per_token,
        )

    @property
    def scores(self) -> tuple[TokenScore, ...]:
        """Of the tokens that have been read so far, where `logprobs` asks for them."""
        return tuple(self._tokens.scores[: self._completion])

    def cancel(self) -> None:
        """End it from another thread: whoever reads it gets no more, and its answer says "cancelled"."""
        self._tokens.close()

    def read(self) -> Answer:
        """Wait for the whole answer."""
        for _ in self:
            pass
        return self.answer

    def close(self) -> None:
        """End here; nothing more is computed."""
        if self._answer is None:
            self._finish("cancelled")

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes, so that `answer` is there."""
        return self._answer is not None

    @property
    def answer(self) -> Answer:
        """The whole answer."""
        if self._answer is None:
            raise RuntimeError("the answer is not complete: read the stream to its end or close it")
        return self._answer

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Nobody can read it any more. Where the prompt was refused there are no tokens.
        if tokens := getattr(self, "_tokens", None):
            tokens.close()
