"""`beholder controller` and `beholder worker` as processes: a small Ray cluster on the loopback address."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.test_serve import PICTURE, words

MODEL = "beholder-mini"
WAIT_SECONDS = 600


@contextmanager
def process(folder: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        command = [sys.executable, "-m", "beholder", name, *arguments]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HOME": str(folder)}
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def until(what: Callable[[], Any], folder: Path, seconds: float = WAIT_SECONDS) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(httpx.TransportError):
            if found := what():
                return found
        time.sleep(0.05)
    pytest.fail("\n".join(file.read_text()[-3000:] for file in folder.glob("*.log")))


def body(question: str, **fields: Any) -> dict[str, Any]:
    content = [PICTURE, words(question)]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def replicas() -> dict[int, int]:
    """The replicas below this process, with the time that each has computed."""
    found: dict[int, tuple[int, str, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_text()
                found[int(entry.name)] = int(fields[1]), command, int(fields[11])

    def is_ours(pid: int) -> bool:
        while pid in found and pid != os.getpid():
            pid = found[pid][0]
        return pid == os.getpid()

    return {
        pid: used
        for pid, (_, command, used) in found.items()
        if "ray::ServeReplica" in command and is_ours(pid)
    }


def terminators() -> tuple[int, ...]:
    """The tokens that would end an answer."""
    from beholder.families.qh360vl.processing import QH360VLProcessor
    from beholder.mini import FOLDER

    return tuple(QH360VLProcessor.from_pretrained(FOLDER).terminators)


@pytest.mark.slow
def test_a_cluster_from_its_first_worker_to_its_last(tmp_path):
    """Conversations return to their replica, a killed one is told of, and the other one answers."""
    pytest.importorskip("ray")
    (tmp_path / ".ray").mkdir()  # as whoever used Ray for something else has it
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = f"127.0.0.1:{port}"
    state = ("--state", str(tmp_path / "state"), "--ray-port", "0", "--port", str(port), "--no-web")
    share = ("--controller", where, "--replicas", "2", "--cpus", "1", "--device", "cpu")
    with (
        httpx.Client(base_url=f"http://{where}", trust_env=False, timeout=120) as client,
        process(tmp_path, "controller", *state) as controller,
        process(tmp_path, "worker", *share) as worker,
    ):

        def listed() -> list[tuple[str, int]]:
            models = client.get("/v1/models").json()["data"]
            return [(model["state"], model["replicas"]["ready"]) for model in models]

        def ask(question: str) -> Any:
            response = client.post("/v1/chat/completions", json=body(question))
            assert response.status_code == 200, response.text
            return response.json()

        until(lambda: listed() == [("ready", 2)], tmp_path)
        wanted = ask("What shape is red?")["choices"][0]["message"]["content"]
        again = ask("What shape is red?")
        assert again["choices"][0]["message"]["content"] == wanted
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0

        before = replicas()
        assert len(before) == 2
        endless = {str(token): -100 for token in terminators()}
        long = body("Describe.", stream=True, n=4, max_tokens=1500, temperature=2.0, logit_bias=endless)
        with client.stream("POST", "/v1/chat/completions", json=long) as stream:
            events = (line for line in stream.iter_lines() if line.startswith("data: "))
            for _ in range(8):
                assert "error" not in next(events)
            busy = max(before, key=lambda pid: replicas().get(pid, 0) - before[pid])
            os.kill(busy, signal.SIGKILL)
            killed = time.monotonic()
            rest = list(events)
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "replica_lost"
        until(lambda: listed() == [("ready", 1)], tmp_path, 20)
        assert time.monotonic() - killed < 20
        assert ask("What shape is red?")["choices"][0]["message"]["content"] == wanted

        worker.terminate()
        assert worker.wait(120) == 0
        assert listed() == []
        assert client.post("/v1/chat/completions", json=body("?")).status_code == 404
        controller.terminate()
        assert controller.wait(60) == 0
    assert not (tmp_path / "state" / "head.json").exists()


def test_bad_arguments(capsys):
    from beholder.cli import main

    assert main(["controller", "--log-format", "xml"]) == 2
    assert main(["worker", "--controller", "127.0.0.1:1", "--replicas", "0"]) == 2
    assert "--replicas" in capsys.readouterr().err
