"""Answers that are held to a format: whatever is drawn, it is JSON of the schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from beholder.serving.constraints import ANY_OBJECT, format_of
from beholder.serving.errors import APIError

SIZE = 430  # more scores than tokens, as models with padded rows have
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["star", "circle"]},
        "count": {"type": "integer", "maximum": 9, "minimum": 0},
    },
    "required": ["shape", "count"],
    "additionalProperties": False,
}  # fmt: skip


def draw(tokenizer: Any, schema: dict[str, Any], seed: int, most: int = 200) -> str | None:
    """A random walk through what is allowed; None if it did not end."""
    ends = (1, 4)
    mask = format_of(tokenizer, ends, SIZE, schema)()
    random = torch.Generator().manual_seed(seed)
    said: list[int] = []
    for _ in range(most):
        allowed = mask(said)
        assert allowed.shape == (SIZE,)
        assert allowed.any()
        assert not allowed[len(tokenizer) :].any()
        # What a model likes least is to stop, so the walk ends as soon as it may.
        token = next((end for end in ends if allowed[end]), None)
        if token is not None:
            return tokenizer.decode(said)
        said.append(int(torch.multinomial(allowed.float(), 1, generator=random)))
    return None


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_drawn_follows_the_schema(llama3_tokenizer, seed):
    text = draw(llama3_tokenizer, SCHEMA, seed)
    assert text is not None
    told = json.loads(text)
    assert told.keys() == {"shape", "count"}
    assert told["shape"] in ("star", "circle")
    assert 0 <= told["count"] <= 9


def test_any_object(llama3_tokenizer):
    walks = [draw(llama3_tokenizer, ANY_OBJECT, seed) for seed in range(8)]
    ended = [json.loads(text) for text in walks if text is not None]
    assert ended
    assert all(isinstance(told, dict) for told in ended)


def test_two_answers_do_not_disturb_each_other(llama3_tokenizer):
    make = format_of(llama3_tokenizer, (1, 4), SIZE, SCHEMA)
    one, two = make(), make()
    first = int(one([]).nonzero()[0])
    assert not torch.equal(one([first]), two([]))


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": 5}])
def test_a_schema_that_makes_no_sense(llama3_tokenizer, schema):
    with pytest.raises(APIError, match="cannot be followed") as caught:
        format_of(llama3_tokenizer, (1, 4), SIZE, schema)
    assert (caught.value.status, caught.value.param) == (400, "response_format")
