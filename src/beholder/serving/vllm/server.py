"""A vLLM server as a child process, and a model of ours on top of it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from beholder.core.errors import BeholderError, ConfigError, MissingExtraError
from beholder.serving.vllm.engine import VLLMEngine, forget_language_model
from beholder.serving.vllm.folder import write_folder

if TYPE_CHECKING:
    from beholder.api import VLM

log = logging.getLogger("beholder.serve")

PYTHON_VARIABLE = "BEHOLDER_VLLM_PYTHON"
SERVED = "language-model"
READY_SECONDS = 3600.0
# What we decide ourselves; giving one of these would change what answers are.
OURS = ("--model", "--served-model-name", "--host", "--port", "--enable-prompt-embeds", "--tokenizer")


def read_arguments(given: Sequence[str]) -> tuple[str, ...]:
    """`tensor-parallel-size=8` and switches, with or without dashes, as vLLM takes them; ours are refused."""
    arguments = tuple(f"--{text.lstrip('-')}" for text in given)
    for argument in arguments:
        if argument.partition("=")[0] in OURS:
            raise ConfigError(f"{argument} is chosen by Beholder; leave it out")
    return arguments


class VLLMServer:
    """`python -m vllm.entrypoints.openai.api_server` on the loopback address, for one language model."""

    def __init__(self, folder: Path, arguments: Sequence[str] = (), *, dtype: str = "auto") -> None:
        self._log = Path(tempfile.mkstemp(prefix="beholder-vllm-", suffix=".log")[1])
        port = _free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [
            vllm_python(), "-m", "vllm.entrypoints.openai.api_server", f"--model={folder}",
            f"--served-model-name={SERVED}", "--host=127.0.0.1", f"--port={port}", "--enable-prompt-embeds",
            "--enable-prompt-tokens-details", f"--dtype={dtype}", *read_arguments(arguments),
        ]  # fmt: skip
        with self._log.open("wb") as told:
            self.process = subprocess.Popen(
                command, stdout=told, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **os.environ}, start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float = READY_SECONDS) -> None:
        """Until it answers; an error with its last words if it ends before."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/health", trust_env=False).status_code == 200:
                    return
            time.sleep(0.5)
        said = [line for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        self.stop()
        raise BeholderError(
            f"vLLM did not start: {said[-1] if said else 'it said nothing'} (see {self._log})"
        )

    def stop(self) -> None:
        """End it with all its processes."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def vllm_python() -> str:
    """The Python that has vLLM: that of BEHOLDER_VLLM_PYTHON, an environment of its own, or this one."""
    given = os.environ.get(PYTHON_VARIABLE)
    if given:
        if shutil.which(given) is None:
            raise ConfigError(f"{PYTHON_VARIABLE} is {given!r}, which is no program; give a Python with vLLM")
        return given
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise MissingExtraError.of(
            f"--engine vllm (or {PYTHON_VARIABLE}=PYTHON with vLLM in it)", "serve,vllm"
        )
    return sys.executable


def load_on_vllm(
    source: str | None,
    arguments: Sequence[str] = (),
    *,
    device: str | None = None,
    dtype: str | None = None,
    template: str | None = None,
) -> VLM:
    """Open a model with its tower here and its language model in a vLLM server that is started for it."""
    from beholder.api import VLM, checkpoint_folder, with_template
    from beholder.checkpoints.loader import open_model
    from beholder.core.device import resolve_device, resolve_dtype
    from beholder.families import identify_folder

    folder = checkpoint_folder(source)
    family = identify_folder(folder)
    place = resolve_device(device)
    kind = resolve_dtype(None, place) if place.type != "cpu" and dtype in (None, "auto") else dtype
    # Opened in the machine's memory, because the whole need not fit on the device where the tower goes.
    model: Any = open_model(folder, family, device="cpu", dtype=kind)
    forget_language_model(model)
    model.to(place)
    opens: Any = family.processor_class()
    processor = opens.from_pretrained(folder)
    if template is not None:
        processor = with_template(processor, template, family.title)
    text = model.config.get_text_config()
    rows = min(_stored_rows(folder), text.vocab_size)
    shown = write_folder(Path(tempfile.mkdtemp(prefix="beholder-vllm-")) / "model", folder, text, rows)
    server = VLLMServer(shown, arguments, dtype=str(model.dtype).removeprefix("torch."))
    try:
        server.wait()
        make = partial(VLLMEngine, address=server.address, served=SERVED)
        vlm = VLM(model, processor, replace(family, engine=make), source or folder.name)
    except BaseException:
        server.stop()
        raise
    close = vlm.close

    def close_both() -> None:
        close()
        server.stop()

    vlm.close = close_both
    return vlm


def _stored_rows(folder: Path) -> int:
    """How many tokens the stored embedding has; ours may be padded by the picture's placeholder."""
    from beholder.checkpoints.reader import read_contents
    from beholder.serving.vllm.names import text_name

    for name, header in read_contents(folder).tensors.items():
        if text_name(name) == "model.embed_tokens.weight":
            return header.shape[0]
    raise ConfigError(f"{folder} has no language model under a name that vLLM is told; convert it --to ours")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])
