"""Compiles the native decode step: `python -m beholder.generation.native.build`.

The package's own build calls it too, before anything is installed, so only the standard library is imported.
The result carries a digest of its sources and flags: what was built from others is never loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "source"
LIBRARY = SOURCES.parent / "_decode.so"
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wno-psabi")
# What a processor of each level has; on others than x86-64 there is only the portable one.
LEVELS = {
    "avx512": (
        "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16",
        "-mavx2", "-mfma", "-Wno-uninitialized", "-Wno-maybe-uninitialized",  # GCC 12, of its headers
    ),
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
}  # fmt: skip
X86 = {"x86_64", "amd64"}
COMMON = ("attention", "interface", "memory", "packed", "threads", "trunk")


class BuildError(RuntimeError):
    """The native decode step cannot be compiled here; the message says why."""


def digest(extra: Sequence[str] = ()) -> str:
    """What the sources and flags add up to."""
    total = hashlib.sha256(repr((FLAGS, LEVELS, tuple(extra))).encode())
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".cpp", ".h"):
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:16]


def find_compiler() -> str:
    """The compiler named by CXX, or the first of those known; BuildError where there is none."""
    for name in filter(None, (os.environ.get("CXX"), *COMPILERS)):
        if shutil.which(name):
            return name
    raise BuildError(
        f"there is no C++ compiler here (looked for $CXX, {', '.join(COMPILERS)}); install one, "
        "on Debian and Ubuntu: apt-get install g++"
    )


def levels_here(compiler: str) -> dict[str, tuple[str, ...]]:
    """The levels that this machine's kind of processor may have and this compiler can build."""
    if platform.machine().lower() not in X86:
        return {"portable": ()}
    return {name: flags for name, flags in LEVELS.items() if _accepts(compiler, flags)}


def _accepts(compiler: str, flags: Sequence[str]) -> bool:
    command = [compiler, *flags, "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def build(target: Path = LIBRARY, *, flags: Sequence[str] = (), extra: Sequence[Path] = ()) -> Path:
    """Compile into `target`, atomically, and return it. `flags` come last, `extra` files are compiled along.

    BuildError without a compiler, and with the compiler's words where it fails.
    """
    compiler = find_compiler()
    levels = levels_here(compiler)
    defines = [f'-DSOURCES="{digest(flags)}"', *(f"-DWITH_{level.upper()}" for level in levels)]
    is_program = "-fPIE" in flags
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        units = {path.stem: (path, ()) for path in extra}
        units |= {name: (SOURCES / f"{name}.cpp", ()) for name in COMMON}
        units |= {f"kernels_{name}": (SOURCES / f"kernels_{name}.cpp", own) for name, own in levels.items()}
        objects = []
        for name, (path, own) in units.items():
            objects.append(f"{folder}/{name}.o")
            include = ("-I", str(SOURCES))
            _call([compiler, *FLAGS, *own, *defines, *include, *flags, "-c", str(path), "-o", objects[-1]])
        made = Path(folder) / target.name
        shape = () if is_program else ("-shared",)
        _call([compiler, *shape, "-pthread", *flags, *objects, "-o", str(made)])
        os.replace(made, target)
    return target


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{command[0]} failed ({' '.join(command)}): {done.stderr.strip()[-2000:]}")


def main() -> int:
    """Compile beside the sources; 0, or 1 with the reason on stderr."""
    try:
        made = build()
    except (BuildError, OSError) as error:
        sys.stderr.write(f"Native decode was not built: {error}\n")
        return 1
    sys.stdout.write(f"{made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
