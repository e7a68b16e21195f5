"""`beholder serve` as a process with the built-in model, for tests that need a real server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
import pytest

KEY = "a-key-for-this-test"


class Running:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.lines: list[str] = []
        self.reading = threading.Thread(target=self._read, daemon=True)
        self.reading.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as told:
            self.lines.extend(told)

    def wait_until_ready(self) -> None:
        until = time.monotonic() + 400
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(self.url + "/ready", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        pytest.fail("it did not become ready: " + "".join(self.lines))

    def client(self) -> openai.OpenAI:
        plain = httpx.Client(trust_env=False)
        return openai.OpenAI(base_url=self.url + "/v1", api_key=KEY, max_retries=0, http_client=plain)

    def metric(self, name: str) -> float:
        lines = httpx.get(self.url + "/metrics", trust_env=False).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))


@contextmanager
def serving(*arguments: str) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "beholder", "serve", *arguments, "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "BEHOLDER_API_KEYS": KEY}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    running = Running(process, port)
    try:
        running.wait_until_ready()
        yield running
    finally:
        process.kill()
        process.wait()
        running.reading.join()
