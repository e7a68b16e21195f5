"""`transformers serve` in a process of its own over a folder, for `serving_speed.py`.

Run as a program it is `transformers serve` that knows our model types too. Folders of types that transformers
has itself are served by its own command, with its own classes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from beholder.core.errors import BeholderError

STARTING_SECONDS = 300.0
NAME = "transformers serve"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@contextmanager
def serving(folder: Path, dtype: str, threads: int) -> Generator[int]:
    """The port of a server over the folder, which ends with the block."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="beholder-peer-") as place:
        log = Path(place) / "log"
        program = ["-m", "transformers.cli.transformers"] if is_stock(folder) else [__file__]
        command = [sys.executable, *program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--device", "cpu", "--dtype", dtype]
        given = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
        with log.open("wb") as told:
            process = subprocess.Popen(command, stdout=told, stderr=told, env=given)
        try:
            _wait(port, process, log)
            yield port
        finally:
            process.kill()
            process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise BeholderError(f"{NAME} did not start: {log.read_text('utf-8', 'replace')[-1500:]}")


def body(folder: Path, content: list[dict[str, Any]], tokens: int, ends: list[int]) -> dict[str, Any]:
    """A request of exactly so many tokens."""
    settings = {
        "max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "eos_token_id": ends,
        "pad_token_id": 0,
    }  # fmt: skip
    messages = [{"role": "user", "content": content}]
    told = {"model": str(folder), "messages": messages, "stream": True, "max_tokens": tokens}
    return told | {"generation_config": json.dumps(settings)}


def is_stock(folder: Path) -> bool:
    """Whether transformers alone opens the folder as a model that takes pictures."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    return (
        json.loads((folder / "config.json").read_text())["model_type"]
        in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    )


def make_known(folder: Path) -> None:
    """Enter the model's class where `transformers serve` looks for those that take pictures."""
    from transformers import AutoConfig, AutoModelForMultimodalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    import beholder  # noqa: F401  the Auto classes know our types after this

    config = AutoConfig.from_pretrained(folder)
    kind: Any = AutoModelForMultimodalLM._model_mapping[type(config)]
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[config.model_type] = kind.__name__


def main() -> None:
    """`transformers serve`, started as its command does."""
    from transformers.cli.transformers import main as transformers_main

    make_known(Path(sys.argv[2]))
    transformers_main()


if __name__ == "__main__":
    main()
