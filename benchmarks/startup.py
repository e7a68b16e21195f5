"""How long a person waits: for `beholder --help`, for `import beholder`, and from nothing to the first token.

    python benchmarks/startup.py [--repeats 10] [--out FILE]

Every figure is the wall time of a new process, so what Python and the operating system need is in it; after
the first run of each the files are in the page cache, and the first run is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from beholder.core.records import capture, hash_weights
from beholder.mini import FOLDER

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parent / "examples" / "shapes.png"
QUESTION = "What colour is the circle?"

FIRST_TOKEN = f"""
import time
begun = time.perf_counter()
import beholder
model = beholder.load()
loaded = time.perf_counter()
content = [{{"type": "image", "image": {str(PICTURE)!r}}}, {{"type": "text", "text": {QUESTION!r}}}]
next(model.stream([{{"role": "user", "content": content}}]))
print(loaded - begun, time.perf_counter() - loaded)
"""

# What every program with a transformers model waits for, ours or not; left without the tidying at its end.
TRANSFORMERS = "from transformers import PreTrainedModel"
LEAVING = "{}; import os; os._exit(0)"


def wall(command: list[str], repeats: int) -> tuple[float, list[str]]:
    """Median seconds over `repeats` runs after one that is not counted, and what each run printed."""
    seconds, printed = [], []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        printed.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:]), printed[1:]


def measure(repeats: int) -> dict[str, float]:
    """All figures in seconds."""
    program = str(Path(sys.executable).with_name("beholder"))
    values = {
        "python_s": wall([sys.executable, "-c", ""], repeats)[0],
        "import_s": wall([sys.executable, "-c", "import beholder"], repeats)[0],
        "torch_s": wall([sys.executable, "-c", LEAVING.format("import torch")], repeats)[0],
        "transformers_s": wall([sys.executable, "-c", LEAVING.format(TRANSFORMERS)], repeats)[0],
        "help_s": wall([program, "--help"], repeats)[0],
        "ask_s": wall([program, "ask", str(PICTURE), QUESTION], repeats)[0],
    }
    values["cold_first_token_s"], printed = wall([sys.executable, "-c", FIRST_TOKEN], repeats)
    parts = [tuple(map(float, line.split())) for line in printed]
    values["import_and_load_s"] = statistics.median(part[0] for part in parts)
    values["first_answer_s"] = statistics.median(part[1] for part in parts)
    return values


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"startup-{date.today()}.json")
    options = parser.parse_args()

    begun = time.perf_counter()
    values = measure(options.repeats)
    record = capture(
        subject="beholder-mini",
        weights=hash_weights(FOLDER),
        measure="startup",
        values=values,
        samples=options.repeats,
        settings={
            "question": QUESTION,
            "threads": os.environ.get("OMP_NUM_THREADS", "default"),
            "statistic": "median",
        },
        seconds=time.perf_counter() - begun,
    )
    for name, value in values.items():
        print(f"{name:>22}  {value:.3f}")
    print(record.write(options.out))


if __name__ == "__main__":
    main()
