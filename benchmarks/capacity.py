"""How much a cluster answers, and what is in the way next: bounds from data sheets, costs measured here, and
a simulation of requests that queue, batch and return to the replica that knows them.

    python benchmarks/capacity.py bounds                    # pictures and tokens a second by GPU, per million
    python benchmarks/capacity.py costs                     # what the ingress spends on a request, measured
    python benchmarks/capacity.py simulate [--replicas 2] [--clients 8] [--requests 2000] [...]
    python benchmarks/capacity.py check RECORD              # it beside a `cluster.py speed` record

`bounds` multiplies public figures of GPUs by two stated efficiencies; it measures nothing. Prices are what
you give with --price. `check` takes the speed of one process and the cores that replicas got from the record,
predicts the replicas' speed, and fails if the prediction for two is more than 15 % off.
"""

from __future__ import annotations

import argparse
import base64
import heapq
import json
import os
import random
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from beholder.serving.cluster.affinity import conversation_key, ranked, spilled

ALLOWED_ERROR = 0.15


class GPU(NamedTuple):
    """Public figures: memory in GB, its speed in GB/s, dense bfloat16 in TFLOP/s."""

    name: str
    memory: float
    bandwidth: float
    tflops: float


class System(NamedTuple):
    """Billions of parameters of language model and towers, slots of a picture, bytes of cache a token."""

    name: str
    text: float
    towers: float
    tower_tokens: int
    slots: int
    cache_bytes: int


GPUS = (
    GPU("L4", 24, 300, 121), GPU("L40S", 48, 864, 362), GPU("A100 80 GB", 80, 2039, 312),
    GPU("H100 SXM", 80, 3350, 989), GPU("H200", 141, 4800, 989),
)  # fmt: skip
SYSTEMS = (
    System("LLaVA-1.5 7B", 6.7, 0.3, 577, 576, 524288), System("LLaVA-1.5 13B", 13.0, 0.3, 577, 576, 819200),
    System("InternVL-Chat 13B", 13.0, 5.9, 577, 576, 819200),
    System("360VL 8B", 8.0, 0.3, 577 * 2, 1152, 131072),
    System("360VL 70B", 70.6, 0.3, 577 * 2, 1152, 327680),
)  # fmt: skip
# Parts of the data sheet's speed that serving reaches: arithmetic in prompts, memory in answers.
COMPUTE_SHARE, MEMORY_SHARE = 0.4, 0.7
QUESTION_TOKENS, ANSWER_TOKENS, BATCH = 40, 20, 32


