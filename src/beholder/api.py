"""`load()` opens a checkpoint as a `VLM`; a `VLM` answers questions about pictures, also piece by piece."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.answers import AnswerStream, Request
from beholder.checkpoints.adapter_folder import base_of, is_adapter_folder
from beholder.checkpoints.adapter_folder import load as put_adapter
from beholder.checkpoints.loader import open_model
from beholder.checkpoints.quantize import OWN
from beholder.checkpoints.reader import broken_json
from beholder.core.errors import BeholderError, CapacityError, CheckpointError, ConfigError, InputError
from beholder.core.hub import find_checkpoint
from beholder.core.records import hash_weights
from beholder.core.types import Answer, Box, Message, Sampling, Usage, check_text
from beholder.families import identify_folder
from beholder.generation.engine import Engine
from beholder.generation.native.narrowing import install
from beholder.generation.native.pictures import filter_here
from beholder.generation.sampling import TokenMask
from beholder.grounding.habits import Grounding, Habits
from beholder.processing.images import PictureSource, open_picture
from beholder.processing.messages import read_messages
from beholder.processing.resizing import filter_with

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from beholder.families.family import Family

BUILT_IN = "beholder-mini"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
DEFAULT_CONTEXT = 2048  # of a model that does not say; its positions have no table that ends

filter_with(filter_here)  # whoever shows models large pictures

Conversation = str | Iterable[Message | Mapping[str, Any]]


def load(
    name: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    base: str | Path | None = None,
    template: str | None = None,
    quantize: str | None = None,
    tokenizer: str | Path | None = None,
    **engine: Any,
) -> VLM:
    """Open a model: a folder in any known layout, a hub id, or, without a name, the one in the package.

    The folder of an adapter that training left is opened with the model it was trained on.

    `device` is "cpu", "cuda:0", ...; left out, the first GPU or else the CPU. `dtype` is "float32",
    "bfloat16" or "float16"; left out, bfloat16 on a GPU and what is stored on the CPU. `base` is the model
    that an adapter or a projector belongs to, where its own files do not say it. `template` names how
    conversations are written, instead of the checkpoint's own. `quantize`, "int8" or "int4", stores the
    language model's linears in that many bits, and so do "8bit" and "4bit" by torchao or bitsandbytes.
    `tokenizer` is another folder or hub id to take it from, for checkpoints that hold none. `engine` are
    settings of its `Engine`, such as `kv_memory`.
    """
    if quantize in OWN:
        install()
    folder, adapter = checkpoint_folder(name), None
    if is_adapter_folder(folder):
        folder, adapter, base = checkpoint_folder(base_of(folder, base)), folder, None
    family = identify_folder(folder)
    model = open_model(folder, family, device=device, dtype=dtype, base=base, quantize=quantize)
    if adapter is not None:
        put_adapter(model, adapter, hash_weights(folder))
    processor = open_processor(folder, family, base, tokenizer)
    if template is not None:
        processor = with_template(processor, template, family.title)
    vlm = VLM(model, processor, family, str(name or BUILT_IN), **engine)
    vlm.folder = folder
    return vlm


def open_processor(
    folder: Path, family: Family, base: str | Path | None = None, tokenizer: str | Path | None = None
) -> Any:
    """The folder's tokenizer, picture settings and template. `CheckpointError` if its files are damaged."""
    given = {"base": base, "tokenizer": tokenizer}
    origin: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        return family.processor_class().from_pretrained(folder, **origin)
    except BeholderError:
        raise
    except Exception as error:  # transformers and tokenizers raise many kinds; all mean the same to the user
        raise CheckpointError(_why_no_processor(folder, error)) from error


def _why_no_processor(folder: Path, error: Exception) -> str:
    """Which of the files beside the weights cannot be read, or is not there."""
    if broken := broken_json(folder):
        return f"{folder / broken[0]} is not valid JSON; fetch it again"
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return f"{folder} has no tokenizer (none of {', '.join(TOKENIZER_FILES)}); fetch it again"
    return (
        f"the tokenizer or the picture settings in {folder} cannot be opened: {' '.join(str(error).split())}"
    )


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

    `engine` are settings of its `Engine`, such as `kv_memory`. `folder`, which `load` sets, has the weights;
    for an adapter it has those of the model that it was trained on.
    """

    folder: Path | None = None

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
        try:
            inputs = self.processor.encode(conversation)
        except MemoryError:
            raise CapacityError("memory ran out with the pictures being prepared; use smaller ones") from None
        request = self._admit(conversation, inputs, wanted, start)
        return AnswerStream(self, request, mask)

    def complete(self, prompt: str, *, mask: TokenMask | None = None, **sampling: Any) -> AnswerStream:
        """Go on with a text as it is, without a template; special tokens that are spelled in it count."""
        start = time.perf_counter()
        wanted = Sampling.of(sampling)
        if not prompt:
            raise InputError("the prompt is empty")
        check_text(prompt)
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
