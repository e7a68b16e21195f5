"""The vLLM engine over a server that decodes what it is sent and answers with the whole model; no vLLM."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.tiny_checkpoint import make_tiny_checkpoint

import beholder
from beholder.core.errors import CapacityError, ConfigError, InputError, MissingExtraError
from beholder.serving.vllm import server as running
from beholder.serving.vllm.engine import VLLMEngine, read_scores, refusal
from beholder.serving.vllm.folder import write_folder
from beholder.serving.vllm.names import TEXT_ARCHITECTURE, text_name, text_weights
from beholder.serving.vllm.server import VLLMServer, read_arguments, vllm_python

PICTURE = Image.effect_noise((40, 30), 60).convert("RGB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, llama3_tokenizer):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), llama3_tokenizer)


@pytest.fixture(scope="module")
def whole(folder):
    return beholder.load(folder, device="cpu", dtype="float32")


class StandIn:
    """vLLM's completions, computed by a whole model; what came in, and what goes wrong."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.breaks_after: int | None = None
        self.says_last = True

    def answer(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        held = io.BytesIO(base64.b64decode(body["prompt_embeds"]))
        seen = torch.load(held, weights_only=True)[None]
        for number in range(body["max_tokens"]):
            with torch.inference_mode():
                token = int(self.model(inputs_embeds=seen).logits[0, -1].argmax())
                seen = torch.cat([seen, self.model.get_input_embeddings()(torch.tensor([[token]]))], dim=1)
            ends = token in body["stop_token_ids"]
            last = ends or number + 1 == body["max_tokens"]
            if number == self.breaks_after:
                return
            choice: dict[str, Any] = {"token_ids": [token] if self.says_last or not ends else []}
            if last:
                choice |= {
                    "finish_reason": "stop" if ends else "length",
                    "stop_reason": token if ends else None,
                }
            yield {"choices": [choice]}
            if last:
                return


@contextmanager
def stand_in(model: Any) -> Iterator[tuple[StandIn, str]]:
    told = StandIn(model)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.bodies.append(body)
            self.send_response(told.status)
            self.end_headers()
            if told.status != 200:
                self.wfile.write(b'{"error": {"message": "too much"}}')
                return
            for event in told.answer(body):
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield told, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def on_vllm(folder, whole) -> Iterator[tuple[StandIn, beholder.VLM]]:
    opened = beholder.load(folder, device="cpu", dtype="float32")
    with stand_in(whole.model) as (told, address):
        make = partial(VLLMEngine, address=address, served="text")
        vlm = beholder.VLM(opened.model, opened.processor, replace(opened.family, engine=make), "tiny")
        try:
            yield told, vlm
        finally:
            vlm.close()


def test_answers_are_those_of_our_own_engine(folder, whole):
    with on_vllm(folder, whole) as (told, vlm):
        for picture, question in ((PICTURE, "What is it?"), (None, "Say something.")):
            wanted = whole.ask(picture, question, max_tokens=12)
            answer = vlm.ask(picture, question, max_tokens=12)
            assert (answer.text, answer.finish_reason) == (wanted.text, wanted.finish_reason)
            assert answer.usage.completion_tokens == wanted.usage.completion_tokens
        assert told.bodies[0]["temperature"] == 0
        assert told.bodies[0]["stop_token_ids"] == sorted(vlm.processor.terminators)
        # The tower stays, the language model is gone.
        assert len(vlm.model.model.language_model.layers) == 0
        drawn = vlm.ask(PICTURE, "?", max_tokens=3, temperature=0.7, top_k=5, seed=3, logit_bias={7: 1.0})
        assert drawn.usage.completion_tokens <= 3
        sent = told.bodies[-1]
        assert (sent["temperature"], sent["top_k"], sent["seed"], sent["logit_bias"]) == (
            0.7,
            5,
            3,
            {"7": 1.0},
        )


def test_an_end_that_vllm_leaves_out_is_put_back(folder, whole):
    wanted = whole.ask(PICTURE, "What is it?", max_tokens=40)
    with on_vllm(folder, whole) as (told, vlm):
        told.says_last = False
        answer = vlm.ask(PICTURE, "What is it?", max_tokens=40)
    assert (answer.text, answer.finish_reason) == (wanted.text, wanted.finish_reason)
    assert answer.usage.completion_tokens == wanted.usage.completion_tokens


def test_what_goes_wrong_is_told(folder, whole):
    with on_vllm(folder, whole) as (told, vlm):
        told.breaks_after = 1
        with pytest.raises(CapacityError, match="ask again"):
            vlm.ask(None, "What?", max_tokens=5)
        told.status = 400
        with pytest.raises(InputError, match="too much"):
            vlm.ask(None, "What?", max_tokens=5)
        told.status = 503
        with pytest.raises(CapacityError, match="too much"):
            vlm.ask(None, "What?", max_tokens=5)
        with pytest.raises(InputError, match="cannot be held to a format"):
            vlm.submit("What?", mask=lambda _ids: None)
    assert isinstance(refusal(500, b"<html>"), beholder.core.errors.BeholderError)


def test_scores_are_read():
    told = {
        "tokens": ["token_id:5"], "token_logprobs": [-0.5],
        "top_logprobs": [{"token_id:6": -1.0, "token_id:5": -0.5}],
    }  # fmt: skip
    (score,) = read_scores(told)
    assert (score.token, score.logprob, score.likeliest) == (5, -0.5, ((5, -0.5), (6, -1.0)))
    assert read_scores(None) == []


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.layers.1.x", "model.layers.1.x"),
        ("language_model.model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.norm.weight", "model.norm.weight"),
        ("model.vision_tower.vision_model.encoder.layers.0.x", None),
        ("model.mm_projector.0.weight", None),
        ("vision_model.encoder.layers.0.x", None),
        ("mlp1.0.weight", None),
    ],
)
def test_which_tensors_are_the_language_models(name, inside):
    assert text_name(name) == inside


