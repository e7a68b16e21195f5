"""Stable codes of the errors that people meet most, and where the documentation says what to do about them.

A code belongs to a sentence, wherever in the package it is raised or found by `doctor`; codes are added and
never given another meaning. `docs/troubleshooting.md` has a section for each and travels with the package, so
`beholder help CODE` prints one where there is neither a checkout nor a network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = "docs/troubleshooting.md"
# Beside the package where it was installed from a wheel, in the documentation of a checkout.
COPIES = (
    Path(__file__).resolve().parents[1] / "troubleshooting.md",
    Path(__file__).resolve().parents[3] / PAGE,
)


@dataclass(frozen=True)
class Trouble:
    """One kind of error: its code, and what its sentence has in it."""

    code: str
    pattern: str

    @property
    def place(self) -> str:
        """Where the documentation speaks of it."""
        return f"{PAGE}#{self.code}"

    @property
    def told(self) -> str:
        """The same, with the command that prints it."""
        return f"{self.place} (beholder help {self.code})"


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
    Trouble(
        "does-not-fit",
        r"does not fit .*: |^\d+ tensors (missing|unknown to|of another shape|stored twice|of the vision)",
    ),
    Trouble("no-tower", r"base tower|no vision tower|vision tower .* cannot be opened"),
    Trouble("unknown-family", r"which is no family that is known here"),
    Trouble("wrong-tokenizer", r"the tokenizer .*belongs to another model"),
    Trouble("no-tokenizer", r"has no tokenizer"),
    Trouble("prompt-too-long", r"^the prompt is \d+ tokens .* and the limit is "),
    Trouble("slots-disagree", r"reserves \d+ picture positions and the pictures give"),
    Trouble("places-disagree", r"has places for \d+ pictures and \d+ were given"),
    Trouble("unknown-device", r"^device .* is not here; available: "),
    Trouble("missing-extra", r"pip install 'beholder\[|which is not installed: pip install"),
    # What `doctor` finds.
    Trouble("lfs-pointer", r"is a Git LFS pointer"),
    Trouble(
        "half-a-download",
        r"a download did not come to its end|links point to files that are not there|"
        r"numbered files are missing|files of two downloads are mixed|^there are files \S+ and no ",
    ),
    Trouble(
        "damaged-file",
        r"is damaged: |tensors cannot be read: |is not valid JSON|^\S+ is empty$|"
        r"is not the file that was published|counts \d+ bytes of weights and its ",
    ),
    Trouble("weights-twice", r"holds weights twice"),
    Trouble("wrong-vocabulary", r"^the vocabulary is wrong: "),
    Trouble("number-format", r"weights (are stored in a format|have another number format)"),
    Trouble("broken-numbers", r"hold NaN or infinity|hold nothing but zeros"),
    Trouble("sat-folder", r"is a SAT checkpoint, which is not opened as it is"),
    Trouble(
        "adapter",
        r"adapter as PEFT alone saves it|of the adapter (are missing|have no place)|"
        r"the adapter in .* changes nothing|adapter_config\.json and neither|"
        r"and no adapter_config\.json|trained beside the adapter|"
        r"does not name the adapter's base model",
    ),
    Trouble("unknown-recipe-key", r"^recipe .*unknown key "),
    Trouble("no-room", r"may need key-value memory for|^memory ran out with|leave nothing to run with"),
)


def trouble_of(message: str) -> Trouble | None:
    """What an error's sentence is about; None where no page says more than the sentence does."""
    return next((one for one in TROUBLES if re.search(one.pattern, message)), None)


def section(code: str) -> str:
    """What the page says about a code, its heading included; KeyError if there is no such code.

    Empty where the page did not come along, as in a copy of single files.
    """
    if code not in {trouble.code for trouble in TROUBLES}:
        raise KeyError(code)
    page = next((path for path in COPIES if path.is_file()), None)
    if page is None:
        return ""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^### [^\n]*\{{#{re.escape(code)}\}}\n.*?(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    return "" if found is None else _plain(found[0])


def _plain(markdown: str) -> str:
    """Without the marks that only a page needs: anchors, comments for tests, fences, addresses of links."""
    text = re.sub(r"^### (.*?) \{#[\w-]+\}", r"\1\n", markdown)
    text = re.sub(r"<!--.*?-->\n|^```\w*\n", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
