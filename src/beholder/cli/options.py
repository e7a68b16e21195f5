"""Arguments that several verbs share, written once: choosing a model and choosing tokens."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from beholder.core.errors import ConfigError, InputError
from beholder.core.types import Sampling

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Hub id or folder; left out, the model in the package.", show_default=False
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Argument(
        help="A folder, or a hub id that was downloaded; left out, the model in the package.",
        show_default=False,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="The model that an adapter or a projector belongs to: a folder or hub id.",
        show_default=False,
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        help="How conversations are written, where the checkpoint does not say.",
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda:0, ...; auto is the first GPU, or the CPU where there is none.")
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto follows device and weights.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]
System = Annotated[
    str | None, typer.Option(help="Replaces the model's own system prompt.", show_default=False)
]

MaxTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
TopK = Annotated[int, typer.Option(help="Draw from the k likeliest tokens; 0 is off.")]
TopP = Annotated[
    float, typer.Option(help="Draw from the likeliest tokens that have this probability together.")
]
MinP = Annotated[float, typer.Option(help="Drop tokens below this share of the likeliest one.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1 repeats less.")]
Seed = Annotated[int | None, typer.Option(help="Makes drawing repeatable.", show_default=False)]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="End the answer before this text; may be given again.", show_default=False),
]


Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        help="int8 or int4: the language model in that many bits; 8bit or 4bit: by torchao or bitsandbytes.",
        show_default=False,
    ),
]


Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Where to take the tokenizer from, if not from the checkpoint: a folder or hub id.",
        show_default=False,
    ),
]


KvDtype = Annotated[
    str | None,
    typer.Option(
        "--kv-dtype",
        help="int8: keys and values in 8 bits; left out, in the number format of the model.",
        show_default=False,
    ),
]


def read_text() -> str:
    """What stands on stdin, which must be UTF-8."""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"the text on stdin is not UTF-8 (byte {error.start + 1})") from error


def origin(
    base: str | None,
    template: str | None,
    quantize: str | None = None,
    tokenizer: str | None = None,
    kv_dtype: str | None = None,
) -> dict[str, str]:
    """What of a model's origin and form was given, and what it keeps, as arguments of `load`."""
    if quantize is not None:  # told before a model is loaded for it
        from beholder.checkpoints.quantize import check_name

        check_name(quantize)
    given = {"base": base, "template": template, "quantize": quantize, "tokenizer": tokenizer}
    given["kv_dtype"] = check_kv_dtype(kv_dtype)
    return {name: value for name, value in given.items() if value is not None}


def check_kv_dtype(name: str | None) -> str | None:
    """`name`, if keys and values can be kept so; told before a model is loaded for it."""
    if name not in (None, "int8"):
        raise ConfigError(
            f"--kv-dtype is {name!r}; it must be int8, or left out for the model's own number format"
        )
    return name


def check_sampling(**values: Any) -> dict[str, Any]:
    """Sampling values from the command line, refused before a model is loaded for them."""
    if values.get("stop") is not None:
        values["stop"] = tuple(values["stop"])
    given = {name: value for name, value in values.items() if value is not None}
    try:
        Sampling.of(given)
    except InputError as error:
        raise ConfigError(str(error)) from error
    return given
