"""How CogVLM's prompts are written: chat and vqa as questions and answers, base as it stands, and text alone.

Follows utils/language.py and cli_demo_hf.py (THUDM/CogVLM, 8bd8be9 and f7283b2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beholder.core.errors import ConfigError, InputError
from beholder.core.types import Message
from beholder.families.cogvlm.config import TemplateName
from beholder.processing.templates import Segment

ANSWER_WORDS = {"chat": "Answer:", "vqa": "Short answer:"}
# What the command line of the original puts before the first question of a conversation without a picture.
TEXT_ONLY_OPENING = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. "
)
PICTURE_MARK = "<EOI>"


def question_text(template: str, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
    """The prompt of a question after the turns before it; `base` is the query alone."""
    if template == "base":
        return query
    if template not in ANSWER_WORDS:
        known = ", ".join((*ANSWER_WORDS, "base"))
        raise ConfigError(f"there is no prompt template {template!r}; known: {known}")
    opening = ANSWER_WORDS[template]
    past = "".join(f"Question: {question} {opening} {answer}\n" for question, answer in history)
    return f"{past}Question: {query} {opening}"


def text_only_text(query: str, history: Sequence[tuple[str, str]] = ()) -> str:
    """The prompt of a question in a conversation that shows no picture."""
    turns = [question for question, _ in history] + [query]
    asked = [f"USER: {question} ASSISTANT:" for question in turns]
    asked[0] = TEXT_ONLY_OPENING + asked[0]
    past = "".join(f"{prompt} {answer}\n" for prompt, (_, answer) in zip(asked, history, strict=False))
    return past + asked[-1]


@dataclass(frozen=True)
class CogVLMTemplate:
    """A conversation as segments: begin, the picture, the prompt, and the last answer where it is there.

    Wherever the picture was shown, its place is the beginning. Only the last answer is trained: those before
    it are part of the prompt. Prompt and answer are tokenised apart.
    """

    name: TemplateName = "chat"

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[Segment]:
        """Begin, picture, prompt, and the last answer with the end token where there is one."""
        turns = turns_of(messages)
        pictures = [picture for message in messages for picture in message.pictures]
        if len(pictures) > 1:
            raise InputError(
                f"the conversation shows {len(pictures)} pictures and CogVLM looks at one; "
                "begin a new conversation for another picture"
            )
        query, answer = turns[-1]
        history = [(question, reply or "") for question, reply in turns[:-1]]
        if not pictures and self.name != "base":
            text = text_only_text(query, history)
        else:
            text = question_text(self.name, query, history)
        if answer is None and not add_generation_prompt and self.name != "base":
            text = text[: text.rindex(" ")] if pictures else text.removesuffix(" ASSISTANT:")
        segments = [Segment("control", "<s>"), *[Segment("picture")] * len(pictures), Segment("text", text)]
        if answer is not None:
            segments += [Segment("text", answer, trained=True), Segment("control", "</s>", trained=True)]
        return segments


def turns_of(messages: Sequence[Message]) -> list[tuple[str, str | None]]:
    """Questions with their answers; None where a question has none."""
    turns: list[tuple[str, str | None]] = []
    for message in messages:
        if message.role == "system":
            raise InputError("CogVLM's prompts have no place for a system message; say it in the question")
        if message.role == "user":
            turns.append((message.text, None))
        elif not turns or turns[-1][1] is not None:
            raise InputError("an assistant message answers no question; a user message must stand before it")
        else:
            turns[-1] = (turns[-1][0], message.text)
    if not turns:
        raise InputError("the conversation is empty; it needs at least one user message")
    return turns
