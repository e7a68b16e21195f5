"""The conversation templates of LLaVA and its relatives: data in `templates.yaml`, and how a style is
written.

Follows llava/conversation.py of haotian-liu/LLaVA (c121f04) and of internvl_chat_llava in OpenGVLab/InternVL
(568dcb7). A turn without text is open: its role is written and the model goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from beholder.core.errors import ConfigError, InputError
from beholder.core.types import Message
from beholder.processing.templates import Segment

DEFAULT = "vicuna_v1"
START, END = "<im_start>", "<im_end>"
# What a template's own words may hold and a tokenizer may have as one token; a user's words never are one.
CONTROLS = re.compile(r"(<s>|</s>|<\|im_start\|>|<\|im_end\|>|<\|User\|>|<\|Bot\|>|<eoh>|<eoa>)")
IM_START = "<|im_start|>system\n"

Turn = tuple[str, list[Segment] | None]  # role; None is open


@dataclass(frozen=True)
class ChatTemplate:
    """One template. `separator` ends a user's turn and `end` an assistant's, where the style has two."""

    names: tuple[str, ...]
    style: str
    system: str
    roles: tuple[str, str]
    separator: str
    end: str | None = None
    version: str = "Unknown"
    preset: tuple[str, ...] = ()
    stop: str | None = None
    has_start_end: bool = False  # whether <im_start> and <im_end> stand around a picture

    @property
    def stop_text(self) -> str:
        """The text at which the original's clients cut an answer."""
        two = self.style in ("TWO", "LLAMA_2", "CHATINTERN")
        return self.stop or (self.end if two and self.end else self.separator)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[Segment]:
        """A conversation; a system message replaces the template's own and its preset turns."""
        template = self
        if messages and messages[0].role == "system":
            template, messages = self.with_system(messages[0].text), messages[1:]
        if any(message.role == "system" for message in messages):
            raise InputError("a system message stands after the first message; put it at the beginning")
        roles = {"user": self.roles[0], "assistant": self.roles[1]}
        turns: list[Turn] = [(roles[message.role], self.content(message)) for message in messages]
        if add_generation_prompt:
            turns.append((self.roles[1], None))
        return template.segments(turns)

    def with_system(self, text: str) -> ChatTemplate:
        """The same with another system prompt."""
        if self.style == "MPT" and self.system.startswith(IM_START):
            text = IM_START + text
        return replace(self, system=text, preset=())

    def content(self, message: Message) -> list[Segment]:
        """The words of a message; its pictures stand before them, each on a line of its own."""
        if message.role == "assistant":
            return [Segment("text", message.text, trained=True)]
        if not message.pictures:
            return [Segment("text", message.text)]
        segments: list[Segment] = []
        for number in range(len(message.pictures)):
            segments += [Segment("text", "\n")] if number else []
            segments += self.picture()
        text = message.text.strip()
        return [*segments, Segment("text", f"\n{text}")] if text else segments

    def picture(self) -> list[Segment]:
        """A picture's place with what stands around it."""
        inner = [Segment("picture")]
        if self.has_start_end:
            inner = [Segment("control", START), *inner, Segment("control", END)]
        if "mmtag" in self.version:
            inner = [Segment("text", "<Image>"), *inner, Segment("text", "</Image>")]
        return inner

    def segments(self, turns: Sequence[Turn]) -> list[Segment]:
        """Turns as they are written, preset ones before them."""
        preset: list[Turn] = [
            (self.roles[number % 2], [Segment("text", text)]) for number, text in enumerate(self.preset)
        ]
        if self.style not in STYLES:
            raise ConfigError(f"the template style {self.style!r} is unknown; known: {', '.join(STYLES)}")
        turns = [(role, content if _has_words(content) else None) for role, content in turns]
        return [segment for segment in STYLES[self.style](self, [*preset, *turns]) if _counts(segment)]


def _has_words(content: list[Segment] | None) -> bool:
    return any(segment.kind != "text" or segment.text for segment in content or ())


def _counts(segment: Segment) -> bool:
    return segment.kind == "picture" or segment.text != ""


def own(text: str, *, trained: bool = False) -> Iterator[Segment]:
    """Words of the template: what may be a special token becomes a control segment."""
    for piece in CONTROLS.split(text):
        yield Segment("control" if CONTROLS.fullmatch(piece) else "text", piece, trained)


def is_answer(content: Sequence[Segment]) -> bool:
    """Whether these are the assistant's words."""
    return any(segment.trained for segment in content)


