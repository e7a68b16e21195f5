"""Ray's processes on this machine: the head of a cluster, or a worker's node. No ray is imported here."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from beholder.core.errors import BeholderError
from beholder.serving.addresses import is_loopback

log = logging.getLogger("beholder.serve")

STARTED = "Ray runtime started"
START_SECONDS = 300.0
STOP_SECONDS = 15.0
# Ray's own settings; what somebody has set in the environment stays.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    # A head would ask for a token wherever one lies in the home folder, and who joins it would send none.
    "RAY_AUTH_MODE": "disabled",
    "RAY_agent_register_timeout_ms": "120000",  # its agents are slow to start where others need the cores
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",  # a replica gives way to nobody; Ray would run it at 15
    # A node that is gone is noticed within two seconds.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    # How long a replica may take to say how much it has to do; Serve's own 0.1 is short where cores are few.
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1",
    "RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "5",
    "RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S": "0.1",  # who waits for a replica asks again after so long at most
    # Nothing here blocks an event loop, so that threads between Serve and us would only cost.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.2",  # two looks for each question whether a replica is well
}
MIB = 2**20


class Node:
    """`ray start` as a child process, with all that it starts in one group."""

    def __init__(self, arguments: Sequence[str], *, ends_with_us: bool) -> None:
        with_us = ["--with", str(os.getpid())] if ends_with_us else []
        command = [sys.executable, "-m", "beholder.serving.cluster.start", *with_us, *arguments, "--block"]
        self.arguments = tuple(arguments)
        self._log = tempfile.NamedTemporaryFile("w+", prefix="beholder-ray-", suffix=".log", delete=False)
        self.process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**ENVIRONMENT, **os.environ}, start_new_session=True,
        )  # fmt: skip

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Until Ray says that it has started; an error with its last words if it does not."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.is_alive:
            if STARTED in Path(self._log.name).read_text("utf-8", "replace"):
                return
            time.sleep(0.1)
        said = Path(self._log.name).read_text("utf-8", "replace").strip().splitlines()
        self.stop()
        raise BeholderError(
            f"Ray did not start: {said[-1] if said else 'it said nothing'} (see {self._log.name})"
        )

    def stop(self) -> None:
        """End it and everything that it started."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()


def head(address: str, port: int) -> Node:
    """The head of a new cluster; it computes nothing. It outlives us if we are killed, to be joined again."""
    arguments = [
        "--head", f"--node-ip-address={address}", f"--port={port}", "--num-cpus=0", "--num-gpus=0",
        "--include-dashboard=false", "--no-monitor", "--include-log-monitor=false",
        f"--object-store-memory={512 * MIB}", f"--temp-dir={ray_folder()}", "--disable-usage-stats",
    ]  # fmt: skip
    return Node(arguments, ends_with_us=False)


def member(head_address: str, worker: str, slots: int, cpus: int, gpus: float) -> Node:
    """A node that joins, with room for `slots` replicas of a worker."""
    own = own_address(head_address)
    arguments = [
        f"--address={head_address}", f"--node-ip-address={own}", f"--num-cpus={slots * cpus}",
        f"--num-gpus={math.ceil(slots * gpus)}", f"--resources={json.dumps({resource(worker): slots})}",
        "--include-log-monitor=false", f"--object-store-memory={256 * MIB}", "--disable-usage-stats",
    ]  # fmt: skip
    return Node(arguments, ends_with_us=True)


def resource(worker: str) -> str:
    """What a replica of this worker needs and only its node has."""
    return f"beholder_{worker}"


def ray_folder() -> Path:
    """Where Ray keeps its sockets, whose paths must be short."""
    return Path(tempfile.gettempdir()) / f"beholder-ray-{os.getuid()}"


def own_address(other: str) -> str:
    """The address of this machine that the other one sees."""
    host, _, port = other.rpartition(":")
    if is_loopback(host):
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))  # sends nothing; only chooses the way
        return str(probe.getsockname()[0])


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])
