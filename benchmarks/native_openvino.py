"""The first token of a question about a picture, and time per token after it, beside OpenVINO GenAI.

    PYTHON -m pip install openvino-genai optimum-intel                      # in an environment of its own
    optimum-cli export openvino -m FOLDER --task image-text-to-text --weight-format int8 FOLDER-int8
    optimum-cli export openvino -m FOLDER --task image-text-to-text --weight-format int4 --sym \\
        --group-size 64 --ratio 1.0 FOLDER-int4
    python benchmarks/native_openvino.py FOLDER --openvino PYTHON [--int8 FOLDER-int8] [--int4 FOLDER-int4]
        [--ours bfloat16 int8 int4] [--tokens 32] [--rounds 5] [--dynamic-group 64] [--out FILE]

FOLDER holds a model that transformers opens, in llava-hf's layout. All get the same opened picture, a new one
in each round, and the same words; the first token counts from there, so preparation, tower and prompt are in
it. In each round memory is read once, then ours answer in each format, and transformers in bfloat16 where
ours is measured in that too, then OpenVINO in each of its folders, in processes of their own, of which all
that are not asked stand still. The first round prepares and does not count; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from native_peer import HERE, Asked, asked, end_in_order, report

import beholder
from beholder.benchmarking.machine import memory_rate
from beholder.benchmarking.material import QUESTION, as_chat, picture
from beholder.benchmarking.peer import Peer
from beholder.core.errors import BeholderError
from beholder.core.records import RunRecord, capture, hash_weights
from beholder.core.types import Message, Sampling

FORMS = ("bfloat16", "int8", "int4")
CLOSE = 8  # tokens by which a peer's prompt may differ: how it begins, and how it counts

Times = tuple[float, float, int]  # seconds to the first token, seconds of each after it, tokens of the prompt
Answer = Callable[[Message], Times]


def ours(vlm: beholder.VLM, tokens: int) -> Answer:
    """Our answers."""

    def answer(message: Message) -> Times:
        begun = time.perf_counter()
        inputs = vlm.processor.encode((message,))
        request = vlm.engine.submit(inputs, Sampling(max_tokens=tokens, ignore_eos=True))
        for _ in request:
            pass
        if request.clock.first is None or request.clock.last is None:
            raise BeholderError(f"the request ended ({request.finish_reason}) without a token")
        step = (request.clock.last - request.clock.first) / (tokens - 1)
        return request.clock.first - begun, step, inputs["input_ids"].shape[1]

    return answer


def transformers(peer: Peer, tokens: int) -> Answer:
    """Those of transformers over the same weights."""

    def answer(message: Message) -> Times:
        timed = peer.run([(message,)], tokens)
        return timed.first, timed.per_step, 0

    return answer


def openvino(process: Asked, processor: Any, tokens: int, folder: str) -> Answer:
    """Those of OpenVINO, which writes the words as it is told and expands the picture itself."""

    def answer(message: Message) -> Times:
        file = f"{folder}/picture.png"
        message.pictures[0].save(file)
        prompt = processor.apply_chat_template(
            as_chat((message,)), add_generation_prompt=True, tokenize=False
        )
        prompt = prompt.replace(processor.image_token, "<image>")
        told = process.ask({"picture": file, "prompt": prompt, "tokens": tokens})
        times = told["times"]
        if len(times) != tokens:
            raise BeholderError(f"OpenVINO answered with {len(times)} tokens and not {tokens}")
        return times[0], (times[-1] - times[0]) / (tokens - 1), told["prompt_tokens"]

    return answer


def question(number: int) -> Message:
    """About a picture that nobody has seen."""
    return Message.user(picture(number), QUESTION)


def measure(options: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """All figures by name, and who was measured."""
    told: dict[str, Any] = {"openvino": []}
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="beholder-openvino-"))
        answers: dict[str, Answer] = {}
        models: dict[str, beholder.VLM] = {}
        for form in options.ours:
            vlm = models[form] = beholder.load(
                options.model, device="cpu", dtype="bfloat16", quantize=None if form == "bfloat16" else form
            )
            opened.callback(vlm.close)
            answers[form] = ours(vlm, options.tokens)
            processor: Any = vlm.processor
            if form == "bfloat16":
                peer = Peer(vlm.model, vlm.processor)
                answers["transformers"], told["peer"] = transformers(peer, options.tokens), peer.name
        processes: dict[str, Asked] = {}
        for form in ("int8", "int4"):
            if given := getattr(options, form):
                process = opened.enter_context(started(options, given))
                processes[f"openvino_{form}"] = process
                answers[f"openvino_{form}"] = openvino(process, processor, options.tokens, folder)
                told["openvino"].append(f"openvino-genai {process.about['version']} {form}")
        values = figures(answers, processes, options)
        told["decode"] = {form: vlm.engine.stats().decode for form, vlm in models.items()}
    values |= {f"{name}_open_s": process.about["open_s"] for name, process in processes.items()}
    return values, told


def started(options: argparse.Namespace, folder: Path) -> Any:
    """OpenVINO with an exported folder, with as many threads as we have."""
    settings = {"INFERENCE_NUM_THREADS": options.threads}
    if options.dynamic_group:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = options.dynamic_group
    given = {"folder": str(folder), "settings": settings}
    ours_alone = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    program = str(HERE / "native_openvino_process.py")
    return asked([options.openvino, "-P", program, json.dumps(given)], "OpenVINO", ours_alone)


def figures(
    answers: dict[str, Answer], processes: dict[str, Asked], options: argparse.Namespace
) -> dict[str, float]:
    """Medians over the rounds; what is ours over what is theirs of as many bits."""
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(options.rounds + 1):
        message, seen = question(number), dict[str, float]()
        with ExitStack() as still:
            for process in processes.values():
                still.enter_context(process.still())
            seen["memory_gb_per_s"] = memory_rate(torch.device("cpu"))
            for name in (name for name in answers if name not in processes):
                seen |= noted(name, answers[name](message))
        for name in processes:
            with ExitStack() as still:
                for other in processes.keys() - {name}:
                    still.enter_context(processes[other].still())
                seen |= noted(name, answers[name](message))
        lengths = {value for name, value in seen.items() if name.endswith("_prompt_tokens") and value}
        if max(lengths) - min(lengths) > CLOSE:
            raise BeholderError(f"prompts have {sorted(lengths)} tokens, which is no comparison")
        if number:  # the first prepares what later ones find
            for name, value in seen.items():
                found[name].append(value)
    values = {name: statistics.median(times) for name, times in found.items()}
    for form in options.ours:
        other = "transformers" if form == "bfloat16" else f"openvino_{form}"
        for what in ("first_ms", "ms_per_token"):
            if f"{other}_{what}" in values:
                values[f"{form}_{what}_over_peer"] = values[f"{form}_{what}"] / values[f"{other}_{what}"]
    return values


def noted(name: str, times: Times) -> dict[str, float]:
    """One answer's figures by name."""
    return {
        f"{name}_first_ms": 1000 * times[0], f"{name}_ms_per_token": 1000 * times[1],
        f"{name}_prompt_tokens": float(times[2]),
    }  # fmt: skip


def record_of(options: argparse.Namespace) -> RunRecord:
    """Measure, with all that it depends on."""
    begun = time.perf_counter()
    values, told = measure(options)
    settings = {
        name: getattr(options, name) for name in ("tokens", "rounds", "threads", "dynamic_group", "ours")
    }
    return capture(
        subject=options.model.resolve().name, weights=hash_weights(options.model), measure="native openvino",
        values=values, samples=options.rounds,
        settings={**settings, **told, "sampling": "greedy", "statistic": "median"},
        seconds=time.perf_counter() - begun,
    )  # fmt: skip


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--openvino", required=True, metavar="PYTHON", help="with openvino-genai")
    parser.add_argument("--int8", type=Path, help="the model as exported for OpenVINO in 8 bits")
    parser.add_argument("--int4", type=Path, help="the same in 4 bits")
    parser.add_argument("--dynamic-group", type=int, default=64,
                        help="OpenVINO's DYNAMIC_QUANTIZATION_GROUP_SIZE; with 0 its own choice")  # fmt: skip
    parser.add_argument("--ours", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    end_in_order()
    report(record_of(options), "native-openvino", options.out)


if __name__ == "__main__":
    main()
