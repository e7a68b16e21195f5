"""What the server costs beside the engine, and how it stands beside `transformers serve`.

    python benchmarks/serving_speed.py [MODEL | --random llava-1.1b] [--figures overhead,first,pictures]
        [--streams 16] [--tokens 256] [--rounds 12] [--requests 32] [--answer 64] [--peer-requests 32]

`overhead`: seconds of so many streams at once over HTTP, beside the same requests given to the engine itself.
`first`: from a request's first byte to the first token, beside the engine's. `pictures`: many picture
requests at once, then the same of `transformers serve` over the same folder (MODEL must be one that it can
read: llava-hf's layout).

The engine's thread runs the steps in both; who prepares the pictures beside it keeps to one core in both.
Engine and server share one process and one loaded model, and take turns, first the one and then the other,
so that what disturbs the machine disturbs both; the server is the application and the uvicorn of `beholder
serve`, its client is another process. Both begin with a JPEG file's bytes, no two alike, and answer greedily
for exactly so many tokens. Each figure is a record of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import serving_peer
import torch
import uvicorn
from serving_client import Client

import beholder
from beholder.api import checkpoint_folder
from beholder.benchmarking.machine import memory_rate
from beholder.benchmarking.material import QUESTION, picture
from beholder.core.records import capture, hash_weights
from beholder.core.types import Message, Sampling
from beholder.families.random_weights import write_random
from beholder.processing.images import open_picture
from beholder.serving.app import create_app
from beholder.serving.draining import configured
from beholder.serving.registry import Registry, Served
from beholder.serving.settings import Settings
from beholder.serving.threads import work_alone

HERE = Path(__file__).resolve().parent
PATH = "/v1/chat/completions"
NAME = "model"
LAYOUT = "llava-hf"
NEVER = 2**31 - 1  # no token has this id


@dataclass
class Place:
    """One loaded model, asked directly and over HTTP."""

    vlm: beholder.VLM
    port: int
    client: Client
    options: argparse.Namespace
    shown: int = 0
    texts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def files(self, count: int) -> list[bytes]:
        """JPEGs that nobody has seen."""
        found: list[bytes] = []
        for _ in range(count):
            self.shown += 1
            held = io.BytesIO()
            picture(self.shown).save(held, "JPEG", quality=90)
            found.append(held.getvalue())
        return found

    def engine(self, files: list[bytes], tokens: int) -> tuple[float, list[float]]:
        """Seconds until the last token of all, and until the first of each."""
        self.vlm.engine.forget()  # each round finds its memory as empty as the others
        begun = time.perf_counter()
        requests: list[Any] = []
        for held in files:
            inputs = self.vlm.processor.encode((Message.user(open_picture(held), QUESTION),))
            requests.append(self.vlm.engine.submit(inputs, Sampling(max_tokens=tokens, ignore_eos=True)))
        for request in requests:
            for _ in request:
                pass
        return time.perf_counter() - begun, [request.clock.first - begun for request in requests]

    def server(self, files: list[bytes], tokens: int) -> list[dict[str, Any]]:
        """What came of the same requests over HTTP."""
        self.vlm.engine.forget()
        bodies = [
            {
                "model": NAME, "stream": True, "max_tokens": tokens, "ignore_eos": True,
                "stream_options": {"include_usage": True},
                "messages": [{"role": "user", "content": content(held)}],
            }
            for held in files
        ]  # fmt: skip
        found = self.client.run(self.port, PATH, bodies)
        counted(found, tokens)
        return found


def content(held: bytes) -> list[dict[str, Any]]:
    """A picture and the question as OpenAI's API has them."""
    url = "data:image/jpeg;base64," + base64.b64encode(held).decode("ascii")
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]


def counted(found: list[dict[str, Any]], tokens: int) -> None:
    """Every answer must have as many tokens as were asked for; fewer would be quicker."""
    told = {one["usage"]["completion_tokens"] for one in found}
    if told != {tokens}:
        raise SystemExit(f"{tokens} tokens were asked for and {sorted(told)} came")


