"""The OpenAI client and one server with a small model of every family: each answers as the library does."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.serving_process import Running, serving

import beholder
from beholder.families.geometries import TRIAL
from beholder.families.random_weights import write_random

PICTURE = Path(__file__).resolve().parents[2] / "examples" / "shapes.png"
GEOMETRIES = {
    "360vl": "360vl-8b", "llava": "llava-1.5-7b", "internvl": "internvl-chat-7b", "cogvlm": "cogvlm-chat",
}  # fmt: skip
QUESTION, AGAIN = "What shape is red?", "And which is green?"
LENGTH = 12

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of two layers; vocabulary, template and pictures are those of the published models."""
    home = tmp_path_factory.mktemp("families")
    for name, geometry in GEOMETRIES.items():
        write_random(geometry, home / name, layers=2, dtype="float32", changes=TRIAL[name])
    return {name: home / name for name in GEOMETRIES}


@pytest.fixture(scope="module")
def running(folders: dict[str, Path]) -> Iterator[Running]:
    models = [f"{name}={folder}" for name, folder in folders.items()]
    with serving(*models, "--no-web", "--dtype", "float32") as server:
        yield server


def content(question: str, data: str) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": data}}, {"type": "text", "text": question}]


def data_url() -> str:
    return "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_two_turns_about_a_picture(name, folders, running):
    vlm = beholder.load(folders[name], device="cpu", dtype="float32")
    turns: list[Any] = [{"role": "user", "content": content(QUESTION, data_url())}]
    how: dict[str, Any] = {"max_tokens": LENGTH, "temperature": 0.0}
    with running.client() as client:
        first = vlm.chat(turns, **how)
        told = client.chat.completions.create(model=name, messages=turns, **how)
        assert told.choices[0].message.content == first.text
        assert told.usage.prompt_tokens == first.usage.prompt_tokens
        # Random weights may say what no template can hold; another answer stands in for theirs.
        turns += [{"role": "assistant", "content": "The circle."}, {"role": "user", "content": AGAIN}]
        second = vlm.chat(turns, **how)
        pieces = client.chat.completions.create(model=name, messages=turns, stream=True, **how)
        assert "".join(one.choices[0].delta.content or "" for one in pieces if one.choices) == second.text


@pytest.mark.parametrize("name", GEOMETRIES)
def test_words_alone_and_more_pictures_than_a_model_takes(name, running):
    with running.client() as client:
        alone = [{"role": "user", "content": "Say something."}]
        told = client.chat.completions.create(model=name, messages=alone, max_tokens=4)
        assert told.usage.completion_tokens <= 4
        listed = {one.id: one.model_dump() for one in client.models.list().data}[name]
        most = listed["pictures_per_request"]
        many = [*content(QUESTION, data_url()) * (most + 1)]
        with pytest.raises(openai.BadRequestError, match=r"limit|at most|looks at one"):
            client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": many}], max_tokens=4
            )
