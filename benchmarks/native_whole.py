"""A whole model on the CPU: its peak memory, first token with a picture and time per token, beside llama.cpp.

    beholder models random llava-1.5-7b 7b --dtype bfloat16
    beholder convert 7b 7b-int4 --to ours --quantize int4
    python benchmarks/native_whole.py 7b-int4 [--tokens 32] [--rounds 3] [--llama-cpp PYTHON] [--out FILE]

The model is opened and asked in this process as `beholder.load` does it; memory is the process's largest
resident set until the end of its first answer, pages of mapped files among it, and until that of its last:
keys and values of earlier pictures are kept for further questions about them. llama.cpp, if a Python that has
llama-cpp-python and gguf is named, decodes a random model of the same language model's geometry and as many
bits in a process of its own, after as long a prompt, of words alone: what it takes to read that is told
beside our first token, which has the tower and the picture in it.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import torch
from native_peer import LLAMA_CPP, llama_cpp
from PIL import Image

import beholder
from beholder.benchmarking.machine import memory_rate
from beholder.core.records import capture, hash_weights
from beholder.core.types import Message, Sampling

HERE = Path(__file__).resolve().parent
QUESTION = "What is in this picture?"
GEOMETRY = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings",
)  # fmt: skip


def peak() -> int:
    """The largest resident set so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def answer(vlm: beholder.VLM, number: int, tokens: int) -> dict[str, float]:
    """Times of an answer about a picture that was not seen before."""
    shown = Image.effect_mandelbrot((640, 480), (-2, -1.5, 1, 1.5), 20 + number).convert("RGB")
    begun = time.perf_counter()
    inputs = vlm.processor.encode((Message.user(shown, QUESTION),))
    request = vlm.engine.submit(inputs, Sampling(max_tokens=tokens, ignore_eos=True))
    for _ in request:
        pass
    if request.clock.first is None or request.clock.last is None:
        raise SystemExit(f"the request ended ({request.finish_reason}) without a token")
    return {
        "first_token_ms": 1000 * (request.clock.first - begun),
        "tower_ms": 1000 * request.clock.tower,
        "ms_per_token": 1000 * (request.clock.last - request.clock.first) / (tokens - 1),
        "prompt_tokens": float(inputs["input_ids"].shape[1]),
    }


def ours(options: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """Our figures, and what the peer must be like."""
    before, begun = peak(), time.perf_counter()
    vlm = beholder.load(options.model, device="cpu", dtype=options.dtype)
    values = {"open_s": time.perf_counter() - begun, "process_gb": before / 1e9, "open_peak_gb": peak() / 1e9}
    vlm.engine.start()
    rounds = [answer(vlm, 0, options.tokens)]
    values["peak_gb"] = peak() / 1e9
    rounds += [answer(vlm, number, options.tokens) for number in range(1, options.rounds)]
    values |= {name: statistics.median(told[name] for told in rounds) for name in rounds[0]}
    values |= {"kept_peak_gb": peak() / 1e9, "packed_gb": vlm.engine.stats().native_bytes / 1e9}
    config = vlm.model.config.get_text_config()
    about = {name: getattr(config, name) for name in GEOMETRY} | {"layers": config.num_hidden_layers}
    told = {"geometry": about, "decode": vlm.engine.stats().decode, "dtype": str(vlm.model.dtype)}
    vlm.close()
    return values, told


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", default="bfloat16", help="of what is not quantized")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-cpp", help="a Python with llama-cpp-python and gguf")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    begun = time.perf_counter()
    values, told = ours(options)
    gc.collect()
    values["memory_gb_per_s"] = memory_rate(torch.device("cpu"))
    peer = "none"
    form = next((name for name in LLAMA_CPP if name in told["decode"]), None)
    with ExitStack() as opened:
        if options.llama_cpp and form:
            folder = opened.enter_context(tempfile.TemporaryDirectory())
            process = opened.enter_context(
                llama_cpp(
                    options.llama_cpp, LLAMA_CPP[form], folder, told["geometry"], rows=1,
                    context=int(values["prompt_tokens"]),
                )
            )  # fmt: skip
            peer = f"llama-cpp-python {process.about['version']} {LLAMA_CPP[form]}, words alone"
            values["peer_prompt_ms"] = 1000 * process.about["prompt_seconds"]
            values["peer_ms_per_token"] = process.milliseconds(1, options.tokens)
    short = options.model.resolve().name
    record = capture(
        subject=short, weights=hash_weights(options.model), measure="native whole", values=values,
        samples=options.rounds,
        settings={
            **told, "tokens": options.tokens, "threads": torch.get_num_threads(), "statistic": "median",
            "peer": peer,
        },
        seconds=time.perf_counter() - begun,
    )  # fmt: skip
    print(json.dumps(values, indent=1))
    print(record.write(options.out or HERE / "results" / f"native-whole-{short}-{date.today()}.json"))


if __name__ == "__main__":
    main()
