"""The flags of the original programs as hidden aliases: what has a place here is translated, with a hint.

What has none is an error that says why; nothing is ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from beholder.core.errors import ConfigError

VERBS_WITH_ALIASES = ("ask", "chat")

# Original flag -> ours. Each takes a value.
RENAMED = {
    "--model-path": "--model",
    "--model_path": "--model",
    "--from_pretrained": "--model",
    "--max-new-tokens": "--max-tokens",
    "--max_new_tokens": "--max-tokens",
    "--top_p": "--top-p",
    "--top_k": "--top-k",
}

# Original switch -> ours with its value.
SWITCHES = {"--bf16": ("--dtype", "bfloat16"), "--fp16": ("--dtype", "float16")}

# Original flags whose value is an argument here: the picture comes first, the question last.
PICTURE = ("--image-file", "--image_file")
QUESTION = ("--query",)

REFUSED = {
    "--model-base": "adapters cannot be opened yet; give a complete model with --model",
    "--load-4bit": "models cannot be quantised yet; use --dtype bfloat16",
    "--load-8bit": "models cannot be quantised yet; use --dtype bfloat16",
    "--quant": "models cannot be quantised yet; use --dtype bfloat16",
    "--conv-mode": "the prompt template comes from the checkpoint, so leave it out",
    "--version": "the prompt template comes from the checkpoint, so leave it out",
    "--local_tokenizer": "the tokenizer comes from the checkpoint's folder, so leave it out",
    "--english": "the answer's language follows the question, so leave it out",
    "--slide_window": "the views of a picture come from the checkpoint, so leave it out",
}


def translate(verb: str, arguments: list[str]) -> list[str]:
    """The arguments with original flags replaced by ours."""
    if verb not in VERBS_WITH_ALIASES:
        return arguments
    pictures: list[str] = []
    questions: list[str] = []
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            kept += ["--", *rest]
            break
        flag, _, value = argument.partition("=")
        if flag in REFUSED:
            raise ConfigError(f"{flag}: {REFUSED[flag]}")
        if flag in RENAMED:
            _hint(flag, RENAMED[flag])
            kept.append(argument.replace(flag, RENAMED[flag], 1))
        elif flag in SWITCHES:
            _hint(flag, " ".join(SWITCHES[flag]))
            kept += SWITCHES[flag]
        elif flag in PICTURE + QUESTION:
            _hint(flag, "an argument without a flag")
            (pictures if flag in PICTURE else questions).append(value or _next(rest, flag))
        else:
            kept.append(argument)
    return [*pictures, *kept, *questions]


def _next(rest: Iterator[str], flag: str) -> str:
    value = next(rest, None)
    if value is None:
        raise ConfigError(f"{flag} needs a value")
    return value


def _hint(flag: str, ours: str) -> None:
    print(f"hint: {flag} is {ours} here", file=sys.stderr)
