"""First tokens and many picture requests at once, beside vLLM in the same run over the same weights.

    BEHOLDER_VLLM_PYTHON=/opt/vllm/bin/python python benchmarks/engine_vllm.py [FOLDER | --random llava-1.1b]
        [--repeats 3] [--requests 16] [--shortest 16] [--longest 256] [--vllm max_num_batched_tokens=2048]

FOLDER holds a model in llava-hf's layout, which both read. They get the same ids (vLLM with one placeholder
for each picture, which it expands itself) and the same opened pictures, prepared by each in its own way, and
take turns; vLLM's processes, which look for work all the time, stand still in ours. vLLM keeps its defaults
but for eager execution, prefix caching and all cores; `--vllm` changes what `vllm.LLM` is given, and the
variables VLLM_CPU_OMP_THREADS_BIND and VLLM_CPU_KVCACHE_SPACE the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from engine_speed import HERE, record_name

import beholder
from beholder.benchmarking.answering import Bench, Plan, median_ms
from beholder.benchmarking.machine import memory_rate
from beholder.benchmarking.material import second_turn
from beholder.benchmarking.run import settings
from beholder.core.errors import BeholderError, ConfigError
from beholder.core.records import RunRecord, capture, hash_weights
from beholder.core.types import Message
from beholder.families.random_weights import write_random
from beholder.serving.vllm.server import vllm_python

PROGRAM = HERE / "engine_vllm_process.py"
LAYOUT = "llava-hf"


class VLLM:
    """vLLM in a process of its own."""

    def __init__(self, folder: Path, vlm: beholder.VLM, requests: int, given: dict[str, Any]) -> None:
        self.processor = vlm.processor
        self.pictures = Path(tempfile.mkdtemp(prefix="beholder-vllm-"))
        self._log = self.pictures / "vllm.log"
        told = {
            "model": str(folder), "dtype": str(vlm.model.dtype).removeprefix("torch."), "seed": 0,
            "enforce_eager": True, "enable_prefix_caching": True, "max_model_len": vlm.context,
            "max_num_seqs": requests, "limit_mm_per_prompt": {"image": 1}, **given,
        }  # fmt: skip
        self.settings = {name: value for name, value in told.items() if name != "model"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                # Its neighbours here are no modules of vLLM's.
                [vllm_python(), "-P", str(PROGRAM), json.dumps(told)], text=True, env=environment(),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.name = f"vllm {self._read()['version']}"

    def run(
        self, conversations: Sequence[tuple[Message, ...]], lengths: Sequence[int]
    ) -> tuple[float, list[dict[str, Any]]]:
        """Seconds from the opened pictures to the last answer, and the answers."""
        pairs = zip(conversations, lengths, strict=True)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompts": [self._prompt(*pair) for pair in pairs]}) + "\n")
        self.process.stdin.flush()
        told = self._read()
        return told["seconds"], told["answers"]

    @contextmanager
    def still(self) -> Generator[None]:
        """Meanwhile none of its processes runs."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it: it ends when there is nothing more to read. What it said stays only where that failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stdout.close()
        if self.process.returncode == 0:
            shutil.rmtree(self.pictures, ignore_errors=True)

    def _prompt(self, messages: tuple[Message, ...], length: int) -> dict[str, Any]:
        ids = self.processor.encode(messages)["input_ids"][0].tolist()
        place, short = self.processor.image_token_id, list[int]()
        for token, run in groupby(ids):
            short += [token] if token == place else list(run)
        shown = [picture for message in messages for picture in message.pictures]
        file = None
        if shown:
            file = self.pictures / f"{len(list(self.pictures.iterdir()))}.png"
            shown[0].save(file)
        return {"ids": short, "picture": file and str(file), "tokens": length}

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.close()
        said = [line for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        raise BeholderError(f"vLLM ended: {said[-1] if said else 'it said nothing'} (see {self._log})")


def environment() -> dict[str, str]:
    """All cores for vLLM, which leaves one out by itself; nothing of ours decides how many threads it has."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    ours = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {
        "VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **ours,
    }  # fmt: skip


def turns(bench: Bench, vllm: VLLM) -> dict[str, float]:
    """From a picture and a question to the first token, then from the next question on the same picture."""
    ours: tuple[list[float], list[float]] = ([], [])
    theirs: tuple[list[float], list[float]] = ([], [])
    cached, same = {"ours": 0, "vllm": 0}, list[bool]()
    for number in range(bench.plan.repeats + 1):
        first = bench.material.first_turn()
        for turn, messages in enumerate((first, second_turn(first))):
            with vllm.still():
                begun = time.perf_counter()
                request = bench.answer(messages, 1)
                token = next(request)
                taken = time.perf_counter() - begun
            seconds, (answer,) = vllm.run([messages], [1])
            length = bench.inputs(messages)["input_ids"].shape[1]
            if answer["prompt"] != length:
                raise BeholderError(f"vLLM's prompt has {answer['prompt']} tokens and ours {length}")
            same.append(answer["ids"] == [token])
            cached = {"ours": request.cached_tokens, "vllm": answer["cached"] or 0}
            if number:  # the first prepares what later ones find
                ours[turn].append(taken)
                theirs[turn].append(seconds)
    values = {
        "first_token_ms": median_ms(ours[0]), "vllm_first_token_ms": median_ms(theirs[0]),
        "second_turn_ms": median_ms(ours[1]), "vllm_second_turn_ms": median_ms(theirs[1]),
        "second_turn_cached_tokens": float(cached["ours"]),
        "vllm_second_turn_cached_tokens": float(cached["vllm"]),
        "equal_first_tokens_share": statistics.mean(same),
    }  # fmt: skip
    for name in ("first_token", "second_turn"):
        values[f"{name}_times_vllm"] = values[f"vllm_{name}_ms"] / values[f"{name}_ms"]
    return values


def concurrent(bench: Bench, vllm: VLLM) -> dict[str, float]:
    """Tokens per second of many picture requests of other lengths, sent at once; from pictures to answers."""
    plan = bench.plan
    conversations = [bench.material.varied() for _ in range(plan.requests)]
    lengths = [bench.material.answer_length(plan.shortest, plan.longest) for _ in conversations]
    with vllm.still():
        begun = time.perf_counter()
        requests = [bench.answer(*pair) for pair in zip(conversations, lengths, strict=True)]
        said = [len(list(request)) for request in requests]
        taken = time.perf_counter() - begun
    seconds, answers = vllm.run(conversations, lengths)
    if not said == [len(answer["ids"]) for answer in answers] == lengths:
        raise BeholderError("not all answers have the lengths that were asked for")
    return {
        "concurrent_tokens": float(sum(lengths)),
        "concurrent_tokens_per_s": sum(lengths) / taken,
        "vllm_concurrent_tokens_per_s": sum(lengths) / seconds,
        "concurrent_times_vllm": seconds / taken,
    }


def measure(folder: Path, subject: str, options: argparse.Namespace) -> RunRecord:
    """Open both and measure."""
    begun = time.perf_counter()
    torch.set_num_threads(options.threads)
    loading = {"device": "cpu", "dtype": options.dtype, "threads": options.threads}
    vlm = beholder.load(folder, **loading)
    given = {name: parsed(value) for name, _, value in (one.partition("=") for one in options.vllm)}
    plan = Plan(
        repeats=options.repeats, requests=options.requests, shortest=options.shortest, longest=options.longest
    )
    bench = Bench(vlm, None, plan)
    try:
        with closing(VLLM(folder, vlm, options.requests, given)) as vllm:
            with vllm.still():
                rate = memory_rate(vlm.model.device)
            values = {"vllm_memory_gb_per_s": rate, **turns(bench, vllm), **concurrent(bench, vllm)}
    finally:
        vlm.close()
    told = settings(vlm, plan, cast("Any", vllm), loading)
    told |= {"vllm": vllm.settings, "peers_not_installed": []}
    return capture(
        subject=subject, weights=hash_weights(folder), measure="bench vllm", values=values,
        samples=plan.repeats, settings=told, seconds=time.perf_counter() - begun,
    )  # fmt: skip


def parsed(value: str) -> Any:
    """A setting as JSON has it; what is no JSON is text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--random", help="instead of a folder: a size, of random weights, removed afterwards")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--shortest", type=int, default=16)
    parser.add_argument("--longest", type=int, default=256)
    parser.add_argument("--vllm", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    vllm_python()  # before anything is written or opened
    if (options.folder is None) == (options.random is None):
        raise ConfigError("give either a folder in llava-hf's layout or --random with a size")
    with tempfile.TemporaryDirectory(prefix="beholder-vllm-") as made:
        folder, subject = options.folder, str(options.folder)
        if folder is None:
            folder, subject = Path(made) / options.random, f"random {options.random}"
            write_random(options.random, folder, layout=LAYOUT)
        record = measure(folder, subject, options)
    print(record.write(options.results / record_name(subject, "vllm")))
    print(json.dumps(record.values, indent=1))


if __name__ == "__main__":
    main()
