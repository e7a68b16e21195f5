"""Milliseconds per decoded token of the native step, beside transformers and the speed of memory, in one run.

    python benchmarks/native_decode.py [--layers 22] [--weights bfloat16 int8 int4] [--batches 1 4 8]
                                       [--context 640] [--threads N] [--pin] [--level NAME] [--out FILE]
                                       [--llama-cpp PYTHON]

The trunk has TinyLlama's geometry (1.1 billion weights at 22 layers) and random weights: every format reads
and computes what real ones would. Keys and values are bfloat16 and every row has a context of its own. In
each round memory is read once, then every format runs some steps, then transformers (bfloat16, sdpa) does the
same, then llama.cpp, if a Python that has llama-cpp-python and gguf is named, over files of the same bits
(BF16, Q8_0, Q4_0 with a Q8_0 head; keys and values float16): so what disturbs the machine disturbs all. Times
are medians over the rounds; a share is that of the speed of memory at which packed weights, keys and values
were read.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from native_peer import LLAMA_CPP, llama_cpp
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from beholder.core.records import capture
from beholder.generation.native.formats import FORMATS
from beholder.generation.native.memory import KeyValues
from beholder.generation.native.trunk import PackedTrunk

HERE = Path(__file__).resolve().parent
GEOMETRY = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}


def make_model(layers: int) -> LlamaForCausalLM:
    """Random bfloat16 weights."""
    config = LlamaConfig(**GEOMETRY, num_hidden_layers=layers, dtype="bfloat16", attn_implementation="sdpa")
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    rotary = type(model.model.rotary_emb)(config)
    model.model.rotary_emb = rotary
    with torch.inference_mode():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.normal_(std=0.02)
    return model.eval()


def make_memory(model: LlamaForCausalLM, rows: int, context: int) -> KeyValues:
    """Room for all rows, filled with numbers."""
    config = model.config
    shape = (config.num_key_value_heads, rows * (context + 1), config.head_dim)
    layers = range(config.num_hidden_layers)
    return KeyValues([(torch.randn(shape).bfloat16(), torch.randn(shape).bfloat16()) for _ in layers])


def native_step(trunk: PackedTrunk, memory: KeyValues, rows: int, context: int) -> Callable[[], Any]:
    """One token of each row; the same places are written again each time."""
    places = [[(row * (context + 1), (row + 1) * (context + 1))] for row in range(rows)]
    return lambda: trunk.step([7] * rows, [context] * rows, memory, places)


def peer_step(model: LlamaForCausalLM, rows: int, context: int) -> Callable[[], Any]:
    """One token of each row by transformers."""
    config, cache = model.config, DynamicCache()
    shape = (rows, config.num_key_value_heads, context, config.head_dim)
    for layer in range(config.num_hidden_layers):
        cache.update(torch.randn(shape).bfloat16(), torch.randn(shape).bfloat16(), layer)
    ids, positions = torch.full((rows, 1), 7), torch.full((rows, 1), context)

    def step() -> None:
        model(ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.crop(-1)

    return step


def milliseconds(step: Callable[[], Any], steps: int) -> float:
    """Median of some steps after one that is not counted."""
    step()
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """All figures by name."""
    model, most = make_model(options.layers), max(options.batches)
    more = {"rows": most, "threads": options.threads, "pin": options.pin, "level": options.level}
    trunks = {name: PackedTrunk.of(model, name, **more) for name in options.weights}
    memory = make_memory(model, most, options.context)
    times: dict[str, list[float]] = defaultdict(list)
    geometry = {**GEOMETRY, "layers": options.layers}
    with torch.inference_mode(), ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory()) if options.llama_cpp else ""
        peers = {
            name: opened.enter_context(
                llama_cpp(
                    options.llama_cpp, LLAMA_CPP[name], folder, geometry, rows=most, context=options.context
                )
            )
            for name in options.weights
            if options.llama_cpp and name in LLAMA_CPP
        }
        for _ in range(options.rounds):
            for rows in options.batches:
                times["memory_gb_per_s"].append(next(iter(trunks.values())).read_speed() / 1e9)
                for name, trunk in trunks.items():
                    step = native_step(trunk, memory, rows, options.context)
                    times[f"{name}_batch{rows}_ms"].append(milliseconds(step, options.steps))
                if not options.alone:
                    step = peer_step(model, rows, options.context)
                    times[f"transformers_batch{rows}_ms"].append(milliseconds(step, options.steps))
                for name, peer in peers.items():
                    times[f"llama.cpp_{LLAMA_CPP[name]}_batch{rows}_ms"].append(
                        peer.milliseconds(rows, options.steps)
                    )
    versions = {f"llama-cpp-python {peer.about['version']}" for peer in peers.values()}
    options.peer = ", ".join([f"transformers {transformers.__version__}", *versions])
    values = {name: statistics.median(found) for name, found in times.items()}
    stored = 2 * memory.key_heads * memory.width * 2 * options.layers * options.context
    for name, trunk in trunks.items():
        values[f"{name}_packed_gb"] = trunk.packed_bytes / 1e9
        for rows in options.batches:
            speed = (trunk.packed_bytes + rows * stored) / 1e6 / values[f"{name}_batch{rows}_ms"]
            values[f"{name}_batch{rows}_share"] = speed / values["memory_gb_per_s"]
    return values


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--weights", nargs="+", choices=FORMATS, default=["bfloat16", "int8", "int4"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--context", type=int, default=640)
    parser.add_argument("--threads", type=int, help="of both; torch's own choice if left out")
    parser.add_argument("--pin", action="store_true", help="each native thread on a processor of its own")
    parser.add_argument("--level", help="kernels; the best of this processor if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of each kind in each round")
    parser.add_argument("--alone", action="store_true", help="without transformers")
    parser.add_argument(
        "--llama-cpp", help="a Python with llama-cpp-python and gguf; without it there is no such peer"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"native_decode-{date.today()}.json")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    begun, values = time.perf_counter(), measure(options)
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "llama_cpp")}
    record = capture(
        subject=f"random Llama, {options.layers} layers of TinyLlama's geometry",
        measure="native decode",
        values=values,
        samples=options.rounds * options.steps,
        settings={**settings, **GEOMETRY, "threads": torch.get_num_threads(), "statistic": "median"},
        seconds=time.perf_counter() - begun,
    )
    for name, value in values.items():
        print(f"{name:>28}  {value:.3f}")
    print(record.write(options.out))


if __name__ == "__main__":
    main()
