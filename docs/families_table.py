"""Makes the table of families in README.md and README.zh.md from records.

    python docs/families_table.py [--check]

Records are `families-*.json` (docs/families_record.py), `docs/parity.json` (`beholder parity --json`), and
`vllm-tokens-*.json` (benchmarks/vllm_tokens.py). Of each the newest counts; what has none is told as such.
`--check` writes nothing and fails where a page does not show its records; a test does the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CERTIFICATE = Path(__file__).resolve().parent / "parity.json"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
COLUMNS = {
    "360vl": "360VL", "llava": "LLaVA-1.5", "internvl": "InternVL-Chat", "cogvlm": "CogVLM",
    "beholder-mini": "beholder-mini",
}  # fmt: skip
# The stage of a certificate that is told: the numbers from which tokens are chosen.
STAGE = "logits"
WORDS = {
    "README.md": {
        "head": "built in", "chat": "ask, chat, stream, serve", "ground": "boxes",
        "lora": "LoRA", "4bit": "4 bits, on a CPU", "vllm": "language model in vLLM",
        "parity": "logits beside the original's: largest difference",
        "yes": "yes", "none": "no record yet", "equal": "{equal} of {all} answers equal",
        "nats": "yes, {value} nats", "own": "not concerned",
    },
    "README.zh.md": {
        "head": "内置", "chat": "提问、对话、流式、服务", "ground": "检测框",
        "lora": "LoRA", "4bit": "4 位量化（CPU）", "vllm": "语言模型在 vLLM 中",
        "parity": "logits 与原始代码的最大差",
        "yes": "可以", "none": "尚无记录", "equal": "{all} 个回答中 {equal} 个相同",
        "nats": "可以，{value} nat", "own": "不适用",
    },
}  # fmt: skip


def newest(pattern: str) -> dict[str, Any] | None:
    """The record whose name, which ends with the day, comes last."""
    found = sorted(RESULTS.glob(pattern), key=lambda path: path.stem[-10:])
    return json.loads(found[-1].read_text(encoding="utf-8")) if found else None


def table(words: dict[str, str]) -> str:
    """The rows by what can be done, the columns by family."""
    tried = (newest("families-*.json") or {"values": {}})["values"]
    certificate = json.loads(CERTIFICATE.read_text(encoding="utf-8"))
    titles = [
        f"{title} ({words['head']})" if name == "beholder-mini" else title for name, title in COLUMNS.items()
    ]
    lines = [f"| | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    ways = {
        "chat": lambda name: words["yes"] if f"{name} chat_turns" in tried else words["none"],
        "ground": lambda name: words["yes"] if f"{name} ground_error_px" in tried else words["none"],
        "lora": lambda name: words["yes"] if f"{name} lora_last_loss" in tried else words["none"],
        "4bit": lambda name: _nats(tried.get(f"{name} 4bit_divergence_nats"), words),
        "vllm": lambda name: _vllm(newest(f"vllm-tokens-{name}-*.json"), words),
        "parity": lambda name: _parity(certificate["stages"], name, words),
    }
    lines += [f"| {words[way]} | {' | '.join(map(told, COLUMNS))} |" for way, told in ways.items()]
    return "\n".join(lines)


def _nats(value: float | None, words: dict[str, str]) -> str:
    return words["none"] if value is None else words["nats"].format(value=f"{value:.1g}")


def _vllm(record: dict[str, Any] | None, words: dict[str, str]) -> str:
    """How many greedy answers vLLM gives as our engine does, and as the original where that is recorded."""
    if record is None:
        return words["none"]
    values = record["values"]
    equal = values["equal answers"] + values.get("goldens, vllm equal", 0)
    return words["equal"].format(equal=int(equal), all=int(values["answers"] + values.get("goldens", 0)))


def _parity(stages: Sequence[dict[str, Any]], name: str, words: dict[str, str]) -> str:
    if name == "beholder-mini":
        return words["own"]
    found = [one["difference"] for one in stages if one["family"] == name and one["stage"] == STAGE]
    return f"{max(found):.1e}" if found else words["none"]


def renewed(page: str, made: str) -> str:
    """The page with the table between its marks."""
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise SystemExit(f"a page has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or tell which are not current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page would change")
    check = parser.parse_args(arguments).check
    stale = 0
    for name, words in WORDS.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        wanted = renewed(text, table(words))
        if text == wanted:
            continue
        stale += 1
        if check:
            sys.stderr.write(f"{name} does not show its records: python docs/families_table.py\n")
        else:
            path.write_text(wanted, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
