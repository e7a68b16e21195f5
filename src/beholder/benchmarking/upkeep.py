"""Figures of everything around the model: the engine's own time, pictures, memory."""

from __future__ import annotations

import io
import time
from typing import Any

from PIL import Image

from beholder.benchmarking.answering import Bench, median_ms
from beholder.benchmarking.machine import held_bytes
from beholder.benchmarking.material import QUESTION, large_jpeg
from beholder.core.types import Message, Sampling
from beholder.generation.engine import Engine
from beholder.processing.images import open_picture

STEPS = 60
SETTLING = 250  # requests after which what is allocated once has been
GROWTH_PLACES = 2048  # tokens that are stored meanwhile
GROWTH_PICTURES = 2**19  # bytes of pictures' features that are
PICTURE_EVERY = 8  # of the requests that memory could grow by; the others are words


def overhead(bench: Bench) -> dict[str, float]:
    """Milliseconds of a step that are not the model's forward, with many answers running.

    A native step asks no module, and so no hook: how long it took the engine tells itself.
    """
    engine, model = bench.vlm.engine, bench.vlm.model
    length = STEPS + bench.plan.requests + 8
    requests = [bench.answer(bench.material.varied(), length) for _ in range(bench.plan.requests)]
    while any(not request.ids for request in requests):
        engine.step()
    forward = [0.0, 0.0]  # when it began, how long it took

    def begin(*_: Any) -> None:
        forward[0] = time.perf_counter()

    def end(*_: Any) -> None:
        forward[1] += time.perf_counter() - forward[0]

    handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    beside: list[float] = []
    try:
        for _ in range(STEPS):
            native = engine.stats().native_seconds
            forward[1], begun = 0.0, time.perf_counter()
            engine.step()
            taken = time.perf_counter() - begun
            beside.append(taken - forward[1] - (engine.stats().native_seconds - native))
    finally:
        for handle in handles:
            handle.remove()
        for request in requests:
            request.close()
    return {"overhead_ms_per_step": median_ms(beside), "least_overhead_ms_per_step": 1000 * min(beside)}


def preprocessing(bench: Bench) -> dict[str, float]:
    """Milliseconds from the bytes of a twelve-megapixel JPEG to what the model takes, and of the parts.

    Nothing can be faster than Pillow's decoding: at a smaller scale it would give other pixels. `pillow_rgb`
    is what Pillow alone takes to an RGB picture, with a copy of it.
    """
    data = large_jpeg()
    whole: list[float] = []
    opened: list[float] = []
    decoded: list[float] = []
    converted: list[float] = []
    for number in range(bench.plan.repeats + 1):
        begun = time.perf_counter()
        shown = open_picture(data)
        middle = time.perf_counter()
        bench.inputs((Message.user(shown, QUESTION),))
        done = time.perf_counter()
        Image.open(io.BytesIO(data)).load()
        bare = time.perf_counter()
        Image.open(io.BytesIO(data)).convert("RGB")
        if number:
            whole.append(done - begun)
            opened.append(middle - begun)
            decoded.append(bare - done)
            converted.append(time.perf_counter() - bare)
    return {
        "preprocess_12mp_ms": median_ms(whole),
        "preprocess_12mp_open_ms": median_ms(opened),
        "preprocess_12mp_bare_decode_ms": median_ms(decoded),
        "preprocess_12mp_pillow_rgb_ms": median_ms(converted),
    }


def formula(config: Any, itemsize: int, scale: int = 0) -> int:
    """Bytes of keys and values per token, from the language model's configuration alone; `scale` are those
    that the numbers of one head share."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * (width * itemsize + scale)


def memory(bench: Bench) -> dict[str, float]:
    """Bytes of keys and values per token, as held and by the formula; what many requests leave behind."""
    for _ in bench.answer(bench.material.first_turn(), 2):  # memory is taken with the first token
        pass
    stats, model = bench.vlm.engine.stats(), bench.vlm.model
    places = stats.bytes_total / stats.bytes_per_token
    return {
        "kv_bytes_per_token": stats.bytes_held / places,
        "kv_bytes_per_token_formula": float(
            formula(model.config, *((1, 4) if bench.vlm.engine.kv_dtype else (model.dtype.itemsize,)))
        ),
        "packed_bytes": float(stats.packed_bytes),
        **growth(bench),
    }


def growth(bench: Bench) -> dict[str, float]:
    """How much more a process holds after many requests, every eighth with a new picture.

    In an engine whose memory is so small that all of it is in use when counting begins: pages of a larger
    one would be touched for the first time meanwhile, which is no growth. What leaks does so to the end; what
    the process's allocator takes once, at whichever request, is not in the second half's figure.
    """
    block, plan = 16, bench.plan
    engine = Engine(
        bench.vlm.model,
        kv_memory=(GROWTH_PLACES + block) * bench.vlm.engine.kv_bytes_per_token,
        kv_dtype=bench.vlm.engine.kv_dtype,
        block=block,
        picture_memory=GROWTH_PICTURES,
        packed_memory=0,
        native="auto",
    )
    half = plan.growth // 2
    held: dict[int, int] = {}
    for number in range(SETTLING + plan.growth):
        if number in (SETTLING, SETTLING + half):
            held[number] = held_bytes() or 0
        shown = bench.material.first_turn() if number % PICTURE_EVERY == 0 else bench.material.words(number)
        for _ in engine.submit(bench.inputs(shown), Sampling(max_tokens=2, ignore_eos=True)):
            pass
    grown = {since: (held_bytes() or 0) - bytes_then for since, bytes_then in held.items()}
    left = engine.stats().blocks_used
    engine.close()
    values = {"growth_requests": float(plan.growth), "blocks_left_in_use": float(left)}
    if all(held.values()):
        whole, second = grown[SETTLING], grown[SETTLING + half]
        values["growth_bytes_per_request"] = whole / plan.growth
        values["growth_bytes_per_request_second_half"] = second / (plan.growth - half)
    return values
