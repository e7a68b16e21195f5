"""Chat and plain completions: from a checked request to the reply, whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from beholder.core.types import Answer
from beholder.serving import replies
from beholder.serving.answering import (
    Answers,
    Event,
    Finished,
    Opener,
    Piece,
    Tick,
    chat_openers,
    plain_openers,
    token_text,
)
from beholder.serving.constraints import answer_format
from beholder.serving.describing import with_template
from beholder.serving.errors import from_exception, internal
from beholder.serving.room import Share
from beholder.serving.schemas import ChatRequest, CompletionRequest, SamplingFields
from beholder.serving.sharing import Server
from beholder.serving.sse import DONE, KEEP_ALIVE, EventStream, event, unless_gone

if TYPE_CHECKING:
    from beholder.api import VLM

READER_SECONDS = 30.0


class Completion:
    """One request on its way. Subclasses say how prompts become answers and how answers are worded."""

    prefix = ""
    kind = ""

    def __init__(self, server: Server, body: SamplingFields, request: Request) -> None:
        self.server = server
        self.body = body
        self.request = request
        self.start = time.perf_counter()
        self.vlm: VLM = server.registry.ready(body.model)
        facts = server.registry.get(body.model).facts
        self.heading = replies.Heading(body.model, self.prefix, self.kind, f"fp_{facts.get('preprocessing')}")
        self.count = server.choices(body)

    async def respond(self) -> Response:
        """The reply. What goes wrong before the first token is raised, and so has a status of its own."""
        if not self.body.stream:
            answers = await unless_gone(self._collect(), self.request.receive)
            return Response(status_code=499) if answers is None else JSONResponse(self._whole(answers))
        events = self._events()
        try:
            first = await unless_gone(anext(events), self.request.receive)
        except BaseException:
            await events.aclose()
            raise
        if first is None:
            await events.aclose()
            return Response(status_code=499)
        # The answers end by themselves in time; a reader that stopped reading does not.
        patience = self.server.settings.request_seconds + READER_SECONDS
        return EventStream(self._frames(first, events), events.aclose, patience)

    async def openers(self) -> list[Opener]:
        """What starts each answer."""
        raise NotImplementedError

    @property
    def places(self) -> int:
        """How many answers this will be."""
        return self.count

    def whole_choice(self, number: int, answer: Answer) -> dict[str, Any]:
        """A complete answer in the reply."""
        raise NotImplementedError

    def opening(self, number: int) -> dict[str, Any] | None:
        """What an answer begins with in a stream."""
        raise NotImplementedError

    def part(self, piece: Piece) -> dict[str, Any]:
        """More text in a stream."""
        raise NotImplementedError

    def ending(self, finished: Finished) -> dict[str, Any]:
        """The end of an answer in a stream."""
        raise NotImplementedError

    def text_of(self, token: int) -> str:
        """A token as text."""
        return token_text(self.vlm, token)

    async def _events(self) -> AsyncGenerator[Event]:
        """Everything that happens until the answers are complete; places are held as long as this is open."""
        server = self.server
        client: str = self.request.scope["beholder.client"]
        with server.admission.enter(client, self.places), Share(server.room) as self.share:
            openers, whole = await self.openers(), not self.body.stream
            answers = Answers(openers, server.threads, server.load, server.settings, whole=whole)
            firsts: dict[int, float] = {}
            try:
                async for happened in answers:
                    if not isinstance(happened, Tick):
                        first = firsts.setdefault(happened.choice, time.perf_counter() - self.start)
                        if isinstance(happened, Finished):
                            server.metrics.answered(self.body.model, happened.answer, first)
                    yield happened
            finally:
                answers.cancel()

    async def _collect(self) -> list[Answer]:
        found: dict[int, Answer] = {}
        events = self._events()
        try:
            async for happened in events:
                if isinstance(happened, Finished):
                    found[happened.choice] = happened.answer
        finally:
            await events.aclose()
        return [found[number] for number in range(self.places)]

    def _whole(self, answers: Sequence[Answer]) -> Any:
        choices = [self.whole_choice(number, answer) for number, answer in enumerate(answers)]
        return self.heading.reply(choices, self._usage(answers))

    def _usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        usages = [answer.usage for answer in answers]
        starts = range(0, len(usages), self.count)
        return replies.count_usage([usages[start : start + self.count] for start in starts])

    async def _frames(self, first: Event, events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
        """The stream: opening, text, end of each answer; counts where wanted; and that it is complete."""
        opened: set[int] = set()
        answers: dict[int, Answer] = {}
        try:
            happened: Event | None = first
            while happened is not None:
                if isinstance(happened, Tick):
                    yield KEEP_ALIVE
                else:
                    if happened.choice not in opened and (opening := self.opening(happened.choice)):
                        yield self._chunk([opening])
                    opened.add(happened.choice)
                    if isinstance(happened, Finished):
                        answers[happened.choice] = happened.answer
                        yield self._chunk([self.ending(happened)])
                    else:
                        yield self._chunk([self.part(happened)])
                happened = await anext(events, None)
        except Exception as error:
            refusal = from_exception(error) or internal()
            self.request.scope["beholder.failure"] = (refusal, error)
            yield event(refusal.body())
            return
        if self.body.includes_usage:
            ordered = [answers[number] for number in range(self.places)]
            yield event(self.heading.reply([], self._usage(ordered), part=True))
        yield DONE

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        told = self.heading.reply(choices, None, part=True)
        return event({**told, "usage": None} if self.body.includes_usage else told)


class ChatCompletion(Completion):
    """`/v1/chat/completions`."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    body: ChatRequest

    async def openers(self) -> list[Opener]:
        """The conversation, answered `n` times."""
        mask, wanted = None, self.body.response_format
        if wanted is not None:  # a grammar takes its time, and most want none
            mask = await self.server.in_thread(answer_format, self.vlm, wanted)
        self.vlm = with_template(self.vlm, self.body.template)
        messages = await self.server.conversation(self.body.messages, self.share)
        self.sizes = [picture.size for message in messages for picture in message.pictures]
        return chat_openers(self.vlm, messages, self.body.sampling(), self.count, mask)

    def whole_choice(self, number: int, answer: Answer) -> dict[str, Any]:
        """With its message."""
        return replies.chat_choice(number, answer, self.sizes, self.text_of, scored=bool(self.body.logprobs))

    def opening(self, number: int) -> dict[str, Any] | None:
        """Who speaks."""
        return replies.chat_chunk(number, {"role": "assistant", "content": "", "refusal": None}, None)

    def part(self, piece: Piece) -> dict[str, Any]:
        """With the scores of its tokens where they were asked for."""
        scores = replies.chat_scores(piece.scores, self.text_of) if self.body.logprobs else None
        return replies.chat_chunk(piece.choice, {"content": piece.text}, None, scores)

    def ending(self, finished: Finished) -> dict[str, Any]:
        """Why it ended, and the boxes that it named."""
        boxes = replies.boxes_of(finished.answer.boxes, self.sizes)
        delta = {"boxes": boxes} if boxes else {}
        return replies.chat_chunk(finished.choice, delta, finished.answer.finish_reason)


