"""Stable codes of the errors that people meet most, and where the documentation says what to do about them.

A code belongs to a sentence, wherever in the package it is raised; codes are added and never given another
meaning. `docs/troubleshooting.md` has a section for each, and a test raises every one of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PAGE = "docs/troubleshooting.md"


@dataclass(frozen=True)
class Trouble:
    """One kind of error: its code, and what its sentence has in it."""

    code: str
    pattern: str

    @property
    def place(self) -> str:
        """Where the documentation speaks of it."""
        return f"{PAGE}#{self.code}"


TROUBLES = (
    Trouble("no-such-picture", r"^no such file: "),
    Trouble("not-a-picture", r"is not a picture in a format that can be read|is truncated or damaged"),
    Trouble("picture-too-large", r"at most \d+ megapixels are accepted"),
    Trouble("picture-unreachable", r"cannot be reached \(.*\); check the address and the network"),
    Trouble("no-such-model", r"it is not a hub id of the form owner/name"),
    Trouble("not-downloaded", r"the hub cannot be reached|run .beholder fetch "),
    Trouble("gated", r"is gated: accept its licence"),
    Trouble("no-config", r"has no config\.json, so it is not a checkpoint"),
    Trouble("no-weights", r"has a config\.json but no weights"),
    Trouble("missing-shard", r"lacks \d+ of the \d+ weight files"),
    Trouble("does-not-fit", r"does not fit .*: "),
    Trouble("no-tower", r"base tower|no vision tower|vision tower .* cannot be opened"),
    Trouble("unknown-family", r"which is no family that is known here"),
    Trouble("wrong-tokenizer", r"the tokenizer .*belongs to another model"),
    Trouble("no-tokenizer", r"has no tokenizer"),
    Trouble("prompt-too-long", r"^the prompt is \d+ tokens .* and the limit is "),
    Trouble("slots-disagree", r"reserves \d+ picture positions and the pictures give"),
    Trouble("places-disagree", r"has places for \d+ pictures and \d+ were given"),
    Trouble("unknown-device", r"^device .* is not here; available: "),
    Trouble("missing-extra", r"pip install 'beholder\[|which is not installed: pip install"),
    Trouble("unknown-recipe-key", r"^recipe .*unknown key "),
    Trouble("no-room", r"may need key-value memory for|^memory ran out with|leave nothing to run with"),
)


def trouble_of(message: str) -> Trouble | None:
    """What an error's sentence is about; None where no page says more than the sentence does."""
    return next((one for one in TROUBLES if re.search(one.pattern, message)), None)
