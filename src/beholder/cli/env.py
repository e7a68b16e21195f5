"""`beholder env`: what a report of a problem should contain, and nothing that is private.

The home folder is written `~`; of keys and tokens only whether there is one is told.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from beholder.cli import options

# What changes which kernels run, where files come from, or how a run is told; values are shown.
VARIABLES = (
    "BEHOLDER_DEBUG", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT",
    "MKL_NUM_THREADS", "NO_COLOR", "OMP_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "TRANSFORMERS_OFFLINE",
)  # fmt: skip
# Instructions that torch, torchao and native kernels choose by; the names of /proc/cpuinfo.
FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "fphp", "i8mm", "bf16", "sve",
)  # fmt: skip


def env(as_json: options.AsJson = False) -> None:
    """Show what a report of a problem needs: versions, processor, devices, extras, caches."""
    facts = describe()
    if as_json:
        print(json.dumps(facts))
        return
    packages, extras = facts.pop("packages"), facts.pop("extras")
    shown = {name: _told(value) for name, value in {**facts, **packages}.items()}
    for name, missing in extras.items():
        shown[f"extra {name}"] = f"missing: {', '.join(missing)}" if missing else "installed"
    width = max(map(len, shown)) + 2
    for name, value in shown.items():
        print(f"{name:{width}}{value}")


def describe() -> dict[str, Any]:
    """Everything that is told, as `--json` prints it."""
    import torch
    from huggingface_hub import constants

    from beholder.core.device import available_devices
    from beholder.core.records import code_version, describe_machine, hash_weights, package_versions
    from beholder.generation.native.library import status as native_status
    from beholder.mini import FOLDER

    return {
        "code": code_version(),
        "built-in model": hash_weights(FOLDER)[:16],
        "machine": describe_machine(),
        "system": platform.platform(),
        "processor features": processor_features(),
        "torch kernels": torch.backends.cpu.get_cpu_capability(),
        "native decode": str(native_status()),
        "devices": available_devices(),
        "threads": torch.get_num_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "cuda": torch.version.cuda or "none",
        "download cache": without_home(constants.HF_HUB_CACHE),
        "free there": _free(Path(constants.HF_HUB_CACHE)),
        "offline": bool(constants.HF_HUB_OFFLINE),
        "signed in to the hub": _has_token(),
        "variables": {name: without_home(os.environ[name]) for name in VARIABLES if name in os.environ},
        "packages": package_versions(),
        "extras": missing_of_extras(),
    }


def processor_features() -> list[str]:
    """The instruction sets that matter here, of those that the processor has; none where it does not say."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", told, re.MULTILINE)
    has = set(found[1].split()) if found else set[str]()
    return [name for name in FEATURES if name in has]


def missing_of_extras() -> dict[str, list[str]]:
    """Of every extra the packages that are not installed, or are older than it needs; an empty list is whole.

    An extra that names others of ours is left out: it is told where they are.
    """
    from packaging.requirements import Requirement

    told: dict[str, list[str]] = {}
    for line in metadata.requires("beholder") or ():
        requirement = Requirement(line)
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", str(requirement.marker or ""))
        if extra is None or requirement.name == "beholder":
            continue
        missing = told.setdefault(extra[1], [])
        if not _is_there(requirement):
            missing.append(f"{requirement.name}{requirement.specifier}")
    return told


def _is_there(requirement: Any) -> bool:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return bool(requirement.specifier.contains(version, prereleases=True))


def without_home(path: str) -> str:
    """A path that may be shown to others: the home folder as `~`."""
    home = str(Path.home())
    is_inside = path == home or path.startswith(home.rstrip(os.sep) + os.sep)
    return "~" + path[len(home.rstrip(os.sep)) :] if is_inside and home != os.sep else path


def _free(folder: Path) -> str:
    """Free space where downloads go, also before the folder is made."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return f"{shutil.disk_usage(place).free / 1e9:.0f} GB"


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _told(value: Any) -> str:
    """One line of text for a value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = [f"{name}={text}" for name, text in cast("dict[str, str]", value).items()]
    if isinstance(value, list):
        return ", ".join(cast("list[str]", value)) or "none"
    return str(value)
