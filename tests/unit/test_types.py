"""Messages, sampling settings and answers refuse what cannot work and keep what they were given."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from beholder import Answer, Box, InputError, Message, Sampling, Timings, Usage

PICTURE = Image.new("RGB", (2, 2))


def test_parts_keep_their_order():
    message = Message.user("a", PICTURE, "b")
    assert message.text == "ab"
    assert message.pictures == (PICTURE,)
    assert message.parts == ("a", PICTURE, "b")


def test_an_unknown_role_is_refused():
    with pytest.raises(InputError, match="'tool'"):
        Message("tool", ("x",))  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_pictures_belong_to_users(role):
    with pytest.raises(InputError, match=f"picture stands in a {role} message"):
        Message(role, (PICTURE,))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", 1.0),
        ("min_p", -0.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-30),
        ("repetition_penalty", float("inf")),
        ("temperature", 1e300),
        ("presence_penalty", -1e39),
        ("frequency_penalty", 1e39),
        ("logit_bias", {3: float("-inf")}),
        ("logit_bias", {3: 1e39}),
        ("stop", ("a", "")),
        ("stop", "END"),
        ("max_tokens", "5"),
        ("max_tokens", 2.5),
        ("max_tokens", None),
        ("top_k", True),
        ("temperature", None),
        ("seed", "1"),
    ],
)
def test_impossible_sampling_is_refused(name, value):
    with pytest.raises(InputError, match=name):
        Sampling.of({name: value})


def test_numbers_of_numpy_are_numbers():
    given = Sampling(max_tokens=np.int64(3), temperature=np.float32(0.5))  # type: ignore[arg-type]
    assert (given.max_tokens, given.temperature) == (3, 0.5)


def test_half_characters_are_refused():
    """So bytes arrive that are no UTF-8: from a command line, or written as \\ud800 in JSON."""
    with pytest.raises(InputError, match=r"character 3 is '\\udcff', half of one; give it in UTF-8"):
        Message.user(PICTURE, "a", "b\udcff")
    assert Message.user("a😀").text == "a😀"


def test_a_misspelt_setting_names_the_known_ones():
    with pytest.raises(InputError, match=r"\['temprature'\]; known: max_tokens, temperature"):
        Sampling.of({"temprature": 1.0})


def test_an_answer_prints_as_its_text_and_writes_every_field():
    answer = Answer("是", "stop", Usage(10, 4, 2), Timings(0.1, 0.2, 0.3), (Box(1, 2, 3, 4),))
    assert str(answer) == "是"
    assert answer.usage.total_tokens == 12
    written = json.loads(answer.to_json())
    assert "是" in answer.to_json()
    assert written["boxes"] == [{"x1": 1, "y1": 2, "x2": 3, "y2": 4, "picture": 0}]
    assert written["usage"] == {
        "prompt_tokens": 10, "picture_tokens": 4, "completion_tokens": 2, "cached_tokens": 0
    }  # fmt: skip
    assert written["finish_reason"] == "stop"
    assert written["timings"]["first_token"] == 0.2
