"""A controller and its workers as processes on this machine's loopback address, for `cluster.py`."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageOps
from transformers import AutoProcessor, GenerationConfig

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parent / "examples" / "shapes.png"
QUESTIONS = (
    "What shape is red?", "How many shapes are there?", "Describe the picture.", "What colour is the circle?",
    "Is there a star?", "What is left of the red shape?", "What is the largest shape?", "Is anything green?",
)  # fmt: skip
READY_SECONDS = 900.0
# These are in their command lines.
RAY = ("raylet/raylet", "gcs_server", "ray::ServeController", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
MARK = 12  # pixels; smaller ones may vanish when the picture is made smaller


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def processor_seconds(processes: Iterable[int]) -> float:
    """What processes have computed so far."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@cache
def picture(number: int) -> str:
    """The example picture turned and mirrored in one of eight ways, as a data URL; from 8 on with a mark."""
    with Image.open(PICTURE) as opened:
        turned = opened.convert("RGB").rotate(90 * (number % 4))
    made = ImageOps.mirror(turned) if number % 8 > 3 else turned
    if mark := number // 8:
        made.paste((mark % 256, mark // 256 % 256, 99), (0, 0, MARK, MARK))
    held = io.BytesIO()
    made.save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def terminators(folder: Path) -> list[int]:
    """The tokens that end an answer of a model."""
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    of_processor = getattr(AutoProcessor.from_pretrained(folder), "terminators", ())
    return sorted({*(ends if isinstance(ends, list) else [ends]), *of_processor})


def request(model: str, question: str, about: int = 0, **fields: Any) -> dict[str, Any]:
    """The body of a question about the example picture, or one of its variations."""
    content = [
        {"type": "image_url", "image_url": {"url": picture(about)}},
        {"type": "text", "text": question},
    ]
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


@dataclass
class Cluster:
    """The processes that were started here, and no others."""

    folder: Path
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, name: str, *arguments: str) -> None:
        """`beholder ARGUMENTS` under a name; its log lies in the folder."""
        log = (self.folder / f"{name}.log").open("ab")
        command = [sys.executable, "-m", "beholder", *arguments]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        self.processes[name] = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    def controller(self) -> None:
        """Start the controller, or start it again."""
        state = str(self.folder / "state")
        self.start(
            "controller",
            "controller",
            "--port",
            str(self.port),
            "--ray-port",
            "0",
            "--state",
            state,
            "--no-web",
        )

    def worker(self, name: str, model: str, *arguments: str) -> None:
        """Start a worker that serves the built-in model under a name."""
        where = f"127.0.0.1:{self.port}"
        self.start(name, "worker", "--controller", where, "--model", model, "--device", "cpu", *arguments)

    def listed(self) -> dict[str, dict[str, Any]]:
        """The models by name; none while the controller is away."""
        try:
            told = httpx.get(f"{self.url}/v1/models", trust_env=False, timeout=5).json()["data"]
        except httpx.HTTPError:
            return {}
        return {model["id"]: model for model in told}

    def wait(self, wanted: dict[str, int], seconds: float = READY_SECONDS) -> float:
        """Until each model has that many replicas; how long that took."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            listed = self.listed()
            if all(
                listed.get(name, {}).get("replicas", {}).get("ready") == count
                for name, count in wanted.items()
            ):
                return time.monotonic() - start
            time.sleep(0.1)
        logs = "\n".join(file.read_text()[-2000:] for file in self.folder.glob("*.log"))
        raise SystemExit(f"{wanted} did not come up: {self.listed()}\n{logs}")

    def descendants(self, name: str, mark: str) -> list[int]:
        """Processes below one that was started here whose command has the mark in it."""
        parents: dict[int, int] = {}
        marked: set[int] = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    command = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if mark in command:
                        marked.add(int(entry.name))
        top = self.processes[name].pid

        def is_below(pid: int) -> bool:
            while pid and pid != top:
                pid = parents.get(pid, 0)
            return pid == top

        return sorted(pid for pid in marked if is_below(pid))

    def replicas(self, name: str) -> list[int]:
        """The replicas of a worker."""
        return self.descendants(name, "ray::ServeReplica")

    def parts(self, workers: Iterable[str]) -> dict[str, list[int]]:
        """The processes that have a part in an answer: who gives it, who brings it, and Ray's own."""
        names = ["controller", *workers]
        return {
            "answering": [process for name in workers for process in self.replicas(name)],
            "controller": [self.processes["controller"].pid],
            "Ray": [process for name in names for mark in RAY for process in self.descendants(name, mark)],
        }

    def kill_head(self) -> None:
        """End the controller and Ray's head without a goodbye."""
        told = json.loads((self.folder / "state" / "head.json").read_text())
        self.processes["controller"].kill()
        self.processes["controller"].wait()
        os.killpg(told["pid"], signal.SIGKILL)

    def close(self) -> None:
        """Workers first, in order, then the controller; what does not end is killed."""
        for name in sorted(self.processes, key=lambda name: name == "controller"):
            process = self.processes[name]
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster in a folder of its own, ended with the block."""
    with tempfile.TemporaryDirectory(prefix="beholder-cluster-") as folder:
        made = Cluster(Path(folder))
        try:
            made.controller()
            yield made
        finally:
            made.close()
