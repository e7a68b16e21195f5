"""What a cluster on this machine's loopback address withstands, and how much it answers.

    python benchmarks/cluster.py kill [--requests 2000] [--models 2] [--replicas 2] [--every 5]
    python benchmarks/cluster.py speed [--requests 200]
    python benchmarks/cluster.py restart
    python benchmarks/cluster.py update [--requests 100]

`kill` ends replicas, and every fourth time a whole node, while requests run; the client asks nothing twice.
`speed` compares one process, one replica and two replicas, each pinned to one core. `restart` kills the head
and waits for the models to come back by themselves. `update` replaces a model while requests run.
Each writes a record; `kill` and `update` fail if a request ends in anything but a right answer or an error
that asks to come again. Processes that were not started here are left alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import httpx
from cluster_processes import HERE, QUESTIONS, Cluster, cluster, request, terminators

from beholder.core.records import capture, hash_weights
from beholder.mini import FOLDER

PICTURES = 8
READY_SECONDS = 900.0
LENGTH, AT_ONCE = 256, 8  # of the answers that are timed, and how many a process gives at once
RETRYABLE = {"replica_lost", "queue_full", "model_not_ready", "no_capacity", "shutting_down", "timeout"}
SHARE_RIGHT = 0.995
REPLICA, NODE = "ray::ServeReplica", "raylet/raylet"  # what their command lines hold


def ask(client: httpx.Client, body: dict[str, Any]) -> tuple[str, str]:
    """How one request ended: ("answer", its text), ("error", its code), or ("broken", what was wrong)."""
    try:
        if not body["stream"]:
            response = client.post("/v1/chat/completions", json=body)
            told = response.json()
            if response.status_code == 200:
                said = told["usage"]["completion_tokens"]
                if "logit_bias" in body and said != body["max_tokens"]:
                    return "broken", f"the answer has {said} tokens and not {body['max_tokens']}"
                return "answer", told["choices"][0]["message"]["content"]
            return "error", told["error"]["code"]
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                return "error", json.loads(response.read())["error"]["code"]
            return _read(line for line in response.iter_lines() if line.startswith("data: "))
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return "broken", f"{type(error).__name__}: {error}"


def _read(lines: Iterator[str]) -> tuple[str, str]:
    text = ""
    for line in lines:
        if line == "data: [DONE]":
            return "answer", text
        told = json.loads(line.removeprefix("data: "))
        if "error" in told:
            return "error", told["error"]["code"]
        text += told["choices"][0]["delta"].get("content") or ""
    return "broken", "the stream ended without [DONE]"


class Load:
    """Requests of several clients at once, and how they ended. With `tokens`, all answers are so long."""

    def __init__(self, url: str, models: list[str], tokens: int | None = None) -> None:
        self.url, self.models, self.tokens = url, models, tokens
        self.expected: dict[int, str] = {}
        self.ended: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._lock = threading.Lock()

    def one(self, number: int) -> None:
        """Request number so and so; every other one is a stream."""
        start = time.perf_counter()
        kind, told = ask(self.client, self.body(number, stream=bool(number // len(self.models) % 2)))
        if kind == "answer":
            wanted = self.expected.get(number % self.different)
            outcome = "right" if wanted in (told, None) else f"wrong: {told!r} and not {wanted!r}"
        else:
            outcome = told if kind == "error" and told in RETRYABLE else f"{kind}: {told}"
        with self._lock:
            self.ended[outcome] += 1
            self.seconds.append(time.perf_counter() - start)

    @property
    def different(self) -> int:
        """After how many requests the first comes again."""
        return len(self.models) * len(QUESTIONS) * PICTURES

    def body(self, number: int, *, stream: bool) -> dict[str, Any]:
        """The request of a number: its model, then its picture, then its question."""
        number, model = divmod(number, len(self.models))
        question, about = divmod(number, PICTURES)
        length: dict[str, Any] = {"max_tokens": 48}
        if self.tokens:
            length = {"max_tokens": self.tokens, "logit_bias": dict.fromkeys(map(str, terminators()), -100)}
        asked = QUESTIONS[question % len(QUESTIONS)]
        return request(self.models[model], asked, about, stream=stream, **length)

    def learn(self) -> Load:
        """Ask everything once while all is well: what is said now is right. Without it any answer is."""
        with httpx.Client(base_url=self.url, timeout=300, trust_env=False) as client:
            for number in range(self.different):
                kind, text = ask(client, self.body(number, stream=False))
                if kind != "answer":
                    raise SystemExit(f"request {number} is not answered: {text}")
                self.expected[number] = text
        return self

    def run(self, requests: int, clients: int, more: Callable[[], bool] = bool) -> float:
        """All of them, and on as long as more are wanted; how long it took."""
        start, numbers = time.perf_counter(), itertools.count()

        def one_after_the_other(_client: int) -> None:
            for number in numbers:
                if number >= requests and not more():
                    return
                self.one(number)

        limits = httpx.Limits(max_connections=clients)
        with (
            httpx.Client(base_url=self.url, timeout=READY_SECONDS, trust_env=False, limits=limits) as client,
            ThreadPoolExecutor(clients) as pool,
        ):
            self.client = client
            list(pool.map(one_after_the_other, range(clients)))
        return time.perf_counter() - start

    def values(self) -> dict[str, float]:
        """Counts by outcome, and times."""
        waited = sorted(self.seconds)
        return {
            "right": self.ended["right"],
            "retryable errors": sum(self.ended[code] for code in RETRYABLE),
            "anything else": sum(
                count for what, count in self.ended.items() if what != "right" and what not in RETRYABLE
            ),
            "median seconds": statistics.median(waited),
            "longest seconds": waited[-1],
        }


@contextmanager
def killing(running: Cluster, workers: list[str], every: float) -> Iterator[Counter[str]]:
    """End a random replica every so many seconds, and every fourth time a node with all on it."""
    ended, killed, drawn = threading.Event(), Counter[str](), random.Random(0)

    def work() -> None:
        for turn in itertools.count(1):
            if ended.wait(every):
                return
            worker = drawn.choice(workers)
            what, mark = ("node", NODE) if turn % 4 == 0 else ("replica", REPLICA)
            if victims := running.descendants(worker, mark):
                with suppress(ProcessLookupError):
                    os.kill(drawn.choice(victims), signal.SIGKILL)
                    killed[what] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def kill(given: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """Requests while replicas and nodes die."""
    models = [f"mini-{number}" for number in range(given.models)]
    # Two workers a model, so that the death of a node leaves the model a replica.
    share = max(1, given.replicas // 2)
    names = {f"{model}-{part}": model for model in models for part in range(min(2, given.replicas))}
    with cluster() as running:
        for name, model in names.items():
            running.worker(name, f"{model}={FOLDER}", "--replicas", str(share), "--cpus", "1")
        running.wait(dict.fromkeys(models, given.replicas))
        load = Load(running.url, models).learn()
        with killing(running, list(names), given.every) as killed:
            took = load.run(given.requests, given.clients)
        back = running.wait(dict.fromkeys(models, given.replicas))
    print(load.ended, file=sys.stderr)
    killed_values = {f"{what}s killed": float(count) for what, count in killed.items()}
    return {**load.values(), **killed_values, "seconds": took, "seconds until whole again": back}, {
        "models": given.models, "replicas": given.replicas, "every": given.every, "clients": given.clients,
    }  # fmt: skip


def restart(_given: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """A replica dies, a node, the head with the controller; how soon it is told, and all is well again."""
    with cluster() as running:
        running.worker("one", f"mini={FOLDER}", "--cpus", "1")
        first = running.wait({"mini": 1})
        replica, node = (off_the_list(running, mark) for mark in (REPLICA, NODE))
        running.kill_head()
        running.controller()
        listed = time.monotonic()
        while "mini" not in running.listed():
            time.sleep(0.1)
        listed = time.monotonic() - listed
        again = running.wait({"mini": 1}) + listed
        Load(running.url, ["mini"]).learn()
    return {
        "seconds to start": first,
        "seconds until a dead replica is off the list": replica,
        "seconds until a dead node is off the list": node,
        "seconds to be listed again": listed,
        "seconds to answer again": again,
    }, {}


def off_the_list(running: Cluster, mark: str) -> float:
    """Kill a process of the only worker; how long its replica is listed, before it comes back."""
    os.kill(running.descendants("one", mark)[0], signal.SIGKILL)
    start = time.monotonic()
    while running.listed()["mini"]["replicas"]["ready"]:
        time.sleep(0.02)
    taken = time.monotonic() - start
    running.wait({"mini": 1})
    return taken


def update(given: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """The model of a name is replaced by another on both workers; until it is, no request may fail."""
    with cluster() as running:
        options = ("--cpus", "1", "--max-running", "8")
        for name in ("one", "two"):
            running.worker(name, f"mini={FOLDER}", *options)
        running.wait({"mini": 2})
        load = Load(running.url, ["mini"]).learn()
        before = {pid for name in ("one", "two") for pid in running.replicas(name)}
        running.worker("three", f"mini={FOLDER}", "--cpus", "1", "--max-running", "9", "--update")
        until = time.monotonic() + READY_SECONDS

        def is_under_way() -> bool:
            still = any(Path(f"/proc/{pid}").exists() for pid in before)
            if still and time.monotonic() > until:
                raise SystemExit(f"old replicas are still there: {before}")
            return still

        took = load.run(given.requests, given.clients, is_under_way)
        running.wait({"mini": 3})
    print(load.ended, file=sys.stderr)
    return {**load.values(), "requests": len(load.seconds), "seconds": took}, {"clients": given.clients}


def speed(given: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """Requests a second of one process on one core, of one replica, and of two; and the ingress alone.

    There are more clients than all of them together answer at once, so what is compared is what they can do.
    """
    values: dict[str, float] = {}
    at_once = ("--max-running", str(AT_ONCE))
    with cluster() as running:
        port = str(running.port + 1)
        options = ("--no-web", "--device", "cpu", "--max-waiting", "1000", *at_once)
        running.start("alone", "serve", f"mini={FOLDER}", "--port", port, *options)
        os.sched_setaffinity(running.processes["alone"].pid, {0})
        alone = f"http://127.0.0.1:{port}"
        wait_for(alone)

        def measure(name: str, url: str) -> None:
            load = Load(url, ["mini"], LENGTH)
            load.run(given.clients, given.clients)  # what is learned once is learned
            load.ended.clear()
            values[f"requests a second, {name}"] = given.requests / load.run(given.requests, given.clients)
            if load.ended["right"] != given.requests:
                raise SystemExit(f"{name}: {load.ended}")
            values[f"seconds of one short answer, {name}"] = single(url)

        measure("one process", alone)
        running.processes["alone"].terminate()
        running.processes["alone"].wait()
        for count in (1, 2):
            running.worker(f"worker {count}", f"mini={FOLDER}", "--cpus", "1", "--pin", *at_once)
            running.wait({"mini": count})
            measure(f"replicas: {count}", running.url)
    one = values["requests a second, one process"]
    values["two replicas over one process"] = values["requests a second, replicas: 2"] / one
    name = "seconds of one short answer, "
    values["seconds that the ingress adds"] = values[name + "replicas: 1"] - values[name + "one process"]
    return values, {
        "clients": given.clients, "tokens": LENGTH, "at once": AT_ONCE, "conversations": PICTURES,
    }  # fmt: skip


def single(url: str) -> float:
    """The median time of one token to a question that is in the cache."""
    body, waited = request("mini", QUESTIONS[0], max_tokens=1), list[float]()
    with httpx.Client(base_url=url, timeout=300, trust_env=False) as client:
        for _ in range(30):
            start = time.perf_counter()
            client.post("/v1/chat/completions", json=body).raise_for_status()
            waited.append(time.perf_counter() - start)
    return statistics.median(waited[5:])


def wait_for(url: str) -> None:
    """Until a server is ready."""
    until = time.monotonic() + 600
    while time.monotonic() < until:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/ready", trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{url} did not become ready")


WAYS: dict[str, Callable[[argparse.Namespace], tuple[dict[str, float], dict[str, Any]]]] = {
    "kill": kill, "speed": speed, "restart": restart, "update": update,
}  # fmt: skip


def main() -> int:
    """Run one of them and write its record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, help="at once; 8, or 24 for speed")
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.clients = given.clients or (3 * AT_ONCE if given.way == "speed" else AT_ONCE)
    start = time.perf_counter()
    values, settings = WAYS[given.way](given)
    samples = int(values.get("requests", given.requests)) if given.way != "restart" else 1
    record = capture(
        subject="beholder-mini", weights=hash_weights(FOLDER), measure=f"cluster {given.way}", values=values,
        samples=samples, settings=settings, seconds=time.perf_counter() - start,
    )  # fmt: skip
    out = given.out or HERE / "results" / f"cluster-{given.way}-{date.today().isoformat()}.json"
    print(record.write(out))
    print(json.dumps(values, indent=1))
    if given.way == "update":
        return 0 if values["right"] == values["requests"] else 1
    if given.way == "kill":
        return 0 if not values["anything else"] and values["right"] >= SHARE_RIGHT * given.requests else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
