"""The benchmarks by name. A task's module is imported only when the task is asked for."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from beholder.core.errors import ConfigError
from beholder.evaluation.task import Task

ROOM = "beholder.evaluation.tasks"
TASKS = {
    "worlds": "worlds:WORLDS",
    "worlds-redrawn": "worlds:WORLDS_REDRAWN",
    "captcha": "captcha:CAPTCHA",
    "vqav2": "vqav2:VQAV2",
    "vqav2-val": "vqav2:VQAV2_VAL",
    "gqa": "gqa:GQA",
    "vizwiz": "vizwiz:VIZWIZ",
    "vizwiz-val": "vizwiz:VIZWIZ_VAL",
    "scienceqa": "scienceqa:SCIENCEQA",
    "textvqa": "textvqa:TEXTVQA",
    "pope": "pope:POPE",
    "mme": "mme:MME",
    "mmbench": "mmbench:MMBENCH",
    "mmbench-circular": "mmbench:MMBENCH_CIRCULAR",
    "mmbench-cn": "mmbench:MMBENCH_CN",
    "mmbench-test": "mmbench:MMBENCH_TEST",
    "mmbench-cn-test": "mmbench:MMBENCH_CN_TEST",
    "seed": "seed:SEED",
    "seed-image": "seed:SEED_IMAGE",
    "mmmu": "mmmu:MMMU",
    "refcoco-val": "refcoco:REFCOCO",
    "refcoco-testA": "refcoco:REFCOCO",
    "refcoco-testB": "refcoco:REFCOCO",
    "refcoco+-val": "refcoco:REFCOCO",
    "refcoco+-testA": "refcoco:REFCOCO",
    "refcoco+-testB": "refcoco:REFCOCO",
    "refcocog-val": "refcoco:REFCOCO",
    "refcocog-test": "refcoco:REFCOCO",
    "llava-bench": "llava_bench:LLAVA_BENCH",
    "llava-bench-coco": "llava_bench:LLAVA_BENCH_COCO",
    "mm-vet": "mmvet:MMVET",
    "touchstone": "touchstone:TOUCHSTONE",
    "coco-captions": "captions:COCO_CAPTIONS",
    "nocaps": "captions:NOCAPS",
    "flickr30k": "captions:FLICKR30K",
    "okvqa": "okvqa:OKVQA",
    "visual7w": "visual7w:VISUAL7W",
    "visual7w-telling": "visual7w:VISUAL7W_TELLING",
    "tdiuc": "tdiuc:TDIUC",
}


def find_task(name: str) -> Task:
    """The task of that name, or the benchmark that a .jsonl file holds."""
    if name.endswith(".jsonl"):
        from beholder.evaluation.tasks.custom import custom_task

        return custom_task(Path(name))
    if name not in TASKS:
        near = get_close_matches(name, TASKS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TASKS)}, or a .jsonl file"
        raise ConfigError(f"there is no benchmark {name!r}; {hint}")
    module, _, attribute = TASKS[name].partition(":")
    found = getattr(import_module(f"{ROOM}.{module}"), attribute)
    return found[name] if isinstance(found, dict) else found  # pyright: ignore[reportUnknownVariableType]