def overhead(place: Place) -> dict[str, float]:
    """Seconds of all streams together, by the engine and over HTTP, in turns of changing order."""
    streams, tokens = place.options.streams, place.options.tokens
    place.engine(place.files(streams), 8)
    place.server(place.files(streams), 8)
    direct: list[float] = []
    served: list[float] = []
    events = 0
    for number in range(place.options.rounds):
        for is_served in (number % 2 == 0, number % 2 == 1):
            files = place.files(streams)
            if is_served:
                found = place.server(files, tokens)
                served.append(max(one["end"] for one in found))
                events += sum(one["events"] for one in found)
            else:
                direct.append(place.engine(files, tokens)[0])
        print(f"{number + 1}: engine {direct[-1]:.3f} s, server {served[-1]:.3f} s", file=sys.stderr)
    shares = [one / other for one, other in zip(served, direct, strict=True)]
    low, _, high = statistics.quantiles(shares) if len(shares) > 1 else shares * 3
    return {
        "engine_s": statistics.median(direct),
        "server_s": statistics.median(served),
        "overhead_percent": 100 * (statistics.median(shares) - 1),
        "overhead_percent_of_sums": 100 * (sum(served) / sum(direct) - 1),
        "overhead_percent_of_best": 100 * (min(served) / min(direct) - 1),
        "overhead_percent_lower_quartile": 100 * (low - 1),
        "overhead_percent_upper_quartile": 100 * (high - 1),
        "server_tokens_per_s": streams * tokens / statistics.median(served),
        "events_per_answer": events / (streams * len(served)),
    }


def first(place: Place) -> dict[str, float]:
    """Milliseconds to the first token, alone on the machine, by the engine and over HTTP in turns."""
    direct: list[float] = []
    served: list[float] = []
    for number in range(place.options.firsts + 3):
        for is_served in (number % 2 == 0, number % 2 == 1):
            files = place.files(1)
            if is_served:
                served.append(place.server(files, 1)[0]["first"])
            else:
                direct.append(place.engine(files, 1)[1][0])
        if number < 3:  # the first ones prepare what later ones find
            direct.clear()
            served.clear()
    differences = [1000 * (one - other) for one, other in zip(served, direct, strict=True)]
    return {
        "engine_first_token_ms": 1000 * statistics.median(direct),
        "server_first_token_ms": 1000 * statistics.median(served),
        "difference_of_medians_ms": 1000 * (statistics.median(served) - statistics.median(direct)),
        "difference_p50_ms": statistics.median(differences),
    }


def pictures(place: Place) -> dict[str, float]:
    """Requests with a picture each, all at once; how long each waited, and all of them together."""
    count, tokens = place.options.requests, place.options.answer
    place.server(place.files(min(count, 4)), 4)
    begun = place.shown
    found = place.server(place.files(count), tokens)
    place.shown = begun  # the peer gets the same pictures
    place.texts["ours"] = [one["text"] for one in found]
    taken = max(one["end"] for one in found)
    return {
        "tokens_per_s": count * tokens / taken,
        "seconds": taken,
        **waits("", [one["end"] for one in found]),
        **waits("first_token_", [one["first"] for one in found]),
    }


def waits(prefix: str, seconds: list[float]) -> dict[str, float]:
    """Median and longest, and how much longer that is."""
    middle, longest = statistics.median(seconds), max(seconds)
    return {
        f"{prefix}wait_p50_s": middle,
        f"{prefix}wait_max_s": longest,
        f"{prefix}wait_max_times_p50": longest / middle,
    }


def pictures_of_peer(place: Place, folder: Path, dtype: str) -> dict[str, float]:
    """The same of `transformers serve`."""
    count, tokens = place.options.peer_requests or place.options.requests, place.options.answer
    with serving_peer.serving(folder, dtype, place.options.threads) as port:

        def ask(files: list[bytes], length: int) -> list[dict[str, Any]]:
            bodies = [serving_peer.body(folder, content(held), length, [NEVER]) for held in files]
            found = place.client.run(port, PATH, bodies)
            counted(found, length)
            return found

        ask(place.files(1), 4)
        place.shown -= 1
        found = ask(place.files(count), tokens)
    taken = max(one["end"] for one in found)
    pairs = list(zip(place.texts["ours"], (one["text"] for one in found), strict=False))
    return {
        "peer_tokens_per_s": count * tokens / taken,
        "peer_seconds": taken,
        "peer_requests": float(count),
        "equal_answers_share": sum(one.strip() == other.strip() for one, other in pairs) / len(pairs),
        **{f"peer_{name}": value for name, value in waits("", [one["end"] for one in found]).items()},
    }


FIGURES: dict[str, Callable[[Place], dict[str, float]]] = {
    "overhead": overhead, "first": first, "pictures": pictures,
}  # fmt: skip


