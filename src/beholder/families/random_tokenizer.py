"""Tokenizers of the size and kind that published checkpoints have, learned from nothing.

Words of a few letters are tokens, as many as fit, so texts become about as long as with the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from beholder.core.errors import ConfigError
from beholder.families.geometries import SPECIALS, TokenizerKind

SMALL_SPECIALS = ("<unk>", "<s>", "</s>")
NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
BLANK = "\u2581"
LONGEST = 5


def write_tokenizer(folder: Path, kind: TokenizerKind, rows: int, longest: int) -> None:
    """Write tokenizer.json and tokenizer_config.json for a vocabulary of `rows`; `longest` is the context."""
    engine, settings = (_llama if kind == "llama" else _llama3)(rows)
    if (have := engine.get_vocab_size()) != rows:
        raise ConfigError(f"a {kind} tokenizer of {rows} tokens cannot be made; the nearest has {have}")
    engine.save(str(folder / "tokenizer.json"))
    told = {"clean_up_tokenization_spaces": False, "model_max_length": longest, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _merges(singles: list[str], blank: str, count: int) -> Iterator[tuple[str, str]]:
    """The first `count` merges: a blank and a letter, then ever longer words, without and with a blank."""
    letters = [letter for letter in ascii_lowercase if letter in singles]
    found = 0
    for length in range(1, LONGEST):
        for before in (blank, ""):
            for word in map("".join, product(letters, repeat=length + (before == ""))):
                if found == count:
                    return
                yield before + word[:-1] if length > 1 or not before else before, word[-1]
                found += 1


def _model(first: list[str], blank: str, rows: int, **options: Any) -> Any:
    """A BPE with these tokens first and merges after them, `rows` in all."""
    from tokenizers import models

    if rows < len(first):
        raise ConfigError(f"a vocabulary of {rows} is too small for a tokenizer; it needs {len(first)}")
    merges = list(_merges(first, blank, rows - len(first)))
    vocabulary = {token: number for number, token in enumerate([*first, *map("".join, merges)])}
    return models.BPE(vocabulary, merges, **options)


def _llama(rows: int) -> tuple[Any, dict[str, Any]]:
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers

    singles = [BLANK, *(chr(code) for code in range(33, 127))]
    first = [*SMALL_SPECIALS, *(f"<0x{code:02X}>" for code in range(256)), *singles]
    engine = Tokenizer(_model(first, BLANK, rows, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    engine.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    engine.decoder = decoders.Sequence(
        [
            decoders.Replace(BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    engine.add_special_tokens([AddedToken(token, normalized=False) for token in SMALL_SPECIALS])
    settings = {
        "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": "<unk>", "padding_side": "right", "legacy": False, "add_bos_token": True,
        "add_eos_token": False,
    }  # fmt: skip
    return engine, settings


def _llama3(rows: int) -> tuple[Any, dict[str, Any]]:
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    engine = Tokenizer(_model(alphabet, "\u0120", rows - SPECIALS))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    specials = _llama3_specials()
    engine.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    begin = (specials[0], rows - SPECIALS)
    engine.post_processor = processors.TemplateProcessing(
        single=f"{begin[0]} $A", pair=f"{begin[0]} $A {begin[0]}:1 $B:1", special_tokens=[begin]
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": specials[0], "eos_token": specials[1],
    }  # fmt: skip
    return engine, settings


def _llama3_specials() -> list[str]:
    """Named ones at their places, reserved ones numbered between and after them."""
    free = iter(range(SPECIALS))
    return [
        f"<|{NAMED[place]}|>" if place in NAMED else f"<|reserved_special_token_{next(free)}|>"
        for place in range(SPECIALS)
    ]
