"""The native code under AddressSanitizer and UndefinedBehaviorSanitizer, by a driver without Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from beholder.generation.native.build import build

DRIVER_FILES = sorted(Path(__file__).parent.glob("native_*.cpp"))
SANITIZERS = ("-O1", "-g1", "-fPIE", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.slow
def test_driver_runs_clean(tmp_path):
    """Without a compiler this fails and says so: nobody has looked at the memory then."""
    program = build(tmp_path / "driver", flags=SANITIZERS, extra=DRIVER_FILES)
    done = subprocess.run([program], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "was accepted" not in done.stdout
    assert done.stdout.count("portable") == 3 * 12
