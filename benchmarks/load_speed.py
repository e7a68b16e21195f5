"""How long a checkpoint takes to open and what memory that needs, beside transformers' `from_pretrained`.

    beholder models random llava-1.5-7b /tmp/published --dtype bfloat16
    beholder convert /tmp/published /tmp/hf --to llava-hf
    python benchmarks/load_speed.py /tmp/published /tmp/hf [--repeats 3] [--warm] [--out FILE]

The same weights twice: in their published layout for `beholder.load`, in llava-hf's for transformers. Every
load is a process of its own, they alternate, and before each the files leave the page cache, so that both
read the disk (`--warm` leaves them there: for weights that fit into it twice). Memory is the largest resident
set of the process less what it held before the load; pages of a file that the weights are mapped from count.
Afterwards both tell a checksum of all their weights, which must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from beholder.core.records import capture

HERE = Path(__file__).resolve().parent

# What both processes run around their load. The sum is over bits: order and names do not matter to it.
AROUND = """
import json, sys, time
from pathlib import Path
import torch
{imports}
torch.set_num_threads({threads})

def held(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what + ":")) * 1024

before = held("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
begun = time.perf_counter()
model = {load}
seconds = time.perf_counter() - begun
peak = held("VmHWM") - before
tensors = {{t.data_ptr(): t for t in model.state_dict().values() if t.is_floating_point()}}.values()
bits = {{2: torch.int16, 4: torch.int32}}
print(json.dumps({{
    "seconds": seconds,
    "peak": peak,
    "bytes": sum(t.numel() * t.element_size() for t in tensors),
    "sum": sum(int(t.contiguous().view(bits[t.element_size()]).sum(dtype=torch.int64)) for t in tensors),
}}))
"""
OURS = ("import beholder.api", "beholder.api.load({folder!r}, device='cpu').model")
PEER = (
    "from transformers import LlavaForConditionalGeneration",
    "LlavaForConditionalGeneration.from_pretrained({folder!r}, dtype='auto')",
)


def forget(folder: Path) -> None:
    """Let the operating system drop what it holds of these files."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def opened(way: tuple[str, str], folder: Path, threads: int) -> dict[str, float]:
    """One load in a process of its own."""
    imports, load = way
    code = AROUND.format(imports=imports, load=load.format(folder=str(folder)), threads=threads)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("published", type=Path)
    parser.add_argument("llava_hf", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--warm", action="store_true", help="read from the page cache")
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"load-{date.today()}.json")
    options = parser.parse_args()

    begun = time.perf_counter()
    sides = {"beholder": (OURS, options.published), "transformers": (PEER, options.llava_hf)}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, (way, folder) in sides.items():
            if not options.warm:
                for _, other in sides.values():
                    forget(other)
            runs[name].append(opened(way, folder, options.threads))
            print(name, json.dumps(runs[name][-1]), flush=True)
    if len({run["sum"] for of_one in runs.values() for run in of_one}) != 1:
        raise SystemExit(f"the two do not hold the same weights: {runs}")
    values: dict[str, float] = {"weights_bytes": runs["beholder"][0]["bytes"]}
    for name, of_one in runs.items():
        values[f"{name}_s"] = statistics.median(run["seconds"] for run in of_one)
        values[f"{name}_peak_over_weights"] = max(run["peak"] / run["bytes"] for run in of_one)
    values["time_over_transformers"] = values["beholder_s"] / values["transformers_s"]
    record = capture(
        subject=options.published.name,
        measure="load",
        values=values,
        samples=options.repeats,
        settings={"threads": options.threads, "page_cache": "warm" if options.warm else "cold"},
        seconds=time.perf_counter() - begun,
    )
    for name, value in values.items():
        print(f"{name:>32}  {value:.4g}")
    print(record.write(options.out))


if __name__ == "__main__":
    main()
