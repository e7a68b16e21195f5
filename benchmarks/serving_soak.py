"""Thousands of mixed requests to a server, which must be as before afterwards: right, no slot or memory lost.

    python benchmarks/serving_soak.py [--requests 10000] [--at-once 24] [--seed 0] [--out FILE]

`beholder serve` runs in a process of its own over the built-in model. Good requests (chat with and without
pictures, whole and streamed, drawn with a seed, several answers, plain completions) must bring what the
library answers offline, which is asked first; the others (bad, cancelled in the middle, oversized) the
status that they deserve. Ends with 1 if an answer was wrong, a status another, a slot lost, or if memory
grew by more than 3 % after the first fifth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path

import httpx
from serving_peer import free_port
from serving_requests import ANSWER_TOKENS, KEY, OVERSIZED, REFUSED, Case, Good, good_ones, post, worded

import beholder
from beholder.core.records import capture, hash_weights
from beholder.mini import FOLDER

HERE = Path(__file__).resolve().parent
RUNNING, WAITING, BODY_MIB = 16, 64, 2
SHARES = {"good": 0.6, "cancelled": 0.15, "bad": 0.17, "oversized": 0.08}
WARM = 0.2  # of the requests; what is allocated once has been by then
MOST_GROWTH = 0.03
PATIENCE = 300.0


@contextmanager
def serving(folder: Path, *more: str) -> Generator[tuple[int, subprocess.Popen[bytes]]]:
    """A server with small limits, and its log in the folder."""
    port = free_port()
    command = [sys.executable, "-m", "beholder", "serve", "--port", str(port), "--device", "cpu", "--no-web"]
    command += more
    command += ["--max-running", str(RUNNING), "--max-waiting", str(WAITING), "--max-body", str(BODY_MIB)]
    command += ["--log-format", "json"]
    environment = os.environ | {"BEHOLDER_API_KEYS": KEY, "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=environment)
    try:
        until = time.monotonic() + PATIENCE
        while get(port, "/ready") is None:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield port, process
    finally:
        process.terminate()
        process.wait(60)


def get(port: int, path: str) -> str | None:
    """What a route says; None unless it is a 200."""
    try:
        told = httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=60)
    except httpx.TransportError:
        return None
    return told.text if told.status_code == 200 else None


def metric(port: int, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = (get(port, "/metrics") or "").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))


def held_bytes(pid: int) -> int:
    """Memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Soak:
    """The requests on their way, and what has come of those before."""

    port: int
    pid: int
    good: list[Good]
    random: random.Random
    total: int
    counts: Counter[str] = field(default_factory=Counter[str])
    statuses: Counter[int] = field(default_factory=Counter[int])
    wrong: list[str] = field(default_factory=list[str])
    held: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    async def run(self, at_once: int) -> None:
        """All of them, so many at once."""
        kinds = iter(self.random.choices(list(SHARES), list(SHARES.values()), k=self.total))
        await asyncio.gather(*(self._visit(kinds) for _ in range(at_once)))

    async def _visit(self, kinds: Iterator[str]) -> None:
        ways = {"good": self._answered, "cancelled": self._cancelled}
        for kind in kinds:
            await ways.get(kind, partial(self._refused, REFUSED if kind == "bad" else OVERSIZED))()
            self.counts[kind] += 1
            done = self.counts.total()
            if done % 100 == 0:
                self.held.append((done, held_bytes(self.pid)))
            if done % 1000 == 0:
                told = f"{self.held[-1][1] / 2**20:.0f} MiB, {len(self.wrong)} wrong"
                print(f"{done}: {told}", file=sys.stderr)

    async def _answered(self) -> None:
        asked = self.random.choice(self.good)
        status, _, body = await post(self.port, asked.path, asked.body)
        self.statuses[status] += 1
        told = worded(body) if status == 200 else [body[:300].decode("utf-8", "replace")]
        if told != asked.answers:
            self.wrong.append(f"{asked.name}: {status} {told!r} instead of {asked.answers!r}")

    async def _cancelled(self) -> None:
        asked = self.random.choice(self.good)
        await post(
            self.port, asked.path, asked.body | {"stream": True}, leave_after=self.random.randint(0, 6)
        )

    async def _refused(self, cases: Sequence[Case]) -> None:
        name, wanted, send = self.random.choice(cases)
        status, headers, body = await send(self.port)
        self.statuses[status] += 1
        try:
            has_error = bool(json.loads(body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            has_error = False
        if status != wanted or not has_error or b"x-request-id" not in headers.lower():
            self.wrong.append(f"{name}: {status} {body[:300]!r} instead of {wanted}")

    async def fill(self) -> None:
        """As many answers at once as there are places: with a lost one, somebody would be refused."""
        asked = next(one for one in self.good if "stream" not in one.body and one.body.get("n") is None)
        replies = await asyncio.gather(
            *(post(self.port, asked.path, asked.body) for _ in range(RUNNING + WAITING))
        )
        if bad := [status for status, _, _ in replies if status != 200]:
            self.wrong.append(f"{len(bad)} of {len(replies)} places are lost: {Counter(bad)}")

    @property
    def growth(self) -> float:
        """How much more is held in the last tenth of the requests than in the tenth after warming up."""
        early, late = WARM * self.total, 0.9 * self.total
        first = [held for done, held in self.held if early < done <= early + 0.1 * self.total]
        last = [held for done, held in self.held if done > late]
        return statistics.median(last) / statistics.median(first) - 1


def check(soak: Soak, log: str) -> dict[str, float]:
    """What must hold now that everybody has left; adds to what was wrong."""
    until = time.monotonic() + 60
    names = ("beholder_requests_running", "beholder_requests_waiting")
    while (lost := sum(metric(soak.port, name) for name in names)) and time.monotonic() < until:
        time.sleep(0.1)
    internal = metric(soak.port, 'beholder_errors_total{cause="internal"}')
    failed = sum(count for status, count in soak.statuses.items() if status >= 500)
    traces = log.count('"exception"')
    checks = {"slots lost": lost, "internal errors": internal, "5xx": failed, "exceptions logged": traces}
    soak.wrong += [f"{name}: {count:g}" for name, count in checks.items() if count]
    if soak.growth > MOST_GROWTH:
        soak.wrong.append(f"memory grew by {100 * soak.growth:.1f} %")
    return {
        "lost_slots": lost,
        "internal_errors": internal,
        "status_5xx": float(failed),
        "exceptions": float(traces),
        "growth_percent": 100 * soak.growth,
    }


def main() -> None:
    """Send, compare, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto", help="of the server and of the answers offline")
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"serving-soak-{date.today()}.json")
    options = parser.parse_args()

    vlm = beholder.load(device="cpu", dtype=options.dtype)
    good = good_ones(vlm, options.seed)
    vlm.close()
    print(
        f"{len(good)} requests with a known answer, {len(REFUSED) + len(OVERSIZED)} bad ones", file=sys.stderr
    )
    begun = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="beholder-soak-") as folder,
        serving(Path(folder), "--dtype", options.dtype) as (port, process),
    ):
        soak = Soak(port, process.pid, good, random.Random(options.seed), options.requests)
        asyncio.run(soak.run(options.at_once))
        asyncio.run(soak.fill())
        values = check(soak, (Path(folder) / "log").read_text())
        settings = {
            "at_once": options.at_once, "seed": options.seed, "dtype": options.dtype,
            "running": RUNNING, "waiting": WAITING,
            "shares": SHARES, "good_requests": len(good), "refused_cases": len(REFUSED) + len(OVERSIZED),
            "answer_tokens": ANSWER_TOKENS,
            "statuses": {str(key): count for key, count in sorted(soak.statuses.items())},
        }  # fmt: skip
    held = [held / 2**20 for _, held in soak.held]
    values |= {f"{kind}_requests": float(count) for kind, count in soak.counts.items()}
    values |= {"wrong": float(len(soak.wrong)), "held_first_mib": held[0], "held_last_mib": held[-1]}
    record = capture(
        subject="beholder-mini", weights=hash_weights(FOLDER), measure="serving soak", values=values,
        samples=options.requests, settings=settings, seconds=time.perf_counter() - begun,
    )  # fmt: skip
    for name, value in values.items():
        print(f"{name:>20}  {value:.4g}")
    print(record.write(options.out))
    for one in soak.wrong[:20]:
        print(one, file=sys.stderr)
    sys.exit(bool(soak.wrong))


if __name__ == "__main__":
    main()
