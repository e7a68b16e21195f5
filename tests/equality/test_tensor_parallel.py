"""Two processes that share each layer give the logits of one: torchrun with gloo, on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("tensor_parallel_program.py")
NAMES = ("llava", "360vl", "cogvlm")
MOST = 1e-4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_logits_of_two_processes_are_those_of_one():
    root = PROGRAM.parents[2]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            "--master-port", str(free_port()), str(PROGRAM), *NAMES,
        ],
        cwd=root, env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert sorted((name, rank) for name, rank, _, _ in results) == sorted(
        (name, rank) for name in NAMES for rank in ("0", "1")
    )
    for name, _, far, shares in results:
        assert float(far) < MOST, name
        assert shares == "2", f"{name} is whole in every process"
