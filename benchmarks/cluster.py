"""What a cluster on this machine's loopback address withstands, and how much it answers.

    python benchmarks/cluster.py kill [--requests 2000] [--models 2] [--replicas 2] [--every 5]
    python benchmarks/cluster.py speed [--requests 200] [--model FOLDER] [--tokens 256] [--fresh]
    python benchmarks/cluster.py restart
    python benchmarks/cluster.py update [--requests 100]
    python benchmarks/cluster.py grow [--requests 100]

`kill` ends replicas, and every fourth time a whole node, while requests run; the client asks nothing twice.
`speed` compares one process, one replica and two replicas, each pinned to one core; with `--fresh` each
request is about a picture of its own, so prompts are read instead of remembered; how much of the cores went
to those who answer, and not to clients, controller and Ray, is told beside, and what a request costs each of
these. `restart` kills the head and waits for the models to come back by themselves. `update` replaces a model
while requests run.
`grow` asks more than one replica of `--replicas 1-2` can answer, then nothing. Each writes a record; `kill`,
`update` and `grow` fail if a request ends in anything but a right answer or an error that asks to come again.
Processes that were not started here are left alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import httpx
from cluster_load import PICTURES, Load
from cluster_processes import (
    HERE,
    QUESTIONS,
    READY_SECONDS,
    Cluster,
    cluster,
    processor_seconds,
    request,
    terminators,
)

from beholder.core.records import capture, hash_weights
from beholder.mini import FOLDER

AT_ONCE = 8  # answers that a process gives at once where speed is compared
SERVED = "measured"  # the name that a model whose speed is compared is served under
SHARE_RIGHT = 0.995
REPLICA, NODE = "ray::ServeReplica", "raylet/raylet"  # what their command lines hold


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


def grow(given: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """A worker of one replica or two: how soon there are two while requests wait, and one when none do."""
    with cluster() as running:
        running.worker("one", f"mini={FOLDER}", "--replicas", "1-2", "--cpus", "1", "--max-running", "2")
        running.wait({"mini": 1})
        load, start, grown = Load(running.url, ["mini"]).learn(), time.monotonic(), list[float]()

        def is_alone() -> bool:
            """Asked before each request once enough were asked."""
            if not grown and running.listed()["mini"]["replicas"]["ready"] == 2:
                grown.append(time.monotonic() - start)
            if not grown and time.monotonic() - start > READY_SECONDS:
                raise SystemExit("the second replica has not come")
            return not grown

        took = load.run(given.requests, given.clients, is_alone)
        shrunk = running.wait({"mini": 1})
    print(load.ended, file=sys.stderr)
    return {
        **load.values(), "requests": len(load.seconds), "seconds": took, "seconds to two replicas": grown[0],
        "seconds without requests to one replica": shrunk,
    }, {"clients": given.clients}  # fmt: skip


def speed(given: argparse.Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """Requests a second of one process on one core, of one replica, and of two; and the ingress alone.

    Beside them, what two cores get done at most that have nothing in common to do.
    There are more clients than all of them together answer at once, so what is compared is what they can do.
    """
    values = {"two loops that share nothing over one": loops([0, 1]) / loops([0])}
    ends = terminators(given.model)
    at_once = ("--max-running", str(AT_ONCE))
    with cluster() as running:
        port = str(running.port + 1)
        options = ("--no-web", "--device", "cpu", "--max-waiting", "1000", *at_once)
        running.start("alone", "serve", f"{SERVED}={given.model}", "--port", port, *options)
        os.sched_setaffinity(running.processes["alone"].pid, {0})
        alone = f"http://127.0.0.1:{port}"
        wait_for(alone)

        def measure(name: str, url: str, parts: dict[str, list[int]]) -> None:
            load = Load(url, [SERVED], given.tokens, ends, fresh=given.fresh)
            load.run(given.clients, given.clients)  # what is learned once is learned
            load.ended.clear()
            before = {part: processor_seconds(processes) for part, processes in parts.items()}
            took = load.run(given.requests, given.clients)
            values[f"requests a second, {name}"] = given.requests / took
            used = {part: processor_seconds(processes) - before[part] for part, processes in parts.items()}
            values[f"cores that answered, {name}"] = used["answering"] / took
            for part, seconds in used.items():
                values[f"processor seconds of a request, {part}, {name}"] = seconds / given.requests
            if load.ended["right"] != given.requests:
                raise SystemExit(f"{name}: {load.ended}")
            values[f"seconds of one short answer, {name}"] = single(url)

        measure("one process", alone, {"answering": [running.processes["alone"].pid]})
        running.processes["alone"].terminate()
        running.processes["alone"].wait()
        for count in (1, 2):
            running.worker(f"worker {count}", f"{SERVED}={given.model}", "--cpus", "1", "--pin", *at_once)
            running.wait({SERVED: count})
            workers = [f"worker {number}" for number in range(1, count + 1)]
            measure(f"replicas: {count}", running.url, running.parts(workers))
    one, two = (values[f"requests a second, {name}"] for name in ("one process", "replicas: 2"))
    values["two replicas over one process"] = two / one
    got = values["cores that answered, replicas: 2"] / values["cores that answered, one process"]
    values["the same for the cores they got"] = two / one / got
    name = "seconds of one short answer, "
    values["seconds that the ingress adds"] = values[name + "replicas: 1"] - values[name + "one process"]
    return values, {
        "clients": given.clients, "tokens": given.tokens, "at once": AT_ONCE,
        "conversations": given.requests if given.fresh else PICTURES,
    }  # fmt: skip


LOOP = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
end, done = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    sum(range(100_000))
    done += 1
print(done)
"""