def test_the_folder_for_vllm_holds_every_parameter(folder, whole, tmp_path):
    config = whole.model.config.get_text_config()
    written = write_folder(tmp_path / "model", folder, config, 420)
    told = json.loads((written / "config.json").read_text())
    assert (told["architectures"], told["vocab_size"], told["model_type"]) == (
        [TEXT_ARCHITECTURE],
        420,
        "llama",
    )
    from beholder.checkpoints.reader import read_contents

    found = {name for name, _ in text_weights((name, None) for name in read_contents(written).tensors)}
    wanted = {f"model.{name}" for name, _ in whole.model.model.language_model.named_parameters()}
    assert found == wanted | {"lm_head.weight"}
    config = type(config).from_dict(config.to_dict() | {"model_type": "llama"})
    config.model_type = "mamba"
    with pytest.raises(ConfigError, match="mamba"):
        write_folder(tmp_path / "other", folder, config, 420)


def test_arguments_and_pythons(monkeypatch):
    assert read_arguments(["tensor-parallel-size=8", "--enforce-eager"]) == (
        "--tensor-parallel-size=8", "--enforce-eager",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="chosen by Beholder"):
        read_arguments(["port=1"])
    monkeypatch.setenv(running.PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(ConfigError, match="no program"):
        vllm_python()
    monkeypatch.delenv(running.PYTHON_VARIABLE)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError):
        vllm_python()


def test_a_server_that_ends_is_told_with_its_last_words(monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho first\necho 'no such device'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv(running.PYTHON_VARIABLE, str(program))
    with pytest.raises(beholder.core.errors.BeholderError, match="no such device"):
        VLLMServer(tmp_path).wait()


def test_arguments_of_ours_are_refused_however_they_are_written():
    for given in ("served_model_name=x", "--api-key=secret", "-enable_prompt_embeds"):
        with pytest.raises(ConfigError, match="chosen by Beholder"):
            read_arguments([given])


def _script(tmp_path, monkeypatch, text: str) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv(running.PYTHON_VARIABLE, str(program))


def test_the_error_is_told_and_not_what_follows_it(monkeypatch, tmp_path):
    _script(tmp_path, monkeypatch, "echo 'ValueError: no room'; echo '[rank0] shutting down'; exit 1")
    with pytest.raises(beholder.core.errors.BeholderError, match="no room"):
        VLLMServer(tmp_path).wait()


def test_a_server_ends_with_all_that_it_started(monkeypatch, tmp_path):
    """Also where it is deaf to SIGTERM, and what was made for it is removed."""
    _script(tmp_path, monkeypatch, f"sleep 600 & echo $! > {tmp_path}/child; sleep 600")
    made = tmp_path / "made"
    made.mkdir()
    server = VLLMServer(made, remove=made)
    child = _until_written(tmp_path / "child")
    assert server.is_alive
    assert Path(f"/proc/{child}").exists()
    server.stop()
    assert not server.is_alive
    _until_gone(child)
    assert not made.exists()


def test_a_server_ends_when_its_owner_is_killed(monkeypatch, tmp_path):
    _script(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/child; exec sleep 600")
    source = (
        "import pathlib, time; from beholder.serving.vllm.server import VLLMServer; "
        f"server = VLLMServer(pathlib.Path({str(tmp_path)!r})); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", source]) as owner:
        child = _until_written(tmp_path / "child")
        owner.kill()
    _until_gone(child)


def _until_written(file: Path) -> int:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if file.exists() and (text := file.read_text().strip()):
            return int(text)
        time.sleep(0.05)
    pytest.fail(f"{file} was not written")


def _until_gone(pid: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there")