class PlainCompletion(Completion):
    """`/v1/completions`."""

    prefix = "cmpl"
    kind = "text_completion"
    body: CompletionRequest

    @property
    def places(self) -> int:
        """Each prompt as often as wanted."""
        return self.count * len(self.body.prompts)

    async def openers(self) -> list[Opener]:
        """The prompts one after the other, each answered `n` times."""
        sampling = self.body.sampling()
        return [
            opener
            for prompt in self.body.prompts
            for opener in plain_openers(self.vlm, prompt, sampling, self.count)
        ]

    def whole_choice(self, number: int, answer: Answer) -> dict[str, Any]:
        """With its text."""
        scores = None if self.body.logprobs is None else answer.scores
        return replies.plain_choice(number, answer.text, answer.finish_reason, scores, self.text_of)

    def opening(self, number: int) -> dict[str, Any] | None:
        """Nothing stands before the text."""
        return None

    def part(self, piece: Piece) -> dict[str, Any]:
        """With the scores of its tokens where they were asked for."""
        scores = None if self.body.logprobs is None else piece.scores
        return replies.plain_choice(piece.choice, piece.text, None, scores, self.text_of)

    def ending(self, finished: Finished) -> dict[str, Any]:
        """Why it ended."""
        return replies.plain_choice(finished.choice, "", finished.answer.finish_reason, None, self.text_of)
