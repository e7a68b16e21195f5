"""The server's answers, whole and streamed, and its routes for operations."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from tests.fake_vlm import WORDS
from tests.serving_app import TEXT, Here, chat, error, events, image

from beholder.core.errors import ConfigError
from beholder.serving.app import create_app
from beholder.serving.registry import Registry, Served
from beholder.serving.settings import Settings


@pytest.fixture
def here() -> Here:
    return Here()


def test_an_answer(here):
    response = here.chat()
    told = response.json()
    assert response.status_code == 200
    assert told["id"].startswith("chatcmpl-")
    assert (told["object"], told["model"]) == ("chat.completion", "fake")
    (choice,) = told["choices"]
    assert choice["message"] == {"role": "assistant", "content": TEXT, "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert told["usage"]["prompt_tokens"] == 7
    assert told["usage"]["completion_tokens"] == len(WORDS)
    assert told["usage"]["total_tokens"] == 7 + len(WORDS)
    assert told["usage"]["prompt_tokens_details"] == {"cached_tokens": 2, "picture_tokens": 0}


def test_a_stream_is_framed_as_openai_frames_it(here):
    response = here.chat(stream=True, stream_options={"include_usage": True})
    *chunks, done = events(response)
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    *parts, usage = chunks
    assert all(part["usage"] is None for part in parts)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], len(WORDS))
    choices = [part["choices"][0] for part in parts]
    assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == TEXT
    assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "stop")
    assert {choice["finish_reason"] for choice in choices[:-1]} == {None}


def test_without_usage_no_chunk_has_one(here):
    *chunks, _ = events(here.chat(stream=True))
    assert not any("usage" in chunk for chunk in chunks)


def test_pictures_boxes_and_roles(here):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [image(detail="high"), {"type": "text", "text": "First?"}]},
        {"role": "assistant", "content": "Yes.", "refusal": None, "tool_calls": None, "boxes": []},
        {
            "role": "user",
            "content": [{"type": "text", "text": "And "}, image(), {"type": "text", "text": "this?"}],
        },
    ]
    body = {"model": "fake", "messages": messages}
    (choice,) = here.post("/v1/chat/completions", body).json()["choices"]
    box = {"picture": 1, "pixels": [10, 5, 20, 15], "normalised": [0.25, 0.25, 0.5, 0.75]}
    assert choice["message"]["boxes"] == [box]
    asked, _ = here.vlm.asked[0]
    assert [message.role for message in asked] == ["system", "user", "assistant", "user"]
    assert [len(message.pictures) for message in asked] == [0, 1, 0, 1]
    assert [type(part).__name__ for part in asked[3].parts] == ["str", "Image", "str"]
    *chunks, _ = events(here.post("/v1/chat/completions", {**body, "stream": True}))
    assert chunks[-1]["choices"][0]["delta"] == {"boxes": [box]}


def test_the_address_of_a_picture_may_be_a_bare_string(here):
    part = image()
    part["image_url"] = part["image_url"]["url"]
    assert here.chat([part, {"type": "text", "text": "What?"}]).status_code == 200


def test_settings_reach_the_engine(here):
    here.chat(
        temperature=0.5, top_p=0.9, top_k=7, seed=3, stop="x", max_completion_tokens=4, presence_penalty=1,
        frequency_penalty=-1, logit_bias={"5": -100}, min_p=0.1, repetition_penalty=1.1, user="me",
    )  # fmt: skip
    _, sampling = here.vlm.asked[0]
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.5, 0.9, 7, 3)
    assert (sampling.stop, sampling.max_tokens, sampling.logit_bias) == (("x",), 4, {5: -100})
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.min_p) == (1, -1, 0.1)
    here.chat(stop=["a", "b"], max_tokens=2, top_k=-1)
    assert here.vlm.asked[1][1].stop == ("a", "b")


def test_the_limit_of_tokens_is_told(here):
    told = here.chat(max_tokens=2).json()
    assert told["choices"][0]["finish_reason"] == "length"
    assert told["usage"]["completion_tokens"] == 2


def test_several_answers(here):
    told = here.chat(n=3, seed=5, max_tokens=2).json()
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2]
    assert sorted(sampling.seed for _, sampling in here.vlm.asked) == [5, 6, 7]
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (7, 6)
    *chunks, _ = events(here.chat(n=2, stream=True))
    for number in range(2):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == number]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in mine) == TEXT
        assert mine[-1]["finish_reason"] == "stop"


def test_log_probabilities(here):
    content = here.chat(logprobs=True, top_logprobs=2, max_tokens=2).json()["choices"][0]["logprobs"][
        "content"
    ]
    assert [told["token"] for told in content] == ["A", "r"]
    assert content[0]["bytes"] == [65]
    assert [top["logprob"] for top in content[0]["top_logprobs"]] == [-0.5, -9999.0]
    *chunks, _ = events(here.chat(logprobs=True, stream=True, max_tokens=3))
    scored = [
        chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["delta"].get("content")
    ]
    assert [score["content"][0]["token"] for score in scored] == ["A", "r", "s"]


def test_plain_completions(here):
    told = here.post(
        "/v1/completions", {"model": "fake", "prompt": ["One", "Two"], "n": 2, "logprobs": 1}
    ).json()
    assert told["object"] == "text_completion"
    assert [(choice["index"], choice["text"]) for choice in told["choices"]] == [(n, TEXT) for n in range(4)]
    assert told["choices"][0]["logprobs"]["tokens"][0] == "A"
    assert told["usage"]["prompt_tokens"] == 14
    *chunks, done = events(here.post("/v1/completions", {"model": "fake", "prompt": "One", "stream": True}))
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == TEXT
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_the_models(here):
    (model,) = here.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["context"], model["state"]) == ("fake", "model", 100, "ready")
    assert model["pictures_per_request"] == 16
    assert len(model["preprocessing"]) == 16
    assert here.get("/v1/models/fake").json() == model


def test_a_model_that_cannot_be_loaded():
    def fail(_source: str | None) -> Any:
        raise ConfigError("this will not do")

    here = Here()
    other = Served("other/model", "x")
    here.registry = Registry([*here.registry, other])
    here.app = create_app(here.registry, Settings())
    response = here.post("/v1/chat/completions", {**chat(), "model": "other/model"})
    assert "still loading" in error(response, 503, "model_not_ready")
    assert response.headers["retry-after"]
    assert here.get("/ready").status_code == 503
    other.open(fail)
    response = here.post("/v1/chat/completions", {**chat(), "model": "other/model"})
    assert "this will not do" in error(response, 503, "model_not_ready")
    assert here.get("/v1/models/other/model").json()["reason"] == "this will not do"
    assert here.chat().status_code == 200


def test_operations(here):
    assert here.get("/health").json() == {"status": "alive"}
    assert here.get("/ready").json() == {"status": "ready", "models": {"fake": "ready"}}
    assert here.get("/version").json()["version"]
    assert "/v1/chat/completions" in here.get("/openapi.json").json()["paths"]
    here.chat([image(), {"type": "text", "text": "?"}])
    assert here.metric("beholder_generation_tokens_total") == len(WORDS)
    assert here.metric("beholder_prompt_tokens_total") == 10
    assert here.metric("beholder_pictures_total") == 1
    assert here.metric("beholder_time_to_first_token_seconds_count") == 1
    assert here.metric("beholder_requests_running") == 0


def test_request_ids(here):
    assert here.get("/health", **{"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert here.get("/health", **{"x-request-id": "bad id\t"}).headers["x-request-id"].startswith("req_")


def test_keep_alives():
    here = Here(keep_alive_seconds=0.05)
    response = here.chat("late", stream=True)
    assert response.text.startswith(": keep-alive\n\n")
    assert events(response)[-1] == "[DONE]"


def test_no_word_of_a_conversation_is_logged(here, caplog):
    with caplog.at_level(logging.DEBUG):
        here.chat("sesame", user="somebody")
        here.chat("sesame", temperature=9)
        here.post("/v1/chat/completions", {**chat("sesame"), "model": "nobody"})
        here.get("/v1/models/nobody?sesame")
    ours = [record for record in caplog.records if record.name.startswith("beholder")]
    assert len(ours) >= 4
    assert not any("sesame" in repr(vars(record)) for record in ours)
