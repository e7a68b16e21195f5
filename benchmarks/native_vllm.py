"""Milliseconds of a step of one answer and of eight at once, beside vLLM in one run over the same folder.

    BEHOLDER_VLLM_PYTHON=/opt/vllm/bin/python python benchmarks/native_vllm.py FOLDER [--ours bfloat16 int8]
        [--batches 1 8] [--context 641] [--steps 32] [--rounds 5] [--vllm NAME=VALUE] [--out FILE]

FOLDER holds an image-text model in llava-hf's layout. Both are whole engines, with scheduler and choice of
the next token, and answer the same random prompts of words, which they keep from round to round; vLLM's
weights are bfloat16. Only steps in which every row gets a token count. In each round memory is read, then
ours answer in each format, while vLLM's processes, which look for work all the time, stand still, then vLLM.
The first round reads the prompts and is not counted; figures are medians over the others. vLLM is set as by
`engine_vllm.py`. Of a prompt that is one token longer than whole blocks of 128 it reads one token again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from engine_vllm import environment, parsed
from native_peer import HERE, asked, end_in_order, report
from torch import Tensor

import beholder
from beholder.benchmarking.machine import memory_rate
from beholder.core.errors import BeholderError
from beholder.core.records import RunRecord, capture, hash_weights
from beholder.core.types import Sampling
from beholder.serving.vllm.server import vllm_python

FORMS = ("bfloat16", "int8", "int4")


def drawn(vocabulary: int, rows: int, context: int) -> Tensor:
    """Prompts of words, (rows, context): what stands for something else is at either end of all ids."""
    source = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary // 32, vocabulary * 15 // 16, (rows, context), generator=source)


def milliseconds(vlm: beholder.VLM, prompts: Tensor, steps: int) -> float:
    """One of our steps, all rows in it."""
    rows, context = prompts.shape
    # While prompts are read those before already answer.
    sampling = Sampling(max_tokens=steps + 2 * rows + rows * context // 64, ignore_eos=True)
    inputs = [{"input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])} for ids in prompts]
    requests = [vlm.engine.submit(one, sampling) for one in inputs]
    while any(not request.ids for request in requests):
        vlm.engine.step()
    vlm.engine.step()
    before, begun = sum(len(request.ids) for request in requests), time.perf_counter()
    for _ in range(steps):
        vlm.engine.step()
    taken = time.perf_counter() - begun
    done = sum(len(request.ids) for request in requests) - before
    for request in requests:
        request.close()
    if done != steps * rows:
        raise BeholderError(f"{done} tokens came in {steps} steps of {rows} requests")
    return 1000 * taken / steps


def measure(options: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """All figures by name, and who was measured."""
    most = max(options.batches)
    given = {
        "model": str(options.model), "dtype": "bfloat16", "seed": 0, "enforce_eager": True,
        "enable_prefix_caching": True, "max_model_len": 2048, "max_num_seqs": most,
        "limit_mm_per_prompt": {"image": 1},
        **{name: parsed(value) for name, _, value in (one.partition("=") for one in options.vllm)},
    }  # fmt: skip
    command = [vllm_python(), "-P", str(HERE / "native_vllm_process.py"), json.dumps(given)]
    found: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as opened:
        models: dict[str, beholder.VLM] = {}
        for form in options.ours:
            quantize = None if form == "bfloat16" else form
            models[form] = beholder.load(options.model, device="cpu", dtype="bfloat16", quantize=quantize)
            opened.callback(models[form].close)
        vocabulary = models[options.ours[0]].model.config.get_text_config().vocab_size
        prompts = drawn(vocabulary, most, options.context)
        peer = opened.enter_context(asked(command, "vLLM", environment()))
        for number in range(options.rounds + 1):
            for rows in options.batches:
                seen = dict[str, float]()
                with peer.still():
                    seen["memory_gb_per_s"] = memory_rate(torch.device("cpu"))
                    for form, vlm in models.items():
                        seen[f"{form}_batch{rows}_ms"] = milliseconds(vlm, prompts[:rows], options.steps)
                question = {"prompts": prompts[:rows].tolist(), "steps": options.steps}
                seen[f"vllm_batch{rows}_ms"] = float(peer.ask(question))
                for name, value in seen.items() if number else ():
                    found[name].append(value)
        told = {
            "peer": f"vllm {peer.about['version']} bfloat16", "vllm": given,
            "decode": {form: vlm.engine.stats().decode for form, vlm in models.items()},
        }  # fmt: skip
    values = {name: statistics.median(times) for name, times in found.items()}
    for rows in options.batches:
        for form in options.ours:
            times = values[f"vllm_batch{rows}_ms"] / values[f"{form}_batch{rows}_ms"]
            values[f"{form}_batch{rows}_times_vllm"] = times
    return values, told


def record_of(options: argparse.Namespace) -> RunRecord:
    """Measure, with all that it depends on."""
    begun = time.perf_counter()
    values, told = measure(options)
    settings = {
        name: getattr(options, name) for name in ("batches", "context", "steps", "rounds", "threads", "ours")
    }
    return capture(
        subject=options.model.resolve().name, weights=hash_weights(options.model), measure="native vllm",
        values=values, samples=options.rounds * options.steps,
        settings={**settings, **told, "sampling": "greedy", "statistic": "median"},
        seconds=time.perf_counter() - begun,
    )  # fmt: skip


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--ours", nargs="+", choices=FORMS, default=["bfloat16", "int8"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--context", type=int, default=641)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--vllm", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    end_in_order()
    report(record_of(options), "native-vllm", options.out)


if __name__ == "__main__":
    main()
