"""`beholder serve` as a process with the built-in model, asked by OpenAI's own client."""

from __future__ import annotations

import base64
import io
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image
from tests import hostile_server as bad
from tests.serving_process import KEY, Running, serving

import beholder

ROOT = Path(__file__).resolve().parents[2]
MODEL = "beholder-mini"
QUESTION = "What shape is red?"


def data_url(kind: str = "PNG") -> str:
    held = io.BytesIO()
    with Image.open(ROOT / "examples" / "shapes.png") as shown:
        shown.convert("RGB").save(held, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(held.getvalue()).decode()}"


PICTURE = {"type": "image_url", "image_url": {"url": data_url()}}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    options = ("--log-format", "json", "--trusted-picture-host", "127.0.0.1", "--no-web")
    with serving(*options) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with running.client() as made:
        yield made


@pytest.fixture(scope="module")
def offline() -> beholder.VLM:
    return beholder.load(device="cpu")


def ask(client: openai.OpenAI, content: Any, **fields: Any) -> Any:
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": content}], **fields
    )


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.mark.slow
def test_the_answer_is_the_one_of_the_library(client, offline):
    wanted = offline.ask(ROOT / "examples" / "shapes.png", QUESTION)
    told = ask(client, [PICTURE, words(QUESTION)])
    assert told.choices[0].message.content == wanted.text
    assert told.choices[0].finish_reason == wanted.finish_reason
    usage = wanted.usage
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )
    chunks = list(
        ask(client, [PICTURE, words(QUESTION)], stream=True, stream_options={"include_usage": True})
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == wanted.text
    assert chunks[-1].usage.completion_tokens == usage.completion_tokens
    assert (chunks[0].choices[0].delta.role, chunks[-2].choices[0].finish_reason) == ("assistant", "stop")


@pytest.mark.slow
def test_every_way_to_give_a_picture(client):
    with bad.hostile_server() as pictures:
        held = (ROOT / "examples" / "shapes.png").read_bytes()
        urls = [data_url(kind) for kind in ("PNG", "WEBP", "BMP")]
        urls += [data_url().rstrip("="), pictures.url("/shapes", bad.say(held))]
        told = {
            ask(client, [{"type": "image_url", "image_url": url}, words(QUESTION)]).choices[0].message.content
            for url in urls
        }
        assert len(told) == 1
        with pytest.raises(openai.BadRequestError) as caught:
            ask(
                client,
                [
                    {"type": "image_url", "image_url": pictures.url("/bomb", bad.say(bad.png_bomb()))},
                    words("?"),
                ],
            )
        assert caught.value.code == "image_too_large"


@pytest.mark.slow
def test_turns_seeds_choices_scores_and_stops(client, offline):
    messages: Any = [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": [PICTURE, words(QUESTION)]},
        {"role": "assistant", "content": "Circle."},
        {"role": "user", "content": "How many shapes are there?"},
    ]
    told = client.chat.completions.create(model=MODEL, messages=messages)
    with Image.open(ROOT / "examples" / "shapes.png") as shown:
        messages[1]["content"] = [{"type": "image", "image": shown.convert("RGB")}, words(QUESTION)]
    assert told.choices[0].message.content == offline.chat(messages).text
    fields: Any = {
        "temperature": 1.5,
        "seed": 3,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 2,
        "max_tokens": 6,
    }
    one, two = (ask(client, [PICTURE, words("Describe it.")], **fields) for _ in range(2))
    assert [choice.message.content for choice in one.choices] == [
        choice.message.content for choice in two.choices
    ]
    assert len(one.choices[0].logprobs.content[0].top_logprobs) == 2
    whole = ask(client, [PICTURE, words("Describe the picture.")]).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    cut = ask(client, [PICTURE, words("Describe the picture.")], stop=[stop]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(stop)].rstrip(), "stop")


@pytest.mark.slow
def test_models_tokens_and_plain_completions(client, running):
    model = client.models.retrieve(MODEL).model_dump()
    assert (model["state"], model["family"]) == ("ready", "qh360vl")
    body = {"model": MODEL, "messages": [{"role": "user", "content": [PICTURE, words(QUESTION)]}]}
    headers = {"authorization": f"Bearer {KEY}"}
    told = httpx.post(running.url + "/tokenize", json=body, headers=headers, trust_env=False).json()
    usage = ask(client, [PICTURE, words(QUESTION)], max_tokens=1).usage
    assert told["count"] == len(told["tokens"]) == usage.prompt_tokens
    (span,) = told["picture_spans"]
    assert span[1] - span[0] == usage.model_dump()["prompt_tokens_details"]["picture_tokens"]
    assert QUESTION in told["prompt"]
    plain = client.completions.create(model=MODEL, prompt="What shape", max_tokens=3)
    assert (plain.choices[0].finish_reason, plain.usage.completion_tokens) == ("length", 3)


