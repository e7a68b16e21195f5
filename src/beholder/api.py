"""`load()` opens a checkpoint as a `VLM`; a `VLM` answers questions about pictures, also piece by piece."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.checkpoints.adapter_folder import base_of, is_adapter_folder
from beholder.checkpoints.adapter_folder import load as put_adapter
from beholder.checkpoints.loader import open_model
from beholder.core.errors import ConfigError, InputError
from beholder.core.hub import find_checkpoint
from beholder.core.records import hash_weights
from beholder.core.types import Answer, Box, FinishReason, Message, Sampling, Timings, TokenScore, Usage
from beholder.families import identify_folder
from beholder.generation.engine import Engine
from beholder.generation.sampling import TokenMask
from beholder.grounding.habits import Grounding, Habits
from beholder.processing.images import PictureSource, open_picture
from beholder.processing.messages import read_messages
from beholder.processing.tokens import TextStream

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from beholder.families.family import Family

BUILT_IN = "beholder-mini"
DEFAULT_CONTEXT = 2048  # of a model that does not say; its positions have no table that ends

Conversation = str | Iterable[Message | Mapping[str, Any]]


def load(
    name: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    base: str | Path | None = None,
    template: str | None = None,
    quantize: str | None = None,
    **engine: Any,
) -> VLM:
    """Open a model: a folder in any known layout, a hub id, or, without a name, the one in the package.

    The folder of an adapter that training left is opened with the model it was trained on.

    `device` is "cpu", "cuda:0", ...; left out, the first GPU or else the CPU. `dtype` is "float32",
    "bfloat16" or "float16"; left out, bfloat16 on a GPU and what is stored on the CPU. `base` is the model
    that an adapter or a projector belongs to, where its own files do not say it. `template` names how
    conversations are written, instead of the checkpoint's own. `quantize`, "8bit" or "4bit", stores the
    language model's linears in that many bits. `engine` are settings of its `Engine`, such as
    `kv_memory`.
    """
    folder, adapter = checkpoint_folder(name), None
    if is_adapter_folder(folder):
        folder, adapter, base = checkpoint_folder(base_of(folder, base)), folder, None
    family = identify_folder(folder)
    model = open_model(folder, family, device=device, dtype=dtype, base=base, quantize=quantize)
    if adapter is not None:
        put_adapter(model, adapter, hash_weights(folder))
    origin: dict[str, Any] = {} if base is None else {"base": base}
    processor = family.processor_class().from_pretrained(folder, **origin)
    if template is not None:
        processor = with_template(processor, template, family.title)
    return VLM(model, processor, family, str(name or BUILT_IN), **engine)


def with_template(processor: Any, name: str, title: str) -> Any:
    """The processor with another conversation template of its family, which is called `title`."""
    if (change := getattr(processor, "with_template", None)) is None:
        raise ConfigError(f"{title} has one way to write conversations; leave the template out")
    return change(name)


def checkpoint_folder(name: str | Path | None = None, *, download: bool = True) -> Path:
    """Where the files of a model are: the built-in one for None or its name, else see `find_checkpoint`."""
    if name is None or name == BUILT_IN:
        from beholder.mini import FOLDER

        return FOLDER
    return find_checkpoint(name, download=download)


class VLM:
    """A model with its processor. May be used from several threads, whose requests are run together.

    `engine` are settings of its `Engine`, such as `kv_memory`.
    """

    def __init__(
        self, model: PreTrainedModel, processor: Any, family: Family, name: str, **engine: Any
    ) -> None:
        self.model = model
        self.processor = processor
        self.family = family
        self.name = name
        make = getattr(family, "engine", None) or Engine
        self.engine = make(model, **engine)

    @property
    def context(self) -> int:
        """How many tokens prompt and answer may have together."""
        text = self.model.config.get_text_config()
        return getattr(text, "max_position_embeddings", None) or DEFAULT_CONTEXT

    def with_template(self, name: str) -> VLM:
        """The same model on the same engine, asked in another conversation template of its family."""
        other = copy.copy(self)
        other.processor = with_template(self.processor, name, self.family.title)
        return other

    def ask(self, image: PictureSource | None, question: str, **sampling: Any) -> Answer:
        """Answer one question about one picture, or about none. `sampling` as in `Sampling`."""
        if not question.strip():
            raise InputError("the question is empty")
        parts = (question,) if image is None else (open_picture(image), question)
        return self.chat([Message.user(*parts)], **sampling)

    def ground(
        self, image: PictureSource, phrase: str, *, question: str | None = None, **sampling: Any
    ) -> Grounding:
        """Find what a phrase names. `question` has {phrase} in it; left out, it is asked as in training.

        InputError if this checkpoint is known not to be trained for it; an own question is asked anyway.
        """
        answer = self.ask(image, self.habits.asked(phrase, question), **sampling)
        return Grounding.of(phrase.strip(), answer, self.habits)

    def ask_about_box(
        self, image: PictureSource, box: Box, *, question: str | None = None, **sampling: Any
    ) -> Answer:
        """Ask what is in a box of a picture, in pixels. `question` has {box} in it, where the box is written
        as this model writes boxes; left out, it is asked as in training."""
        picture = open_picture(image)
        frame = self.processor.box_frame(*picture.size)
        return self.ask(picture, self.habits.asked_about(box, frame, question), **sampling)

    def chat(self, messages: Conversation, **sampling: Any) -> Answer:
        """Answer the last message of a conversation: `Message`s, or OpenAI messages with content parts."""
        return self.stream(messages, **sampling).read()

    def choices(self, messages: Conversation, n: int, **sampling: Any) -> list[Answer]:
        """`n` answers to one conversation, whose prompt is read once. With a seed they take it and those
        after it."""
        if n < 1:
            raise InputError(f"n is {n}; ask for at least one answer")
        conversation, seed = read_messages(messages), sampling.get("seed")
        seeds = [None if seed is None else seed + number for number in range(n)]
        streams = [self.stream(conversation, **{**sampling, "seed": one}) for one in seeds]
        try:
            return [stream.read() for stream in streams]
        finally:
            for stream in streams:
                stream.close()

    def submit(
        self, messages: Conversation, *, mask: TokenMask | None = None, **sampling: Any
    ) -> AnswerStream:
        """The same as `stream`, but a thread works on it from now on, whether its pieces are read or not."""
        stream = self.stream(messages, mask=mask, **sampling)
        self.engine.start()
        return stream

    def stream(
        self, messages: Conversation, *, mask: TokenMask | None = None, **sampling: Any
    ) -> AnswerStream:
        """The same as an iterator over pieces of text; its `answer` is complete at the end.

        The prompt is prepared before this returns, so what is wrong with it is raised here. `mask` limits
        what may be said: from the answer's ids so far to a bool for each token that could be next.
        """
        start = time.perf_counter()
        wanted = Sampling.of(sampling)
        conversation = read_messages(messages)
        inputs = self.processor.encode(conversation)
        request = self._admit(conversation, inputs, wanted, start)
        return AnswerStream(self, request, mask)

    def complete(self, prompt: str, *, mask: TokenMask | None = None, **sampling: Any) -> AnswerStream:
        """Go on with a text as it is, without a template; special tokens that are spelled in it count."""
        start = time.perf_counter()
        wanted = Sampling.of(sampling)
        if not prompt:
            raise InputError("the prompt is empty")
        inputs = self.processor(text=prompt, return_tensors="pt")
        return AnswerStream(self, self._admit((), inputs, wanted, start), mask)

    def close(self) -> None:
        """End what is running, as cancelled; nothing can be asked afterwards."""
        self.engine.close()

    def _admit(
        self, conversation: tuple[Message, ...], inputs: Mapping[str, Any], sampling: Sampling, start: float
    ) -> Request:
        """Refuse a prompt that does not fit; an answer that would not fit ends where the context does."""
        ids = inputs["input_ids"]
        pictures = int((ids == self.processor.image_token_id).sum())
        length = ids.shape[1]
        if length >= self.context:
            raise InputError.too_long(length, self.context, pictures)
        fitting = replace(sampling, max_tokens=min(sampling.max_tokens, self.context - length))
        usage = Usage(length, pictures, 0)
        return Request(conversation, inputs, fitting, usage, start, time.perf_counter() - start)

    def boxes(self, text: str, messages: Iterable[Message]) -> tuple[Box, ...]:
        """The boxes in an answer, in pixels of the conversation's last picture; none without a picture."""
        pictures = [picture for message in messages for picture in message.pictures]
        if not pictures:
            return ()
        size = pictures[-1].size
        return self.habits.boxes(text, self.processor.box_frame(*size), size, len(pictures) - 1)

    @property
    def habits(self) -> Habits:
        """How this checkpoint is asked for boxes, and in which form it answers."""
        told = getattr(self.family, "boxes", None)
        return Habits() if told is None else told(self.model.config, self.processor)


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

    def __init__(self, vlm: VLM, request: Request, mask: TokenMask | None = None) -> None:
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
