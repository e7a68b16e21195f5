"""Makes the table of measurements in scale.md from the records of `cluster.py` and `vllm_tokens.py`.

    python docs/scale_record.py [--check]

For each the newest record counts. `--check` writes nothing and fails if the page says anything else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from beholder.core.records import RunRecord

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "benchmarks" / "results"
PAGE = HERE / "scale.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
RUN = "`python benchmarks/{}`"


def speed(which: str) -> tuple[tuple[str, str, str], ...]:
    """Lines about one process beside one replica and two, each on a core of its own."""
    return (
        (f"{which}: requests a second of one process, one replica, two",
         "{requests a second, one process:.2f}, {requests a second, replicas: 1:.2f}, "
         "{requests a second, replicas: 2:.2f}", ""),
        (f"{which}: two replicas over one process", "{two replicas over one process:.2f} ×", "1.8 ×"),
        (f"{which}: what controller and Ray add to a short answer",
         "{seconds that the ingress adds:.4f} s", ""),
    )  # fmt: skip


# record -> command, and lines of (what, how it is said, what is asked for)
ROWS: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "kill": (
        "cluster.py kill --requests {samples} --models {models} --replicas {replicas} --every {every:g}",
        (
            ("right answers while {replicas killed:.0f} replicas and {nodes killed:.0f} nodes were killed",
             "{right:.0f} of {samples}", "99.5 %"),
            ("errors that ask to come again", "{retryable errors:.0f}", ""),
            ("answers that end in anything else", "{anything else:.0f}", "0"),
            ("a request, median and longest", "{median seconds:.1f} s, {longest seconds:.1f} s", ""),
            ("all replicas there again after the last kill", "{seconds until whole again:.0f} s", ""),
        ),
    ),
    "update": (
        "cluster.py update",
        (("right answers while the model was replaced on every worker", "{right:.0f} of {samples}", "all"),),
    ),
    "grow": (
        "cluster.py grow --requests {samples}",
        (
            ("a second replica answers after so long of too many requests, and goes after so long of none",
             "{seconds to two replicas:.0f} s, {seconds without requests to one replica:.0f} s", ""),
            ("right answers meanwhile", "{right:.0f} of {samples}", "all"),
        ),
    ),
    "restart": (
        "cluster.py restart",
        (
            ("a dead replica, a dead node is off the list of models",
             "{seconds until a dead replica is off the list:.1f} s, "
             "{seconds until a dead node is off the list:.1f} s", "2 s"),
            ("head and controller killed and started again: listed, answering",
             "{seconds to be listed again:.0f} s, {seconds to answer again:.0f} s", ""),
        ),
    ),
    "speed": ("cluster.py speed --requests {samples}", speed("the built-in model")),
    "speed-llava-1.1b-fresh": (
        "cluster.py speed --model llava-1.1b --tokens {tokens} --requests {samples} --fresh",
        speed("1.1B, a new picture each, {tokens} tokens"),
    ),
    "speed-llava-1.1b": (
        "cluster.py speed --model llava-1.1b --tokens {tokens} --requests {samples}",
        speed("1.1B, eight pictures, {tokens} tokens"),
    ),
}  # fmt: skip
VLLM_COMMAND = "vllm_tokens.py --family {}"


def newest(kind: str) -> RunRecord | None:
    """The record of the last day; None where there is none yet."""
    files = sorted(RESULTS.glob(f"{kind}-????-??-??.json"))
    return RunRecord.read(files[-1]) if files else None


def said(template: str, told: dict[str, Any]) -> str:
    """A template whose names may hold blanks, commas and colons, as the records' do."""
    for name in sorted(told, key=len, reverse=True):
        head = "{" + name
        while (begin := template.find(head)) >= 0 and template[begin + len(head)] in ":}":
            end = template.index("}", begin)
            form = template[begin + len(head) : end].removeprefix(":")
            template = template[:begin] + format(told[name], form) + template[end + 1 :]
    return template


def lines() -> list[str]:
    """The table, and where its numbers are from."""
    made = ["| what | measured | asked for | by |", "|---|--:|--:|---|"]
    sources: set[str] = set()
    for kind, (command, rows) in ROWS.items():
        if (record := newest(f"cluster-{kind}")) is None:
            continue
        told = {"samples": record.samples, "replicas killed": 0, "nodes killed": 0}
        told |= {**record.settings, **record.values}
        sources.add(f"{record.machine}; code {record.code}")
        for what, value, wanted in rows:
            by = RUN.format(said(command, told))
            made.append(f"| {said(what, told)} | {said(value, told)} | {wanted} | {by} |")
    for family in ("360vl", "llava", "internvl", "cogvlm"):
        if (record := newest(f"vllm-tokens-{family}")) is None:
            continue
        told = record.values
        sources.add(f"{record.machine}; code {record.code}")
        made.append(
            f"| {family} in vLLM: golden answers as the original's; answers of a random model as ours | "
            f"{told['goldens, vllm equal']:.0f} of {told['goldens']:.0f}; {told['equal answers']:.0f} of "
            f"{told['answers']:.0f} | all | {RUN.format(VLLM_COMMAND.format(family))} |"
        )
    return [*made, "", *(f"{source}." for source in sorted(sources))]


def main() -> int:
    """Write the table, or say whether it is as it should be."""
    page = PAGE.read_text("utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}\n" + "\n".join(lines()) + f"\n{END}{after}"
    if "--check" in sys.argv:
        return 0 if wanted == page else 1
    PAGE.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