@pytest.mark.slow
def test_errors_are_those_of_openai(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="none", messages=[{"role": "user", "content": "?"}])
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "?", tools=[{"type": "function", "function": {"name": "f"}}])
    assert caught.value.param == "tools"
    assert caught.value.request_id
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


@pytest.mark.slow
def test_many_at_once_and_some_that_leave(client, running):
    """Answers do not mix, and whoever leaves gives back what it held."""
    questions = [f"{QUESTION} {'Really? ' * number}" for number in range(6)]
    alone = [ask(client, [PICTURE, words(text)]).choices[0].message.content for text in questions]
    together: dict[int, str] = {}

    def run(number: int) -> None:
        with running.client() as mine:
            if number >= len(questions):
                with ask(mine, "Go on.", stream=True, max_tokens=400, temperature=2, seed=1) as stream:
                    next(iter(stream))
                return
            together[number] = ask(mine, [PICTURE, words(questions[number])]).choices[0].message.content

    threads = [threading.Thread(target=run, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(len(questions))] == alone
    until = time.monotonic() + 20
    while running.metric("beholder_requests_running") and time.monotonic() < until:
        time.sleep(0.05)
    assert running.metric("beholder_requests_running") == running.metric("beholder_requests_waiting") == 0
    assert running.metric("beholder_errors_total") == sum(
        running.metric(f'beholder_errors_total{{cause="{cause}"}}')
        for cause in ("image_too_large", "model_not_found", "unsupported_parameter", "invalid_api_key")
    )


@pytest.mark.slow
def test_a_signal_lets_answers_finish_and_the_logs_are_json():
    with serving("--log-format", "json") as server, server.client() as client:
        stream = ask(client, "Go on.", stream=True, max_tokens=150, temperature=2, seed=1)
        first = next(iter(stream))
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises((openai.InternalServerError, openai.APIConnectionError)):
            ask(client, "?")
        rest = list(stream)
        assert first.choices[0].delta.role == "assistant"
        assert rest[-1].choices[0].finish_reason in ("stop", "length")
        assert server.process.wait(120) == 0
        server.reading.join()
        told = [json.loads(line) for line in server.lines]
    assert {"request_id", "status", "seconds"} <= set().union(*told)
    assert KEY not in "".join(server.lines)


def test_bad_arguments(capsys):
    from beholder.cli import main

    assert main(["serve", "--log-format", "xml"]) == 2
    assert main(["serve", "--api-keys", "/nowhere/keys"]) == 2
    assert main(["serve", "a=x/y", "a=z/w"]) == 2
    assert "two models are called a" in capsys.readouterr().err
    assert main(["serve", "a=x/y", "b=x/y", "--template", "vqa"]) == 2
    assert "for one model and 2 were given" in capsys.readouterr().err
    assert main(["serve", "--quantize", "3bit"]) == 2
    assert main(["serve", "--kv-dtype", "int4"]) == 2
    assert "--kv-dtype is 'int4'; it must be int8, or left out" in capsys.readouterr().err
    assert main(["controller", "--log-format", "xml"]) == 2


def test_how_a_model_is_opened_is_passed_on(monkeypatch):
    from beholder.cli import main
    from beholder.serving import server

    opened: dict[str, Any] = {}
    openers: list[Any] = []

    def create(_registry: Any, _settings: Any, opener: Any, page: Any = None) -> None:
        openers.append(opener)

    monkeypatch.setattr("beholder.serving.app.create_app", create)
    monkeypatch.setattr(server, "run", lambda *_: True)
    monkeypatch.setattr("beholder.api.load", lambda source, **given: opened.update(given, source=source))
    given = [
        "--base",
        "b",
        "--template",
        "vqa",
        "--quantize",
        "4bit",
        "--max-running",
        "3",
        "--kv-dtype",
        "int8",
    ]
    assert main(["serve", "x/y", *given, "--dtype", "float32", "--device", "cpu", "--no-web"]) == 0
    openers[0]("x/y")
    assert opened == {
        "source": "x/y", "base": "b", "template": "vqa", "quantize": "4bit", "most_running": 3,
        "kv_dtype": "int8",
        "dtype": "float32", "device": "cpu",
    }  # fmt: skip
