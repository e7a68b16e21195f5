"""The native code compiled for 64-bit ARM and run by an emulator, under AddressSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from beholder.generation.native.build import build

DRIVER_FILES = sorted(Path(__file__).parent.glob("native_*.cpp"))
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"  # where Debian keeps those of that machine
MISSING = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
FLAGS = ("-O1", "-g1", "-fPIE", "-fsanitize=address")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"there is no {' and no '.join(MISSING)} (Debian: g++-aarch64-linux-gnu, qemu-user)",
    ),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", COMPILER)
        return build(tmp_path_factory.mktemp("neon") / "driver", flags=FLAGS, extra=DRIVER_FILES)


def emulated(driver: Path, *arguments: str, processor: str = "max") -> subprocess.CompletedProcess[str]:
    """Leaks are not looked for: that needs a debugger's rights, which the emulator has not."""
    command = [EMULATOR, "-cpu", processor, "-L", LIBRARIES, str(driver), *arguments]
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_arm_levels_agree_with_the_portable_one(driver):
    done = emulated(driver)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "was accepted" not in done.stdout
    told = [line.split()[0] for line in done.stdout.splitlines()]
    assert {name: told.count(name) for name in told} == {"neon": 36, "neon_plain": 36, "portable": 36}


@pytest.mark.parametrize(
    ("processor", "levels"),
    [("cortex-a76", "neon neon_plain portable"), ("cortex-a72", "neon_plain portable")],
)
def test_dot_products_are_used_where_the_processor_has_them(driver, processor, levels):
    done = emulated(driver, "levels", processor=processor)
    assert (done.returncode, done.stdout, done.stderr) == (0, levels + "\n", "")
