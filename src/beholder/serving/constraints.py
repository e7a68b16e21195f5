"""`response_format`: answers that must be JSON, held to it token by token (by the package llguidance)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from beholder.core.errors import MissingExtraError
from beholder.serving.answering import MaskMaker
from beholder.serving.errors import APIError
from beholder.serving.schemas import ResponseFormat

if TYPE_CHECKING:
    from beholder.api import VLM

# White space between tokens is free in JSON; a model that likes it would never come to an end.
LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_OBJECT: dict[str, Any] = {"type": "object"}
PARAM = "response_format"

_vocabularies: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def answer_format(vlm: VLM, wanted: ResponseFormat | None) -> MaskMaker | None:
    """What limits an answer to a format, made anew for each answer; None where everything may be said."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        schema = ANY_OBJECT
    elif wanted.json_schema is None or wanted.json_schema.schema_ is None:
        raise APIError(400, "json_schema has no schema in it", code="missing_parameter", param=PARAM)
    else:
        schema = wanted.json_schema.schema_
    config: Any = vlm.model.config
    size: int = config.get_text_config().vocab_size
    return format_of(vlm.processor.tokenizer, vlm.processor.terminators, size, schema)


def format_of(tokenizer: Any, ends: Sequence[int], size: int, schema: dict[str, Any]) -> MaskMaker:
    """The same from its parts: a tokenizer, the tokens that end an answer, and how many tokens are scored."""
    try:
        from llguidance import LLMatcher
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(PARAM, "serve") from error

    vocabulary = _vocabulary(tokenizer, ends, size)
    grammar = LLMatcher.grammar_from_json_schema(schema, overrides=LAYOUT)
    if problem := LLMatcher.validate_grammar(grammar, vocabulary):
        reason = problem.strip().splitlines()[0][:300]
        raise APIError(400, f"the schema cannot be followed: {reason}", code="invalid_value", param=PARAM)
    return lambda: Format(LLMatcher(vocabulary, grammar), size)


def _vocabulary(tokenizer: Any, ends: Sequence[int], size: int) -> Any:
    """The tokenizer as the grammar sees it; takes a second to make, so it is kept."""
    if tokenizer not in _vocabularies:
        from llguidance.hf import from_tokenizer

        _vocabularies[tokenizer] = from_tokenizer(tokenizer, n_vocab=size, eos_token=list(ends))
    return _vocabularies[tokenizer]


class Format:
    """Follows one answer through a grammar."""

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher = matcher
        self._size = size
        self._followed = 0

    def __call__(self, said: Sequence[int]) -> torch.Tensor:
        """Which of `size` tokens may come after the ids of the answer so far, as bools."""
        self._matcher.consume_tokens(list(said[self._followed :]))
        self._followed = len(said)
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return torch.as_tensor(np.unpackbits(bits, bitorder="little")[: self._size].astype(bool))
