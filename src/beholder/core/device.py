"""Which device and number format a model runs in: chosen once, by the caller or a plain rule, and logged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from beholder.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("beholder")

DTYPES = {
    "float32": "float32", "fp32": "float32",
    "bfloat16": "bfloat16", "bf16": "bfloat16",
    "float16": "float16", "fp16": "float16",
}  # fmt: skip


def available_devices() -> list[str]:
    """The device names that would be accepted here, best first."""
    import torch

    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def resolve_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name; None or "auto" is the first GPU, or the CPU where there is none."""
    import torch

    devices = available_devices()
    if name is None or name == "auto":
        device = torch.device(devices[0])
        log.info("device: %s", device)
        return device
    wanted = str(name)
    if wanted in devices:
        return torch.device(wanted)
    if wanted == "cuda" and "cuda:0" in devices:
        return torch.device("cuda:0")
    raise ConfigError(f"device {wanted!r} is not here; available: {', '.join(devices)}")


def resolve_dtype(
    name: str | torch.dtype | None, device: torch.device, stored: torch.dtype | None = None
) -> torch.dtype:
    """The number format of that name; None or "auto" follows the device and how the weights are stored.

    A GPU computes in bfloat16 (float16 if it is too old for that). The CPU keeps what is stored, but float16
    becomes bfloat16, because a CPU has no fast float16 arithmetic.
    """
    import torch

    if isinstance(name, torch.dtype):
        return name
    if name is None or name == "auto":
        dtype = _automatic(device, stored)
        log.info("dtype: %s", dtype)
        return dtype
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is unknown; use auto, {', '.join(DTYPES)}")
    return getattr(torch, DTYPES[name])


def _automatic(device: torch.device, stored: torch.dtype | None) -> torch.dtype:
    import torch

    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if stored is None:
        return torch.float32
    return torch.bfloat16 if stored == torch.float16 else stored
