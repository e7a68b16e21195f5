"""Runs `ray start` in a process of its own: python -m beholder.serving.cluster.start [--with PID] ARGUMENTS

Three things are different from Ray's own command. A loopback address stays one: Ray would replace 127.0.0.1
by an outward address and open its ports to the network. What nobody here uses and would run code for whoever
asks (the client server, the dashboard's agent for jobs) is left out. `--with` ends the node with a process.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1


def keep_to_loopback() -> None:
    """Let 127.0.0.1 mean 127.0.0.1, in this process."""
    from ray._private import services

    module: Any = services
    module.resolve_ip_for_localhost = lambda host: host


def leave_out_what_is_not_used() -> None:
    """Let Ray believe that the packages of its client server and dashboard are not installed."""
    import ray._private.utils
    from ray.scripts import scripts

    modules: Any = (scripts, ray._private.utils)
    modules[0].get_ray_client_dependency_error = lambda: "not used"
    modules[1].get_dashboard_dependency_error = lambda: "not used"


def end_with(parent: int) -> None:
    """Get SIGTERM when the process that started this one is gone, even if it was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it went before the line above
        raise SystemExit(1)


def main() -> None:
    """Become `ray start`."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--with"]:
        end_with(int(arguments[1]))
        arguments = arguments[2:]
    from ray.scripts.scripts import main as ray

    keep_to_loopback()
    leave_out_what_is_not_used()
    sys.argv = ["ray", "start", *arguments]
    ray()


if __name__ == "__main__":
    main()