def _single(template: ChatTemplate, turns: Sequence[Turn]) -> Iterator[Segment]:
    yield from own(template.system + template.separator)
    for role, content in turns:
        yield from own(f"{role}:")
        if content is not None:
            yield from _spoken(content, template.separator)


def _two(template: ChatTemplate, turns: Sequence[Turn]) -> Iterator[Segment]:
    yield from own(template.system + template.separator)
    for number, (role, content) in enumerate(turns):
        yield from own(f"{role}:")
        if content is not None:
            yield from _spoken(content, (template.separator, template.end or "")[number % 2])


def _spoken(content: Sequence[Segment], end: str) -> Iterator[Segment]:
    """A space, the words, and what ends them; of an answer all of it is learnt."""
    yield Segment("text", " ", trained=is_answer(content))
    yield from content
    yield from own(end, trained=is_answer(content))


def _mpt(template: ChatTemplate, turns: Sequence[Turn]) -> Iterator[Segment]:
    yield from own(template.system + template.separator)
    for role, content in turns:
        yield from own(role)
        if content is not None:
            yield from content
            yield from own(template.separator, trained=is_answer(content))


def _plain(template: ChatTemplate, turns: Sequence[Turn]) -> Iterator[Segment]:
    """Nothing but the words. In training the question is left out and the picture is its own."""
    yield from own(template.system)
    for number, (_, content) in enumerate(turns):
        if content is None:
            continue
        is_described = number == 0 and len(turns) > 1 and turns[1][1] is not None
        pictures = [segment for segment in content if segment.kind == "picture"]
        if is_described and pictures:
            yield from pictures
            continue
        yield from content
        yield from own(template.separator, trained=is_answer(content))


def _llama_2(template: ChatTemplate, turns: Sequence[Turn]) -> Iterator[Segment]:
    if not turns or turns[0][1] is None or is_answer(turns[0][1]):
        raise InputError("a conversation in this template begins with what the user says")
    opening = f"<<SYS>>\n{template.system}\n<</SYS>>\n\n" if template.system else ""
    for number, (_, content) in enumerate(turns):
        if content is None:
            continue
        if number % 2 == 0:
            yield from own((template.separator if number else "") + "[INST] " + ("" if number else opening))
            yield from content
            yield from own(" [/INST]")
        else:
            yield from _spoken(content, f" {template.end or ''}")


def _chat_intern(template: ChatTemplate, turns: Sequence[Turn]) -> Iterator[Segment]:
    yield from own(template.system)
    for number, (role, content) in enumerate(turns):
        yield from own(("<s>" if number % 2 == 0 else "") + f"{role}:")
        if content is not None:
            yield from content
            end = (template.separator, template.end or "")[number % 2]
            yield from own(f"{end}\n", trained=is_answer(content))


def _yi(template: ChatTemplate, turns: Sequence[Turn]) -> Iterator[Segment]:
    yield from own(f"{template.system}\n\n{template.separator} ")
    for role, content in turns:
        yield from own(f"{role}:")
        if content is not None:
            yield from _spoken(content, f"\n{template.separator} ")


STYLES: dict[str, Callable[[ChatTemplate, Sequence[Turn]], Iterator[Segment]]] = {
    "SINGLE": _single,
    "TWO": _two,
    "MPT": _mpt,
    "PLAIN": _plain,
    "LLAMA_2": _llama_2,
    "CHATINTERN": _chat_intern,
    "YI": _yi,
}


@cache
def templates() -> dict[str, ChatTemplate]:
    """All templates by each of their names."""
    import yaml

    text = resources.files("beholder.families.llava").joinpath("templates.yaml").read_text("utf-8")
    found: dict[str, ChatTemplate] = {}
    for entry in yaml.safe_load(text):
        template = ChatTemplate(**{key: _frozen(value) for key, value in entry.items()})
        found |= dict.fromkeys(template.names, template)
    return found


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def template_named(name: str) -> ChatTemplate:
    """The template of that name."""
    if name not in templates():
        raise ConfigError(f"there is no conversation template {name!r}; known: {', '.join(templates())}")
    return templates()[name]


def template_for(config: Any) -> str:
    """The template that a model was trained with, as far as its configuration tells.

    The original looks for words in the folder's name; here the name says nothing. Text and evaluation scripts
    of LLaVA-1.5 and InternVL-Chat used `vicuna_v1`, so that is what is left when nothing else is known.
    """
    if config.template is not None:
        return config.template
    if config.projector_type.endswith("_Norm"):
        return "yi_vl"
    return DEFAULT
