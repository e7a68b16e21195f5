"""Whether an evaluation that is killed again and again ends with the score of one that was left alone.

    python benchmarks/evaluation_kills.py [--kills 20] [--rows 2000] [--seed 0] [--data FOLDER] [--out FILE]

`beholder eval worlds` runs once undisturbed. Then, in another folder, it is started again and again and
each time killed (SIGKILL) after a random number of further rows, drawn so that the kills fall all over the
run; the last start is left alone. Score cards must be equal in every value; no row may be lost or doubled.
Both run in float32.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from beholder.core.records import capture, hash_weights
from beholder.mini import FOLDER
from beholder.mini.dataset import Plan, write
from beholder.mini.fonts import FontBook

HERE = Path(__file__).resolve().parent
ROWS_OF_A_SCENE = 8  # at least
PATIENCE = 3600.0  # seconds without a new row, on a machine that may be held up
OVERSHOOT = 40  # rows that may be answered between the wanted point and the kill


def start(data: Path, out: Path, rows: int) -> subprocess.Popen[bytes]:
    """The command as a user gives it, with small batches, so that a kill finds work half done."""
    command = [sys.executable, "-m", "beholder", "eval", "worlds", "--data", str(data), "--out", str(out)]
    # In bfloat16 an answer may depend on who is answered beside it, and that is another after a kill.
    command += ["--limit", str(rows), "--batch", "8", "--dtype", "float32"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def done_rows(out: Path) -> int:
    """Whole lines of the answers so far."""
    answers = out / "worlds" / "answers.jsonl"
    return answers.read_bytes().count(b"\n") if answers.exists() else 0


def kill_at(process: subprocess.Popen[bytes], out: Path, wanted: int, chance: random.Random) -> int:
    """Kill the run soon after it has so many rows; how many it had."""
    seen, since = -1, time.monotonic()
    while done_rows(out) < wanted:
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself with {done_rows(out)} rows")
        if done_rows(out) != seen:
            seen, since = done_rows(out), time.monotonic()
        if time.monotonic() - since > PATIENCE:
            process.kill()
            raise SystemExit(f"nothing new after {seen} rows")
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.2))
    process.send_signal(signal.SIGKILL)
    process.wait()
    return done_rows(out)


def score(out: Path) -> dict[str, Any]:
    """The score card's values."""
    return json.loads((out / "worlds" / "score.json").read_text(encoding="utf-8"))["values"]


def measure(data: Path, place: Path, rows: int, kills: int, seed: int) -> dict[str, float]:
    """Both runs, compared."""
    alone, killed = place / "alone", place / "killed"
    if start(data, alone, rows).wait():
        raise SystemExit("the run that was left alone failed")
    chance = random.Random(seed)
    points: list[int] = []
    for left in range(kills, 0, -1):
        done = done_rows(killed)
        room = rows - done - left * OVERSHOOT
        if room < 1:
            raise SystemExit(f"{rows} rows are too few for {kills} kills")
        wanted = done + 1 + chance.randrange(max(1, 2 * room // (left + 1)))
        points.append(kill_at(start(data, killed, rows), killed, wanted, chance))
        print(f"killed at {points[-1]} of {rows} rows", flush=True)
    if start(data, killed, rows).wait():
        raise SystemExit("the last start failed")
    lines = (killed / "worlds" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    if len(ids) != rows or len(set(ids)) != rows:
        raise SystemExit(f"{rows} rows were asked and {len(ids)} lines hold {len(set(ids))} of them")
    values = score(alone)
    if values != score(killed):
        raise SystemExit("the score cards differ")
    return {"kills": len(points), "rows": rows, "equal_values": len(values), "overall": values["overall"]}


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="a folder of `beholder data draw`; left out, one is drawn")
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / f"evaluation-kills-{date.today()}.json"
    )
    options = parser.parse_args()

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        data = options.data
        if data is None:
            data = Path(place) / "data"
            scenes = -(-options.rows // ROWS_OF_A_SCENE)
            write(data, Plan(scenes=scenes, seed=options.seed, split="test"), FontBook())
        values = measure(data, Path(place), options.rows, options.kills, options.seed)
    record = capture(
        subject="beholder-mini",
        weights=hash_weights(FOLDER),
        measure="evaluation kills",
        values=values,
        samples=options.rows,
        settings={"seed": options.seed, "batch": 8, "dtype": "float32"},
        seconds=time.perf_counter() - begun,
    )
    for name, value in values.items():
        print(f"{name:>14}  {value}")
    print(record.write(options.out))


if __name__ == "__main__":
    main()
