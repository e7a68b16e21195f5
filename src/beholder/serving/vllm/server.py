"""A vLLM server as a child process, and a model of ours on top of it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
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
from beholder.serving.vllm.names import EXPERTS_ARCHITECTURE, KINDS

if TYPE_CHECKING:
    from beholder.api import VLM

log = logging.getLogger("beholder.serve")

PYTHON_VARIABLE = "BEHOLDER_VLLM_PYTHON"
SERVED = "language-model"
EAGER = "enforce-eager"
READY_SECONDS = 3600.0
ERROR = re.compile(r"^(\([^)]*\) )?\s*[\w.]*(Error|Exception): ")  # the end of a traceback
# What we decide ourselves; giving one of these would change what answers are.
OURS = (
    "--model", "--served-model-name", "--host", "--port", "--uds", "--root-path", "--api-key", "--tokenizer",
    "--enable-prompt-embeds",
)  # fmt: skip
KEEPER = Path(__file__).with_name("keeper.py")
STOP_SECONDS = 45.0  # the keeper's patience, and some


def read_arguments(given: Sequence[str]) -> tuple[str, ...]:
    """`tensor-parallel-size=8` and switches, with or without dashes, as vLLM takes them; ours are refused."""
    arguments = tuple(f"--{text.lstrip('-')}" for text in given)
    for argument in arguments:
        if argument.partition("=")[0].replace("_", "-") in OURS:
            raise ConfigError(f"{argument} is chosen by Beholder; leave it out")
    return arguments


class VLLMServer:
    """`python -m vllm.entrypoints.openai.api_server` on the loopback address, for one language model.

    It ends with this process, however that ends; `remove` is a folder that nobody needs then. What it said
    stays only where it failed.
    """

    def __init__(
        self, folder: Path, arguments: Sequence[str] = (), *, dtype: str = "auto", remove: Path | None = None
    ) -> None:
        self._remove = remove
        handle, name = tempfile.mkstemp(prefix="beholder-vllm-", suffix=".log")
        self._log = Path(name)
        port = _free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [
            vllm_python(), "-m", "vllm.entrypoints.openai.api_server", f"--model={folder}",
            f"--served-model-name={SERVED}", "--host=127.0.0.1", f"--port={port}", "--enable-prompt-embeds",
            "--enable-prompt-tokens-details", f"--dtype={dtype}", *read_arguments(arguments),
        ]  # fmt: skip
        with os.fdopen(handle, "wb") as told:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), *command],
                stdout=told, stderr=subprocess.STDOUT, stdin=subprocess.PIPE,
                env={"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **os.environ}, start_new_session=True,
            )  # fmt: skip

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def wait(self, seconds: float = READY_SECONDS) -> None:
        """Until it answers; an error with its last words if it ends before."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.is_alive:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/health", trust_env=False).status_code == 200:
                    return
            time.sleep(0.5)
        late = f"it did not answer within {seconds:g} s" if self.is_alive else self.last_words()
        log_file = self._log
        self._end()
        raise BeholderError(f"vLLM did not start: {late} (see {log_file})")

    def last_words(self) -> str:
        """The last error that it told of, and not that there was one; or else its last line."""
        said = [line for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        errors = [line for line in said if ERROR.match(line) and "root cause above" not in line]
        return (errors or said or ["it said nothing"])[-1]

    def stop(self) -> None:
        """End it with all its processes, and remove what was made for it."""
        was_alive = self.is_alive
        self._end()
        if was_alive:
            self._log.unlink(missing_ok=True)

    def _end(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self._remove is not None:
            shutil.rmtree(self._remove, ignore_errors=True)


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
    server = start_server(model, folder, arguments)
    try:
        server.wait()
        make = partial(VLLMEngine, address=server.address, served=SERVED, is_alive=lambda: server.is_alive)
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


def start_server(model: Any, folder: Path, arguments: Sequence[str] = ()) -> VLLMServer:
    """vLLM with the language model of `model`, whose checkpoint lies in `folder`; it may not answer yet."""
    text = model.config.get_text_config()
    rows = min(_stored_rows(folder), text.vocab_size)
    made = Path(tempfile.mkdtemp(prefix="beholder-vllm-"))
    try:
        shown = write_folder(made / "model", folder, text, rows)
        if KINDS[text.model_type] == EXPERTS_ARCHITECTURE:
            arguments = (*arguments, EAGER)  # which expert a row needs is not known before it is there
        dtype = str(model.dtype).removeprefix("torch.")
        return VLLMServer(shown, arguments, dtype=dtype, remove=made)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


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