@contextmanager
def opened(folder: Path, options: argparse.Namespace) -> Generator[Place]:
    """The model, and the server over it in a thread, as `beholder serve` runs it."""
    registry = Registry([served := Served(NAME, str(folder))])
    given = {"device": options.device, "dtype": options.dtype, "most_running": options.running}
    with ThreadPoolExecutor(1) as elsewhere:  # as the server loads: in a thread that ends
        elsewhere.submit(served.open, lambda _: beholder.load(folder, **given)).result()
    work_alone()
    if served.state != "ready":
        raise SystemExit(served.reason)
    settings = Settings(most_running=options.running)
    port = serving_peer.free_port()
    running = uvicorn.Server(configured(create_app(registry, settings), "127.0.0.1", port))

    def run() -> None:
        with asyncio.Runner(loop_factory=running.config.get_loop_factory()) as runner:
            runner.run(running.serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    vlm = served.vlm
    assert vlm is not None
    vlm.engine.start()
    try:
        with closing(Client()) as client:
            yield Place(vlm, port, client, options)
    finally:
        running.should_exit = True
        thread.join(30)


def measure(name: str, folder: Path, subject: str, options: argparse.Namespace) -> Any:
    """One figure as a record."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(1) as elsewhere:  # its kernels' helpers end with it
        rate = elsewhere.submit(memory_rate, torch.device(options.device)).result()
    with opened(folder, options) as place:
        model = place.vlm.model
        values = {"memory_gb_per_s": rate, **FIGURES[name](place)}
        told = {
            "streams": options.streams, "tokens": options.tokens, "rounds": options.rounds,
            "firsts": options.firsts, "requests": options.requests, "answer": options.answer,
            "running": options.running, "events_per_second": Settings().events_per_second,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dtype": str(model.dtype), "device": str(model.device), "threads": options.threads,
            "loop": type(uvicorn.Config(None).get_loop_factory()()).__module__,
            "sampling": "greedy", "statistic": "median", "peer": "none",
        }  # fmt: skip
    dtype = str(model.dtype).removeprefix("torch.")
    del model, place.vlm  # the peer's weights take their place
    if name == "pictures" and options.peer:
        with closing(Client()) as place.client:
            values |= pictures_of_peer(place, folder, dtype)
        values["times_peer"] = values["tokens_per_s"] / values["peer_tokens_per_s"]
        told["peer"] = f"{serving_peer.NAME}, one request after the other, which is what it does by default"
    return capture(
        subject=subject, weights=hash_weights(folder), measure=f"serving {name}", values=values,
        samples={"overhead": options.rounds, "first": options.firsts}.get(name, options.requests),
        settings=told, seconds=time.perf_counter() - begun,
    )  # fmt: skip


def read_options() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", nargs="?", help="a folder or hub id; the built-in model if left out")
    add("--random", help="instead of a model: a size, of random weights, removed afterwards")
    add("--layers", type=int, help="with --random: at most so many layers")
    add("--figures", default=",".join(FIGURES))
    add("--streams", type=int, default=16)
    add("--tokens", type=int, default=256, help="tokens of each stream")
    add("--rounds", type=int, default=12, help="how often engine and server take turns")
    add("--firsts", type=int, default=40, help="first tokens of each")
    add("--requests", type=int, default=32, help="picture requests at once")
    add("--answer", type=int, default=64, help="tokens of each of their answers")
    add("--peer-requests", type=int, help="fewer for the peer, which answers one after the other")
    add("--peer", action=argparse.BooleanOptionalAction, default=True)
    add("--running", type=int, default=32, help="answers computed at once")
    add("--device", default="cpu")
    add("--dtype", default="auto")
    add("--threads", type=int, help="torch's threads; torch's own choice if left out")
    add("--results", type=Path, default=HERE / "results")
    return parser.parse_args()


def main() -> None:
    """Measure, print, record."""
    options = read_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="beholder-serving-") as made:
        subject = options.model or "beholder-mini"
        folder = checkpoint_folder(options.model)
        if options.random:
            few = f", {options.layers} layers" if options.layers else ""
            subject, folder = f"random {options.random}{few}", Path(made) / options.random
            write_random(options.random, folder, layout=LAYOUT, layers=options.layers)
        short = folder.name if options.random or options.model else subject
        for name in options.figures.split(","):
            record = measure(name, folder, subject, options)
            for value, number in record.values.items():
                print(f"{value:>34}  {number:.4g}")
            print(record.write(options.results / f"serving-{short.lower()}-{name}-{date.today()}.json"))


if __name__ == "__main__":
    main()
