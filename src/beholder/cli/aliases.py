"""The flags of the original programs as hidden aliases: what has a place here is translated, with a hint.

What has none is an error that says why; nothing that would change an answer is ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from beholder.core.errors import ConfigError

TALKING = ("ask", "chat", "ground")
ABOUT_CHECKPOINTS = ("inspect", "doctor", "convert", "merge")

# Original flag -> ours. Each takes a value.
BASE = {"--model-base": "--base", "--model_base": "--base"}
RENAMED = {
    **BASE,
    "--model-path": "--model",
    "--model_path": "--model",
    "--from_pretrained": "--model",
    "--conv-mode": "--template",
    "--conv_mode": "--template",
    "--version": "--template",
    "--local_tokenizer": "--tokenizer",
    "--max-new-tokens": "--max-tokens",
    "--max_new_tokens": "--max-tokens",
    "--top_p": "--top-p",
    "--top_k": "--top-k",
}

# Original switch -> ours with its value.
SWITCHES = {
    "--bf16": ("--dtype", "bfloat16"),
    "--fp16": ("--dtype", "float16"),
    "--load-8bit": ("--quantize", "8bit"),
    "--load_8bit": ("--quantize", "8bit"),
    "--load-4bit": ("--quantize", "4bit"),
    "--load_4bit": ("--quantize", "4bit"),
}
# Original flags whose value is a number of bits.
BITS = ("--quant",)

# Original switches that ask for what happens here anyway.
NEEDLESS = {"--english": "not needed here: the answer's language follows the question"}

# Original flags whose value is an argument here: the picture comes first, the question last.
PICTURE = ("--image-file", "--image_file")
QUESTION = ("--query",)

REFUSED = {
    "--slide_window": "the views of a picture come from the checkpoint, so leave it out",
}


# Flags of the original worker -> ours; and those of both, with their values, that have no meaning here.
WORKER = {
    "--controller-address": "--controller",
    "--limit-model-concurrency": "--max-running",
}
NEEDLESS_WITH_VALUE = {
    "worker": {
        "--host": "a worker is reached through Ray",
        "--port": "a worker is reached through Ray",
        "--worker": "a worker is reached through Ray",
        "--worker-address": "a worker is reached through Ray",
        "--stream-interval": "every token is sent as it comes",
    },
    "controller": {"--dispatch-method": "conversations return to their replica, and queues are kept even"},
}


def translate(verb: str, arguments: list[str]) -> list[str]:
    """The arguments with original flags replaced by ours."""
    if verb in ABOUT_CHECKPOINTS:
        return _rename(arguments, BASE)
    if verb in NEEDLESS_WITH_VALUE:
        arguments = _without(arguments, NEEDLESS_WITH_VALUE[verb])
    if verb == "worker":
        return _translate(_rename(arguments, WORKER))
    return _translate(arguments) if verb in TALKING else arguments


def _translate(arguments: list[str]) -> list[str]:
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
        if flag in NEEDLESS:
            print(f"hint: {flag} is {NEEDLESS[flag]}", file=sys.stderr)
        elif flag in RENAMED:
            kept += _rename([argument], RENAMED)
        elif flag in SWITCHES:
            _hint(flag, " ".join(SWITCHES[flag]))
            kept += SWITCHES[flag]
        elif flag in BITS:
            bits = value or _next(rest, flag)
            _hint(flag, f"--quantize {bits}bit")
            kept += ["--quantize", f"{bits}bit"]
        elif flag in PICTURE + QUESTION:
            _hint(flag, "an argument without a flag")
            (pictures if flag in PICTURE else questions).append(value or _next(rest, flag))
        else:
            kept.append(argument)
    return [*pictures, *kept, *questions]


def _rename(arguments: list[str], names: dict[str, str]) -> list[str]:
    """Arguments before a `--` with their flags renamed."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    renamed: list[str] = []
    for argument in arguments[:end]:
        flag = argument.partition("=")[0]
        if flag in names:
            _hint(flag, names[flag])
            argument = argument.replace(flag, names[flag], 1)
        renamed.append(argument)
    return renamed + arguments[end:]


def _without(arguments: list[str], needless: dict[str, str]) -> list[str]:
    """Arguments without flags that have no meaning here, and without their values."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, _ = argument.partition("=")
        if flag in needless:
            print(f"hint: {flag} is not needed here: {needless[flag]}", file=sys.stderr)
            if not equals:
                _next(rest, flag)
        else:
            kept.append(argument)
    return kept


def _next(rest: Iterator[str], flag: str) -> str:
    value = next(rest, None)
    if value is None:
        raise ConfigError(f"{flag} needs a value")
    return value


def _hint(flag: str, ours: str) -> None:
    print(f"hint: {flag} is {ours} here", file=sys.stderr)
