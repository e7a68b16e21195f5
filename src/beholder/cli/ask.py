"""`beholder ask`: one picture, one question, one answer."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from beholder.cli import options
from beholder.core.errors import ConfigError


def ask(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A file, a URL, or - for a picture on stdin.")
    ],
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="What to ask about it, or - for text on stdin.")
    ],
    model: options.Model = None,
    as_json: options.AsJson = False,
    system: options.System = None,
    max_tokens: options.MaxTokens = 512,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    seed: options.Seed = None,
    stop: options.Stop = None,
    base: options.Base = None,
    template: options.Template = None,
    quantize: options.Quantize = None,
    tokenizer: options.Tokenizer = None,
    kv_dtype: options.KvDtype = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Ask a model one question about one picture."""
    sampling = options.check_sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop,
    )
    if image == question == "-":
        raise ConfigError("picture and question cannot both come from stdin")
    if question == "-":
        question = options.read_text()
    if not question.strip():
        raise ConfigError("the question is empty; write it after the picture, in quotes")
    # A picture that cannot be read is told before a model is loaded for it.
    from beholder.core.types import Message
    from beholder.processing.images import open_picture

    picture = open_picture(sys.stdin.buffer.read() if image == "-" else image)

    from beholder.api import load

    messages = [Message.user(picture, question)]
    if system is not None:
        messages.insert(0, Message.system(system))
    answer = load(
        model, device=device, dtype=dtype, **options.origin(base, template, quantize, tokenizer, kv_dtype)
    ).chat(messages, **sampling)
    print(answer.to_json() if as_json else answer.text)
