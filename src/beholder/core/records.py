"""A score, a timing or a loss together with everything that it depends on; no number travels without one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from beholder.core.errors import InputError

PACKAGES = (
    "beholder", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "accelerate", "peft",
)  # fmt: skip
WEIGHT_SUFFIXES = (".safetensors", ".bin")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One measurement. Two runs are comparable only where the fields that matter to the question agree."""

    subject: str  # a hub id, a folder's last name, or "beholder-mini"
    weights: str  # hash_weights(folder); empty where no weights took part
    measure: str  # "worlds v1", "bench decode"
    values: dict[str, float]
    samples: int  # rows that ran, not rows that exist
    settings: dict[str, Any]  # the resolved ones: dtype, attention, batch, sampling, seed
    code: str  # our commit, with "+dirty" if the tree was not clean
    machine: str
    packages: dict[str, str]
    seconds: float

    def to_json(self) -> str:
        """Indented JSON, as it is written to a file."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2)

    def write(self, path: str | Path) -> Path:
        """Write the record as JSON and return where."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.to_json() + "\n", encoding="utf-8")
        return target

    @classmethod
    def read(cls, path: str | Path) -> RunRecord:
        """Read a record back; a file with other fields is an error that names them."""
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        if differing := {f.name for f in fields(cls)} ^ set(stored):
            raise InputError(f"{path} is not a run record: missing or unknown fields {sorted(differing)}")
        return cls(**stored)


def capture(
    *,
    subject: str,
    measure: str,
    values: Mapping[str, float],
    samples: int,
    settings: Mapping[str, Any],
    seconds: float,
    weights: str = "",
) -> RunRecord:
    """A record of what was measured, completed with the code, machine and package versions of this run.

    A `subject` that is a folder is called by its last name: where it lay on the machine says nothing.
    """
    place = Path(subject)
    return RunRecord(
        subject=place.resolve().name if subject and place.is_dir() else subject,
        weights=weights,
        measure=measure,
        values=dict(values),
        samples=samples,
        settings=dict(settings),
        code=code_version(),
        machine=describe_machine(),
        packages=package_versions(),
        seconds=seconds,
    )


def hash_weights(folder: str | Path) -> str:
    """SHA-256 over the names and SHA-256 sums of a folder's weight files.

    A file in the hub's cache is a link to a blob named by its own sum, so it is not read again.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.suffix in WEIGHT_SUFFIXES)
    lines = "".join(f"{path.name} {_file_sum(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest() if files else ""


def _file_sum(path: Path) -> str:
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        return blob.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_version() -> str:
    """The commit that the package runs from, or its version where it was installed without a repository."""
    here = Path(__file__).resolve().parent
    top = _git(here, "rev-parse", "--show-toplevel")
    # Installed inside somebody else's repository (a .venv folder), the commit found would be theirs.
    if top and (Path(top) / "src" / "beholder").is_dir() and (commit := _git(here, "rev-parse", "HEAD")):
        return commit + ("+dirty" if _git(here, "status", "--porcelain") else "")
    return f"beholder {_version('beholder') or 'unknown'}"


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def describe_machine() -> str:
    """Processor, cores that this process may use, memory, and the GPUs if torch is loaded and sees any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [f"{_processor()} x {cores} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        parts.append(f"{gigabytes:.0f} GiB")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        parts += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    parts.append(f"{platform.system()} {platform.machine()}")
    return ", ".join(parts)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can move a number."""
    versions = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{name: v for name, v in versions.items() if v}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
