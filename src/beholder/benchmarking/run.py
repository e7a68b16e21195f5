"""Which figures there are, and running some of them for one model into a record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from beholder.benchmarking import answering, upkeep
from beholder.benchmarking.answering import Bench, Plan
from beholder.benchmarking.machine import memory_rate
from beholder.benchmarking.peer import Peer
from beholder.benchmarking.startup import cold_start
from beholder.core.errors import ConfigError
from beholder.core.records import RunRecord, capture
from beholder.generation.engine import Engine

if TYPE_CHECKING:
    from beholder.api import VLM

log = logging.getLogger("beholder")

Figure = Callable[[Bench], dict[str, float]]

FIGURES: dict[str, Figure] = {
    "first": answering.first_tokens,
    "decode": answering.decode,
    "batch": answering.batch,
    "concurrent": answering.concurrent,
    "overhead": upkeep.overhead,
    "preprocessing": upkeep.preprocessing,
    "memory": upkeep.memory,
}
STARTUP = "startup"  # its processes are its own, so it needs the model's name and not the model
NAMES = (*FIGURES, STARTUP)
ENGINE_ONLY = ("batch", "overhead", "memory")
# Programs that answer the same questions; those that are installed are named in the record.
OTHER_PEERS = ("vllm", "llama_cpp", "openvino_genai")
MEASURE = "bench"


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The figures of these names, all without any; ConfigError for one that there is not."""
    if unknown := [name for name in names if name not in NAMES]:
        raise ConfigError(f"there are no figures {', '.join(unknown)}; known: {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in names) if names else NAMES


def run(
    vlm: VLM,
    plan: Plan,
    figures: Sequence[str],
    *,
    subject: str,
    weights: str,
    with_peer: bool,
    source: str,
    loading: Mapping[str, Any],
) -> RunRecord:
    """Measure a loaded model. `source` and `loading` are what `load` was given, for new processes.

    The rate of memory is measured before every figure: results that hang on it can be compared only where it
    was the same.
    """
    begun = time.perf_counter()
    if not isinstance(vlm.engine, Engine) and (missing := [one for one in figures if one in ENGINE_ONLY]):
        raise ConfigError(
            f"{type(vlm.model).__name__} runs by its own generate, so there is no {', '.join(missing)} to "
            f"measure; choose among {', '.join(name for name in NAMES if name not in ENGINE_ONLY)}"
        )
    peer = Peer(vlm.model, vlm.processor) if with_peer else None
    bench = Bench(vlm, peer, plan)
    values: dict[str, float] = {}
    for name in figures:
        values[f"{name}_memory_gb_per_s"] = memory_rate(vlm.model.device)
        log.info("measuring: %s", name)
        if name == STARTUP:
            values |= cold_start(source, dict(loading), plan.repeats)
        else:
            values |= FIGURES[name](bench)
    return capture(
        subject=subject,
        weights=weights,
        measure=f"{MEASURE} {'+'.join(figures)}",
        values=values,
        samples=plan.repeats,
        settings=settings(vlm, plan, peer, loading),
        seconds=time.perf_counter() - begun,
    )


def settings(vlm: VLM, plan: Plan, peer: Peer | None, loading: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a figure depends on that is not in the machine."""
    text = vlm.model.config.get_text_config()
    return {
        **asdict(plan),
        "layers": text.num_hidden_layers,
        "parameters": sum(parameter.numel() for parameter in vlm.model.parameters()),
        "dtype": str(vlm.model.dtype),
        "device": str(vlm.model.device),
        "attention": str(text._attn_implementation),
        "threads": loading.get("threads") or torch.get_num_threads(),
        "engine": {name: value for name, value in loading.items() if name not in ("device", "dtype")},
        "packed_bytes": vlm.engine.stats().packed_bytes,
        "native_bytes": vlm.engine.stats().native_bytes,
        "decode": vlm.engine.stats().decode,
        "peer": "none" if peer is None else peer.name,
        "peers_not_installed": [name for name in OTHER_PEERS if find_spec(name) is None],
        "sampling": "greedy",
        "statistic": "median",
    }
