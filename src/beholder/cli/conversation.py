"""The talk behind `beholder chat`: what was said and shown, and the commands. No terminal here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.core.errors import InputError
from beholder.core.types import KINDS, Answer, Message, Sampling
from beholder.processing.images import PictureSource, open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from beholder.api import VLM, AnswerStream

HELP = """\
/image PATH     show a picture (file or URL); a second one starts a new conversation
/clear          forget the conversation, keep the picture
/system TEXT    replace the system prompt; without TEXT, the model's own again
/regen          answer the last question again
/boxes [FILE]   write the last picture with the boxes of the last answer drawn
/save FILE      write the conversation as JSON
/params [k=v]   show or change max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed
/stop           leave (also: stop, Ctrl-D); Ctrl-C ends an answer
Anything else is a question."""


class Left(Exception):
    """The user is done."""


@dataclass
class Conversation:
    """Messages so far, and the picture that goes with the next question."""

    vlm: VLM
    sampling: Sampling
    system: str | None = None
    turns: list[Message] = field(default_factory=list[Message])
    answer: Answer | None = None
    pending: Image | None = None
    sources: list[str] = field(default_factory=list[str])
    saved: set[Path] = field(default_factory=set[Path])

    # Questions and answers

    def ask(self, question: str) -> Generator[str]:
        """Pieces of the answer. Closed early, what came so far stays in the conversation."""
        parts = (question,) if self.pending is None else (self.pending, question)
        yield from self._run([*self.turns, Message.user(*parts)])

    def _run(self, turns: list[Message]) -> Generator[str]:
        opening = [] if self.system is None else [Message.system(self.system)]
        stream: AnswerStream = self.vlm.stream([*opening, *turns], **asdict(self.sampling))
        try:
            yield from stream
        finally:
            stream.close()
            # An answer that was stopped before its first word leaves the question unasked.
            if stream.answer.text or stream.answer.finish_reason != "cancelled":
                self.answer = stream.answer
                self.turns = [*turns, Message.assistant(stream.answer.text)]
                self.pending = None

    # Commands: each returns what to tell the user

    def command(self, name: str, rest: str) -> str | Generator[str]:
        """Run a command by its name; an answer comes as an iterator, everything else as a sentence."""
        if name not in COMMANDS:
            nearest = get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean /{nearest[0]}?" if nearest else "/help lists the commands"
            raise InputError(f"there is no command /{name}; {hint}")
        return COMMANDS[name](self, rest)

    def image(self, rest: str) -> str:
        """Show a picture."""
        if not rest:
            raise InputError("/image needs a file or a URL")
        source = typed_path(rest)
        self.show(source, source)
        return f"showing {source}"

    def show(self, picture: PictureSource, source: str) -> None:
        """The next question is about this picture; the conversation about another one ends."""
        opened = open_picture(picture)
        if self.sources:
            self.clear("")
        self.pending, self.sources = opened, [source]

    def clear(self, rest: str) -> str:
        """Forget what was said; the picture stays."""
        shown = self.pictures
        self.turns, self.answer = [], None
        self.pending = shown[-1] if shown else None
        return "the conversation is empty now"

    def set_system(self, rest: str) -> str:
        """Change what the model is told first."""
        self.system = rest or None
        return "the system prompt is replaced" if rest else "the system prompt is the model's own"

    def regen(self, rest: str) -> Generator[str]:
        """Answer the last question again."""
        if not self.turns:
            raise InputError("there is no answer yet to make again")
        return self._run(self.turns[:-1])

    def boxes(self, rest: str) -> str:
        """Draw the boxes of the last answer."""
        if self.answer is None or not self.answer.boxes:
            raise InputError("the last answer has no boxes")
        from beholder.grounding.draw import draw_boxes

        target = (
            Path(typed_path(rest)) if rest else Path(f"{Path(self.sources[-1]).stem or 'picture'}-boxes.png")
        )
        self._check_new(target)
        drawn = draw_boxes(self.pictures[-1], self.answer.boxes)
        try:
            drawn.save(target)
        except (OSError, ValueError) as error:
            raise InputError(f"{target} cannot be written: {error}") from error
        return f"wrote {target}"

    def save(self, rest: str) -> str:
        """Write the conversation down."""
        if not rest:
            raise InputError("/save needs a file name")
        target = Path(typed_path(rest))
        self._check_new(target)
        try:
            target.write_text(
                json.dumps(self.transcript(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
            )
        except OSError as error:
            raise InputError(f"{target} cannot be written: {error.strerror}") from error
        return f"wrote {target}"

    def params(self, rest: str) -> str:
        """Show or change how tokens are chosen."""
        values = asdict(self.sampling)
        for pair in rest.split():
            name, equals, value = pair.partition("=")
            if not equals:
                raise InputError(f"{pair!r} is not of the form name=value")
            values[name] = _parse(name, value)
        self.sampling = Sampling.of(values)
        return "  ".join(f"{name}={value}" for name, value in asdict(self.sampling).items())

    def stop(self, rest: str) -> str:
        """Leave."""
        raise Left

    def help(self, rest: str) -> str:
        """The list of commands."""
        return HELP

    # What it looks like from outside

    @property
    def pictures(self) -> list[Image]:
        """Pictures shown, in order."""
        shown = [picture for message in self.turns for picture in message.pictures]
        return shown if self.pending is None else [*shown, self.pending]

    def transcript(self) -> dict[str, Any]:
        """The conversation as OpenAI messages; pictures by the name under which they were given."""
        sources = iter(self.sources)
        messages: list[dict[str, Any]] = []
        if self.system is not None:
            messages.append({"role": "system", "content": self.system})
        for turn in self.turns:
            parts = [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {"type": "image_url", "image_url": {"url": next(sources, "")}}
                for part in turn.parts
            ]
            messages.append({"role": turn.role, "content": parts if turn.pictures else turn.text})
        return {"model": self.vlm.name, "sampling": asdict(self.sampling), "messages": messages}

    def _check_new(self, target: Path) -> None:
        """A slip of the keyboard must not cost a file: only what this conversation wrote is written again."""
        if target.exists() and target.resolve() not in self.saved:
            raise InputError(f"{target} exists; give another name")
        self.saved.add(target.resolve())


COMMANDS: dict[str, Callable[[Conversation, str], str | Generator[str]]] = {
    "image": Conversation.image,
    "clear": Conversation.clear,
    "system": Conversation.set_system,
    "regen": Conversation.regen,
    "boxes": Conversation.boxes,
    "save": Conversation.save,
    "params": Conversation.params,
    "stop": Conversation.stop,
    "help": Conversation.help,
}
BARE_WORDS = ("clear", "stop")  # as CogVLM's users know them


def typed_path(text: str) -> str:
    """A path as people type it or drop it on a terminal: without a shell's quotes and with its ~ written out.

    What names a file as it stands is left as it is.
    """
    if os.path.exists(text):
        return text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    elif "://" not in text:
        text = text.replace("\\ ", " ")
    return os.path.expanduser(text)


def _parse(name: str, value: str) -> Any:
    """A value as the command line would read it; unknown names are refused by `Sampling`."""
    if name == "seed" and value == "none":
        return None
    if name == "stop":
        return (value,) if value else ()
    if name in ("stop_ids", "logit_bias"):
        raise InputError(f"{name} cannot be set here; it takes more than one value")
    kind = float if KINDS.get(name) is Real else int
    try:
        return kind(value)
    except ValueError as error:
        raise InputError(f"{name}={value}: {value!r} is not a number") from error
