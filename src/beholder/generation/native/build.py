"""Compiles the native decode step: `python -m beholder.generation.native.build`.

The package's own build calls it too, before anything is installed, so only the standard library is imported.
The result carries a digest of its sources and flags: what was built from others is never loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "source"
LIBRARY = SOURCES.parent / "_decode.so"
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wno-psabi")
# What a processor of each level has; the best first.
LEVELS = {
    "avx512": (
        "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16",
        "-mavx2", "-mfma", "-Wno-uninitialized", "-Wno-maybe-uninitialized",  # GCC 12, of its headers
    ),
    "avx2": ("-mavx2", "-mfma"),
    "neon": ("-march=armv8.2-a+dotprod",),
    "neon_plain": ("-march=armv8-a",),
    "portable": (),
}  # fmt: skip
# Which of them a machine may have beside the portable one.
X86, ARM = ("avx512", "avx2"), ("neon", "neon_plain")
MACHINES = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}
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


def find_compiler() -> list[str]:
    """The words of $CXX, or the first compiler of those known; BuildError where there is none."""
    told = shlex.split(os.environ.get("CXX", ""))
    if told and not shutil.which(told[0]):
        raise BuildError(f"there is no compiler {told[0]!r}, which $CXX names; install it, or unset CXX")
    found = told or next(([name] for name in COMPILERS if shutil.which(name)), [])
    if not found:
        raise BuildError(
            f"there is no C++ compiler here (looked for $CXX, {', '.join(COMPILERS)}); install one, "
            "on Debian and Ubuntu: apt-get install g++"
        )
    return found


def levels_for(compiler: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The levels that the machine this compiler compiles for may have, and that it can build."""
    own = (*MACHINES.get(_machine_of(compiler), ()), "portable")
    return {name: flags for name, flags in LEVELS.items() if name in own and _accepts(compiler, flags)}


def _machine_of(compiler: Sequence[str]) -> str:
    """What kind of machine is compiled for, which is another than this one for a cross compiler."""
    command = [*compiler, "-dumpmachine"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return (told or platform.machine()).split("-")[0].lower()


def _accepts(compiler: Sequence[str], flags: Sequence[str]) -> bool:
    command = [*compiler, *flags, "-x", "c++", "-fsyntax-only", os.devnull]
    return not flags or subprocess.run(command, capture_output=True, check=False).returncode == 0


def build(target: Path = LIBRARY, *, flags: Sequence[str] = (), extra: Sequence[Path] = ()) -> Path:
    """Compile into `target`, atomically, and return it. `flags` come last, `extra` files are compiled along.

    BuildError without a compiler, and with the compiler's words where it fails.
    """
    compiler = find_compiler()
    levels = levels_for(compiler)
    defines = [f'-DSOURCES="{digest(flags)}"', *(f"-DWITH_{level.upper()}" for level in levels)]
    is_program = "-fPIE" in flags
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        # What takes longest comes first; as many at once as there are processors.
        units = {f"kernels_{name}": (SOURCES / f"kernels_{name}.cpp", own) for name, own in levels.items()}
        units |= {name: (SOURCES / f"{name}.cpp", ()) for name in COMMON}
        units |= {path.stem: (path, ()) for path in extra}
        objects = {name: f"{folder}/{name}.o" for name in units}
        always = (*defines, "-I", str(SOURCES), *flags)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            commands = (
                [*compiler, *FLAGS, *own, *always, "-c", str(path), "-o", objects[name]]
                for name, (path, own) in units.items()
            )
            list(pool.map(_call, commands))
        made = Path(folder) / target.name
        shape = () if is_program else ("-shared",)
        _call([*compiler, *shape, "-pthread", *flags, *objects.values(), "-o", str(made)])
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
