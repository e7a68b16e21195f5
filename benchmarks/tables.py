"""Makes the table in README.md from the engine's records.

    python benchmarks/tables.py [--check]

For every model and figure the newest record counts. `--check` writes nothing and fails if the table is not
what the records say.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from beholder.core.records import RunRecord

HERE = Path(__file__).resolve().parent
PAGE = HERE / "README.md"
BEGIN, END = "<!-- engine: begin -->", "<!-- engine: end -->"
NONE_YET = "No record of the engine has been made yet."

# figure of `beholder bench` -> (what the row says, unit, our value, the peer's value, what is aimed at)
ROWS: dict[str, tuple[tuple[str, str, str, str, str], ...]] = {
    "first": (
        ("first token, first turn", "ms", "first_token_ms", "peer_first_token_ms", "≤ 0.9 × the peer's"),
        ("first token, second turn on the picture", "ms", "second_turn_ms", "peer_second_turn_ms",
         "≥ 8 × faster"),
    ),
    "decode": (("one answer", "ms per token", "decode_ms_per_token", "peer_decode_ms_per_token", ""),),
    "batch": (("8 answers", "tokens/s", "batch8_tokens_per_s", "peer_batch8_tokens_per_s", ""),),
    "concurrent": (
        ("{requests} picture requests at once, {shortest} to {longest} tokens", "tokens/s",
         "concurrent_tokens_per_s", "peer_concurrent_tokens_per_s", "≥ 2.5 × the peer's"),
    ),
    "overhead": (
        ("a step beside the model, {requests} running", "ms", "overhead_ms_per_step", "", "≤ 0.5"),
    ),
    "preprocessing": (
        ("a JPEG of 12 megapixels", "ms", "preprocess_12mp_ms", "", "≤ 60"),
        ("… of which Pillow's decoding, the floor", "ms", "preprocess_12mp_bare_decode_ms", "", ""),
    ),
    "memory": (
        ("keys and values", "bytes per token", "kv_bytes_per_token", "", "the formula's"),
        ("growth over {growth} requests", "bytes per request", "growth_bytes_per_request", "", ""),
        ("… in the second half of them", "bytes per request", "growth_bytes_per_request_second_half", "",
         "none"),
    ),
    "vllm": (
        ("first token, first turn, beside vLLM", "ms", "first_token_ms", "vllm_first_token_ms", ""),
        ("first token, second turn on the picture, beside vLLM", "ms", "second_turn_ms",
         "vllm_second_turn_ms", "≥ 1.5 × faster"),
        ("{requests} picture requests at once, {shortest} to {longest} tokens, beside vLLM", "tokens/s",
         "concurrent_tokens_per_s", "vllm_concurrent_tokens_per_s", "≥ 1.1 × the peer's"),
    ),
    "startup": (("cold process to first token", "s", "cold_first_token_s", "", "≤ 6, built-in model"),),
}  # fmt: skip


def newest(folder: Path) -> dict[tuple[str, str], RunRecord]:
    """(subject, figure) -> its record; files are named by day, so the last name is the newest."""
    found: dict[tuple[str, str], RunRecord] = {}
    for path in sorted(folder.glob("engine-*.json"), key=lambda path: path.stem[-10:]):
        record = RunRecord.read(path)
        for figure in record.measure.removeprefix("bench ").split("+"):
            found[record.subject, figure] = record
    return found


def number(value: float | None) -> str:
    """With as many digits as mean something."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(records: dict[tuple[str, str], RunRecord]) -> str:
    """The table, or a sentence that there are no records, and under it what each model was measured with."""
    if not records:
        return NONE_YET
    lines = [
        "| model | what | unit | beholder | peer | aimed at | memory GB/s |",
        "|---|---|---|--:|--:|---|--:|",
    ]
    for subject in dict.fromkeys(subject for subject, _ in records):
        for figure, rows in ROWS.items():
            if (record := records.get((subject, figure))) is None:
                continue
            for what, unit, ours, theirs, aim in rows:
                told = [record.values.get(name) for name in (ours, theirs, f"{figure}_memory_gb_per_s")]
                one, other, rate = map(number, told)
                which = what.format(**record.settings)
                lines.append(f"| {subject} | {which} | {unit} | {one} | {other} | {aim} | {rate} |")
    lines += ["", better_peers(records), ""]
    for line in dict.fromkeys(described(record) for record in records.values()):
        lines.append(line)
    return "\n".join(lines)


def better_peers(records: dict[tuple[str, str], RunRecord]) -> str:
    """One sentence: what a peer was better at, and by how much."""
    found: list[str] = []
    compared = 0
    for (subject, figure), record in records.items():
        for what, unit, ours, theirs, _ in ROWS.get(figure, ()):
            one, other = record.values.get(ours), record.values.get(theirs)
            if not one or not other:
                continue
            compared += 1
            times = other / one if unit.endswith("/s") else one / other
            if times > 1:
                found.append(f"{subject}, {what.format(**record.settings)} ({times:.2f} ×)")
    if not found:
        return f"No peer was better at one of the {compared} figures that were measured beside it."
    return f"A peer was better at: {'; '.join(found)}."


def described(record: RunRecord) -> str:
    """One line: what a record hangs on."""
    told = record.settings
    missing = ", ".join(told["peers_not_installed"])
    return (
        f"- {record.subject}: {told['layers']} layers, {told['dtype']}, {told['threads']} threads; peer: "
        f"{told['peer']}{f' (not installed: {missing})' if missing else ''}; torch "
        f"{record.packages.get('torch', '')}; {record.machine}; code {record.code[:12]}"
    )


def renewed(page: str, made: str) -> str:
    """The page with the table between its marks."""
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise SystemExit(f"{PAGE.name} has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    wanted = renewed(page, table(newest(HERE / "results")))
    if not options.check:
        PAGE.write_text(wanted, encoding="utf-8")
    elif page != wanted:
        sys.exit(f"{PAGE.name} does not show its records; run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