def loops(cores: Sequence[int], seconds: float = 3.0) -> int:
    """How often processes that wait for nothing and nobody go round, one on each core, all together.

    What two cores are worth to two replicas at most: those of a virtual machine may be halves of one.
    """
    command = [sys.executable, "-c", LOOP]
    running = [
        subprocess.Popen([*command, str(core), str(seconds)], stdout=subprocess.PIPE, text=True)
        for core in cores
    ]
    return sum(int(process.communicate()[0]) for process in running)


def single(url: str) -> float:
    """The median time of one token to a question that is in the cache."""
    body, waited = request(SERVED, QUESTIONS[0], max_tokens=1), list[float]()
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
    "kill": kill, "speed": speed, "restart": restart, "update": update, "grow": grow,
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
    parser.add_argument("--model", type=Path, default=FOLDER, help="whose speed is compared")
    parser.add_argument("--tokens", type=int, default=256, help="of the answers whose speed is compared")
    parser.add_argument("--fresh", action="store_true", help="no two requests about one picture, for speed")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.clients = given.clients or (3 * AT_ONCE if given.way == "speed" else AT_ONCE)
    start = time.perf_counter()
    values, settings = WAYS[given.way](given)
    samples = int(values.get("requests", given.requests)) if given.way != "restart" else 1
    subject = "beholder-mini" if given.model == FOLDER else given.model.resolve().name
    record = capture(
        subject=subject, weights=hash_weights(given.model), measure=f"cluster {given.way}", values=values,
        samples=samples, settings=settings, seconds=time.perf_counter() - start,
    )  # fmt: skip
    about = given.way if given.model == FOLDER else f"{given.way}-{subject}"
    about += "-fresh" * given.fresh
    out = given.out or HERE / "results" / f"cluster-{about}-{date.today().isoformat()}.json"
    print(record.write(out))
    print(json.dumps(values, indent=1))
    if given.way in ("update", "grow"):
        return 0 if values["right"] == values["requests"] else 1
    if given.way == "kill":
        return 0 if not values["anything else"] and values["right"] >= SHARE_RIGHT * given.requests else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
