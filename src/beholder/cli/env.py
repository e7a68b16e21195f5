"""`beholder env`: what a report of a problem should contain."""

from __future__ import annotations

import json
from typing import Any

from beholder.cli import options


def env(as_json: options.AsJson = False) -> None:
    """Show versions and devices."""
    import torch
    from huggingface_hub import constants

    from beholder.core.device import available_devices
    from beholder.core.records import code_version, describe_machine, package_versions

    facts: dict[str, Any] = {
        "code": code_version(),
        "machine": describe_machine(),
        "devices": available_devices(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda or "none",
        "download cache": constants.HF_HUB_CACHE,
        "packages": package_versions(),
    }
    if as_json:
        print(json.dumps(facts))
        return
    packages = facts.pop("packages")
    facts["devices"] = ", ".join(facts["devices"])
    for name, value in {**facts, **packages}.items():
        print(f"{name:16}{value}")