def bounds(price: float) -> None:
    """A table: pictures a second with short answers, tokens a second, and the price of a million pictures."""
    print("| system | GPU | GPUs | pictures/s | tokens/s, batch 32 | answers at once | a million pictures |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for system in SYSTEMS:
        for gpu in GPUS:
            weights = 2 * (system.text + system.towers)
            count = next((n for n in (1, 2, 4, 8) if n * gpu.memory * 0.9 > weights * 1.15), 0)
            if not count:
                print(f"| {system.name} | {gpu.name} | more than 8 | | | | |")
                continue
            tokens = system.slots + QUESTION_TOKENS
            work = 2 * (system.text * tokens + system.towers * system.tower_tokens) / 1000  # TFLOP
            prefill = work / (gpu.tflops * count * COMPUTE_SHARE)
            cache = BATCH * (tokens + ANSWER_TOKENS) * system.cache_bytes / 1e9
            step = (2 * system.text + cache) / (gpu.bandwidth * count * MEMORY_SHARE)
            pictures = 1 / (prefill + ANSWER_TOKENS * step / BATCH)
            room = (
                (count * gpu.memory * 0.9 - weights) * 1e9 / (system.cache_bytes * (tokens + ANSWER_TOKENS))
            )
            cost = price * count / 3600 / pictures * 1e6
            print(
                f"| {system.name} | {gpu.name} | {count} | {pictures:.1f} | {BATCH / step:.0f} | {room:.0f} "
                f"| {cost:.0f} |"
            )


def costs() -> None:
    """CPU time of what an ingress does with a request before it goes out, in milliseconds."""
    for megabytes in (0.1, 1.0, 10.0):
        url = "data:image/jpeg;base64," + base64.b64encode(os.urandom(int(megabytes * 750_000))).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
        held = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
        spent = _milliseconds(lambda held=held: conversation_key(json.loads(held)))
        print(f"read and key, {megabytes:g} MB of body: {spent:.2f} ms")
    for workers in (2, 10, 125, 1000):
        weights = {f"{number:032x}": 8.0 for number in range(workers)}
        loads = dict.fromkeys(weights, 3.0)
        spent = _milliseconds(lambda w=weights, o=loads: spilled(ranked(os.urandom(16), w), o, w))
        print(f"choose among {workers} workers: {spent:.3f} ms")


def _milliseconds(function: object) -> float:
    assert callable(function)
    spent: list[float] = []
    for _ in range(15):
        start = time.process_time()
        function()
        spent.append(time.process_time() - start)
    return statistics.median(spent) * 1000


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Seconds that a replica needs: to read a new prompt, one that it knows, and for a step of `b` answers
    `step + b * beside`. `ingress` is spent on every request by one process for all."""

    prompt: float
    known_prompt: float
    step: float
    beside: float
    tokens: int = ANSWER_TOKENS
    ingress: float = 0.0
    most_running: int = 32


@dataclass
class Replica:
    """What one replica is doing."""

    waiting: deque[int] = field(default_factory=deque)
    running: dict[int, int] = field(default_factory=dict)  # request -> tokens to come
    known: set[int] = field(default_factory=set)
    is_busy: bool = False

    @property
    def load(self) -> int:
        """Requests inside."""
        return len(self.waiting) + len(self.running)


class Simulation:
    """Clients that ask again as soon as they are answered, over replicas that batch."""

    def __init__(
        self, machine: Machine, replicas: int, clients: int, conversations: int, seed: int = 0
    ) -> None:
        self.machine = machine
        self.replicas = [Replica() for _ in range(replicas)]
        self.names = {str(number): 1.0 for number in range(replicas)}
        self.drawn = random.Random(seed)
        self.clients, self.conversations = clients, conversations
        self.now = self.ingress_free = 0.0
        self.events: list[tuple[float, int, str, int]] = []
        self.begun: dict[int, float] = {}
        self.about: dict[int, int] = {}
        self.waited: list[float] = []
        self.hits = self.number = 0

    def run(self, requests: int) -> dict[str, float]:
        """Requests a second, seconds of a request, and how often a replica knew the conversation."""
        for _ in range(self.clients):
            self._ask()
        while len(self.waited) < requests:
            self.now, _, what, which = heapq.heappop(self.events)
            if what == "arrive":
                self._arrive(which)
            else:
                self._step(which)
        waited = sorted(self.waited)
        return {
            "requests a second": requests / self.now,
            "median seconds": statistics.median(waited),
            "99th percentile seconds": waited[int(0.99 * len(waited))],
            "known": self.hits / self.number,
        }

    def _at(self, when: float, what: str, which: int) -> None:
        heapq.heappush(self.events, (when, len(self.waited) + self.number, what, which))

    def _ask(self) -> None:
        number = self.number = self.number + 1
        self.begun[number] = self.now
        self.about[number] = self.drawn.randrange(self.conversations)
        self.ingress_free = max(self.now, self.ingress_free) + self.machine.ingress
        self._at(self.ingress_free, "arrive", number)

    def _arrive(self, number: int) -> None:
        key = self.about[number].to_bytes(8, "big")
        loads = {name: float(self.replicas[int(name)].load) for name in self.names}
        chosen = int(spilled(ranked(key, self.names), loads, self.names)[0])
        self.replicas[chosen].waiting.append(number)
        if not self.replicas[chosen].is_busy:
            self.replicas[chosen].is_busy = True
            self._at(self.now, "step", chosen)

    def _step(self, which: int) -> None:
        """The end of a replica's step: give a token to each, let one in, and begin the next step."""
        machine, replica = self.machine, self.replicas[which]
        for number in list(replica.running):
            replica.running[number] -= 1
            if not replica.running[number]:
                del replica.running[number]
                self.waited.append(self.now - self.begun.pop(number))
                self._ask()
        spent = 0.0
        if replica.waiting and len(replica.running) < machine.most_running:
            number = replica.waiting.popleft()
            is_known = self.about[number] in replica.known
            self.hits += is_known
            replica.known.add(self.about[number])
            replica.running[number] = machine.tokens
            spent += machine.known_prompt if is_known else machine.prompt
        if replica.running:
            spent += machine.step + machine.beside * len(replica.running)
            self._at(self.now + spent, "step", which)
        else:
            replica.is_busy = False


def check(path: Path) -> int:
    """Fit one process to the record, predict the replicas, and compare."""
    told = json.loads(path.read_text())
    values, settings = told["values"], told["settings"]
    clients, conversations = settings["clients"], settings["conversations"]
    machine = partial(_like, tokens=settings["tokens"], most_running=settings["at once"])
    measured = values["requests a second, one process"]
    # One unknown is fitted, the time of a step; the others follow it in the ratios of the built-in model.
    low, high = 1e-6, 10.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        rate = Simulation(machine(middle, 0.0), 1, clients, conversations).run(400)["requests a second"]
        low, high = (middle, high) if rate > measured else (low, middle)
    worst = 0.0
    added = max(0.0, values["seconds that the ingress adds"])
    for count in (1, 2):
        name = f"requests a second, replicas: {count}"
        # Clients, controller and Ray run on the same cores; what the replicas got of theirs was measured.
        cores = [values[f"cores that answered, {who}"] for who in ("one process", f"replicas: {count}")]
        share = min(1.0, cores[1] / count / cores[0])
        predicted = Simulation(machine(low / share, added / 2), count, clients, conversations).run(800)
        predicted = predicted["requests a second"]
        error = predicted / values[name] - 1
        worst = abs(error) if count == 2 else worst
        print(f"{name}: measured {values[name]:.2f}, predicted {predicted:.2f} ({error:+.1%})")
    return 0 if worst <= ALLOWED_ERROR else 1


def _like(step: float, ingress: float, *, tokens: int, most_running: int) -> Machine:
    return Machine(
        prompt=6 * step, known_prompt=2 * step, step=step, beside=0.2 * step, tokens=tokens, ingress=ingress,
        most_running=most_running,
    )  # fmt: skip


def main() -> int:
    """Choose one of the four."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=("bounds", "costs", "simulate", "check"))
    parser.add_argument("record", nargs="?", type=Path)
    parser.add_argument("--price", type=float, default=2.0, help="of a GPU hour")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=ANSWER_TOKENS)
    parser.add_argument("--prompt", type=float, default=0.06, help="seconds to read a new prompt")
    parser.add_argument("--known-prompt", type=float, default=0.01)
    parser.add_argument("--step", type=float, default=0.02)
    parser.add_argument("--beside", type=float, default=0.0005)
    parser.add_argument("--ingress", type=float, default=0.002)
    given = parser.parse_args()
    if given.way == "bounds":
        bounds(given.price)
    elif given.way == "costs":
        costs()
    elif given.way == "check":
        if given.record is None:
            parser.error("check needs the file of a `cluster.py speed` record")
        return check(given.record)
    else:
        machine = Machine(
            prompt=given.prompt, known_prompt=given.known_prompt, step=given.step, beside=given.beside,
            tokens=given.tokens, ingress=given.ingress,
        )  # fmt: skip
        simulation = Simulation(machine, given.replicas, given.clients, given.conversations)
        print(json.dumps(simulation.run(given.requests), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
