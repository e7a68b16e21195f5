"""What the page does when somebody clicks: plain functions from what it holds to what it shows."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio

from beholder.core.errors import BeholderError, InputError
from beholder.serving.web import showing
from beholder.serving.web.asking import Wanted, answers, together
from beholder.serving.web.client import Client
from beholder.serving.web.conversation import Conversation, Picture, read_conversation
from beholder.serving.web.showing import Shelf, note, written
from beholder.serving.web.stopping import Running, stoppable
from beholder.serving.web.texts import say

Updates = tuple[Any, ...]
EMPTY: dict[str, Any] = {"text": "", "files": []}
SAME: Any = gradio.skip()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


@dataclass(frozen=True)
class Handlers:
    """The handlers of one page. Those of the chat give: chat, conversation, text box, note, stop button."""

    client: Client
    shelf: Shelf
    chats: Running = field(default_factory=Running)
    comparisons: Running = field(default_factory=Running)

    @stoppable("chats")
    async def submit(
        self, _: gradio.Request, box: Mapping[str, Any], held: Conversation, *values: Any
    ) -> AsyncGenerator[Updates]:
        """Ask what stands in the text box."""
        wanted = Wanted(*values)
        try:
            asked = held.asked(*await asyncio.to_thread(self._question, box, wanted))
        except InputError as error:
            yield SAME, SAME, SAME, note(str(error), is_error=True), SAME
            return
        async for updates in self._stream(asked, held, wanted):
            yield updates

    @stoppable("chats")
    async def again(self, _: gradio.Request, held: Conversation, *values: Any) -> AsyncGenerator[Updates]:
        """Answer the last question anew."""
        wanted = Wanted(*values)
        if not held.turns:
            yield SAME, SAME, SAME, note(say("nothing_yet", wanted.language), is_error=True), SAME
            return
        async for updates in self._stream(held.asked_again(len(held.turns) - 1), held, wanted):
            yield updates

    @stoppable("chats")
    async def retry(
        self, _: gradio.Request, event: gradio.RetryData, held: Conversation, *values: Any
    ) -> AsyncGenerator[Updates]:
        """Answer the question of a message anew; what came after it is gone.

        `event` comes first: Gradio gives it to parameters before `*values` alone.
        """
        async for updates in self._stream(held.asked_again(self._turn(held, event)), held, Wanted(*values)):
            yield updates

    @stoppable("chats")
    async def edited(
        self,
        _: gradio.Request,
        event: gradio.EditData,
        box: Mapping[str, Any],
        held: Conversation,
        *values: Any,
    ) -> AsyncGenerator[Updates]:
        """Ask a question as it reads now, with its pictures; what came after it is gone.

        A refused one goes into the text box, so a draft must not stand there.
        """
        wanted, number = Wanted(*values), self._turn(held, event)
        question = written(event.value)
        problem = "box_full_edited" if box.get("text") or box.get("files") else "no_question"
        if problem == "no_question" and (question.strip() or held.turns[number].pictures):
            async for updates in self._stream(held.asked_again(number, question), held, wanted):
                yield updates
        else:
            told = note(say(problem, wanted.language), is_error=True)
            yield await self._drawn(held), held, SAME, told, _idle()

    def edit(self, held: Conversation, box: Mapping[str, Any], language: str) -> Updates:
        """The last question with its pictures back into the text box; a draft there is not overwritten."""
        if not held.turns or box.get("text") or box.get("files"):
            told = say("box_full" if held.turns else "nothing_yet", language)
            shown, held, *_ = self.stopped(held, box, language)
            return shown, held, SAME, note(told, is_error=True), _idle()
        kept = held.without_last()
        return self._chat(kept), kept, self._returned(held), "", _idle()

    def copied(self, held: Conversation) -> str:
        """The last answer, as the model wrote it."""
        return next((turn.answer for turn in reversed(held.turns) if turn.answer), "")

    def _turn(self, held: Conversation, event: Any) -> int:
        """The turn that a message of the chat belongs to."""
        index = event.index if isinstance(event.index, int) else event.index[0]
        return showing.messages(held, self.shelf)[index][0]

    def _question(self, box: Mapping[str, Any], wanted: Wanted) -> tuple[str, list[Picture]]:
        """Text and pictures of a text box; InputError says which picture is bad and why."""
        text, files = str(box.get("text") or ""), list(box.get("files") or [])
        if not wanted.model:
            raise InputError(say("choose_model", wanted.language))
        if not text.strip() and not files:
            raise InputError(say("no_question", wanted.language))
        return text, [self._picture(Path(file), wanted.language) for file in files]

    def _picture(self, file: Path, language: str) -> Picture:
        try:
            return Picture.of(file.read_bytes())
        except (InputError, OSError) as error:
            raise InputError(say("bad_picture", language, name=file.name, cause=error)) from None

    async def _stream(
        self, asked: Conversation, held: Conversation, wanted: Wanted
    ) -> AsyncGenerator[Updates]:
        """Show the answer as it comes. A refused question goes back into the text box."""
        language = wanted.language
        running = gradio.update(interactive=True)
        yield await self._drawn(asked), asked, EMPTY, note(say("asking", language)), running
        last = asked
        try:
            async with aclosing(answers(self.client, asked, wanted)) as found:
                async for last in found:
                    yield await self._drawn(last), last, SAME, SAME, SAME
        except BeholderError as error:
            told = note(say("error", language, cause=error), is_error=True)
            before = [turn.question for turn in held.turns[len(asked.turns) - 1 : len(asked.turns)]]
            is_new = before != [asked.turns[-1].question]
            back = await asyncio.to_thread(self._returned, asked) if is_new else SAME
            yield await self._drawn(held), held, back, told, _idle()
            return
        yield await self._drawn(last), last, SAME, showing.outcome(last.turns[-1], language), _idle()

    async def stop(self, request: gradio.Request) -> None:
        """End the chat's answer; what is shown next comes after all of it."""
        await self.chats.stop(request.session_hash)

    async def compare_stop(self, request: gradio.Request) -> None:
        """End both answers of the comparison."""
        await self.comparisons.stop(request.session_hash)

    def stopped(self, held: Conversation, box: Mapping[str, Any], language: str) -> Updates:
        """After a stop: what was said stays, and a question without a word of answer goes back."""
        told = note(say("stopped", language))
        if held.turns and not held.turns[-1].answer:
            kept = held.without_last()
            has_draft = box.get("text") or box.get("files")
            return self._chat(kept), kept, SAME if has_draft else self._returned(held), told, _idle()
        if held.turns and held.turns[-1].reason is None:
            held = held.answered(replace(held.turns[-1], reason="cancelled"))
        return self._chat(held), held, SAME, told, _idle()

    def cleared(self) -> Updates:
        """A new conversation."""
        return [], Conversation(), EMPTY, "", _idle()

    def _returned(self, asked: Conversation) -> dict[str, Any]:
        turn = asked.turns[-1]
        return {
            "text": turn.question,
            "files": [self.shelf.put(picture.held, picture.kind) for picture in turn.pictures],
        }

    def _chat(self, conversation: Conversation) -> list[dict[str, Any]]:
        return showing.chat(conversation, self.shelf)

    def exported(self, held: Conversation, system: str) -> str:
        """The conversation as a file's text."""
        return replace(held, system=system).export()

    def imported(self, file: bytes | None, held: Conversation, language: str) -> Updates:
        """Chat, conversation, note and system prompt of a file; the ones that are there if it is not one."""
        try:
            found = read_conversation((file or b"").decode("utf-8", "replace"))
        except InputError as error:
            return SAME, held, note(say("error", language, cause=error), is_error=True), SAME
        told = note(say("imported", language, turns=len(found.turns)))
        return self._chat(found), found, told, found.system

    def photographed(self, photo: str | None, box: Mapping[str, Any]) -> Updates:
        """A picture of the camera goes to the others in the text box."""
        if photo is None:
            return SAME, SAME
        files: list[Any] = list(box.get("files") or ())
        return {"text": box.get("text") or "", "files": [*files, photo]}, None

    @stoppable("comparisons")
    async def compare(
        self,
        _: gradio.Request,
        box: Mapping[str, Any],
        left: Conversation,
        right: Conversation,
        *values: Any,
    ) -> AsyncGenerator[Updates]:
        """One question to two models: both chats and conversations, text box, both notes, stop button."""
        *names, system, _template, temperature, top_p, top_k, max_tokens, key, language = values
        common = (system, None, temperature, top_p, top_k, max_tokens, key, language)
        wanted = [Wanted(name, *common) for name in names]
        try:
            questions = [await asyncio.to_thread(self._question, box, one) for one in wanted]
        except InputError as error:
            yield *[SAME] * 5, note(str(error), is_error=True), SAME, SAME
            return
        before = [left, right]
        now = [held.asked(*question) for held, question in zip(before, questions, strict=True)]
        notes = [note(say("asking", language))] * 2
        yield *await asyncio.to_thread(self._two, now), EMPTY, *notes, gradio.update(interactive=True)
        streams = [answers(self.client, held, one) for held, one in zip(now, wanted, strict=True)]
        async with aclosing(together(streams)) as found:
            async for number, happened in found:
                if isinstance(happened, BeholderError):
                    now[number] = before[number]
                    notes[number] = note(say("error", language, cause=happened), is_error=True)
                else:
                    now[number] = happened
                yield *await asyncio.to_thread(self._two, now), SAME, *notes, SAME
        for number, held in enumerate(now):
            if len(held.turns) > len(before[number].turns):
                notes[number] = showing.outcome(held.turns[-1], language)
        yield *await asyncio.to_thread(self._two, now), SAME, *notes, _idle()

    def compare_stopped(self, left: Conversation, right: Conversation, language: str) -> Updates:
        """After a stop: what both said stays."""
        now = [
            held.without_last() if held.turns and held.turns[-1].answer is None else held
            for held in (left, right)
        ]
        return *self._two(now), SAME, *[note(say("stopped", language))] * 2, _idle()

    def compare_cleared(self) -> Updates:
        """Two new conversations."""
        return [], [], Conversation(), Conversation(), EMPTY, "", "", _idle()

    def _two(self, now: Sequence[Conversation]) -> Updates:
        return *map(self._chat, now), *now

    async def _drawn(self, conversation: Conversation) -> list[dict[str, Any]]:
        """The same as `_chat`, beside the event loop: pictures take time, and the API's requests share it."""
        return await asyncio.to_thread(self._chat, conversation)

    async def models(
        self, key: str, chosen: str | None, left: str | None, right: str | None, language: str
    ) -> Updates:
        """The list as it is now: list, note, facts of each model, and the lists of the two sides."""
        try:
            found = await self.client.models(key)
        except BeholderError as error:
            return SAME, note(say("error", language, cause=error), is_error=True), {}, SAME, SAME, SAME
        facts = {str(model.get("id")): model for model in found}
        choices, names = showing.model_choices(found), list(facts)

        def listed(value: str | None, place: int) -> Any:
            first = names[min(place, len(names) - 1)] if names else None
            return gradio.update(choices=choices, value=value if value in facts else first)

        name = chosen if chosen in facts else (names[0] if names else None)
        told = showing.model_note(facts.get(name or ""), language)
        lists = listed(chosen, 0), listed(left, 0), listed(right, 1)
        return lists[0], told, facts, lists[1], lists[2], self._templates(facts.get(name or ""))

    def chosen(self, name: str | None, facts: Mapping[str, Any], language: str) -> Updates:
        """Note and templates of the model that was chosen."""
        model = facts.get(name or "")
        return showing.model_note(model, language), self._templates(model)

    def _templates(self, model: Mapping[str, Any] | None) -> Any:
        names: list[str] = list((model or {}).get("templates") or ())
        current = (model or {}).get("template") if names else None
        return gradio.update(choices=names, value=current, visible=bool(names))

    async def explain(self, held: Conversation, *values: Any) -> Updates:
        """The last question's prompt: counts, prompt, views, note."""
        wanted = Wanted(*values)
        language = wanted.language
        if not held.turns or not wanted.model:
            return "", "", [], note(say("nothing_yet", language), is_error=True)
        asked = replace(held.asked_again(len(held.turns) - 1), system=wanted.system)
        try:
            told = await self.client.explain(wanted.model, asked.messages(), wanted.template, wanted.key)
        except BeholderError as error:
            return "", "", [], note(say("error", language, cause=error), is_error=True)
        seen = told.get("views")
        gallery = [
            (self.shelf.put(base64.b64decode(url.partition(",")[2]), "png"),
             say("view", language, picture=picture, view=view))
            for picture, urls in enumerate(seen or [], 1) for view, url in enumerate(urls, 1)
        ]  # fmt: skip
        told_note = note(say("no_views", language)) if seen is None else ""
        return showing.counts(told, language), showing.prompt_html(told, language), gallery, told_note


def _idle() -> Any:
    """A stop button with nothing to stop."""
    return gradio.update(interactive=False)
