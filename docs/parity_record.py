"""Makes parity.md from the certificate that `beholder parity --json docs/parity.json` wrote.

Run as `python docs/parity_record.py [CERTIFICATE]`; prints nothing and writes the page beside itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECORD = HERE / "parity.json"
PAGE = HERE / "parity.md"
TITLES = {
    "360vl": "360VL",
    "llava": "LLaVA-1.5",
    "internvl": "InternVL-Chat",
    "cogvlm": "CogVLM",
}


def page(record: dict[str, Any]) -> str:
    """The whole page."""
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    verdict = "Every stage holds." if record["holds"] else "**Not every stage holds.**"
    lines = [
        "# Parity",
        "",
        "What the original programs computed for tiny models of their own architectures, and what this",
        "package computes for the same weights and pictures: the largest difference of any number, stage by",
        "stage, over all recorded cases and with either attention. Made by `beholder parity`, which runs",
        "them against an installed copy; this page is made from its certificate by `docs/parity_record.py`.",
        "",
        f"{verdict} Code {record['code']}; {record['machine']}; {packages}.",
        "",
    ]
    for family in dict.fromkeys(stage["family"] for stage in record["stages"]):
        lines += [
            f"## {TITLES.get(family, family)}",
            "",
            "| stage | comparisons | largest difference | allowed |",
            "|---|--:|--:|--:|",
        ]
        lines += [_row(stage) for stage in record["stages"] if stage["family"] == family]
        lines.append("")
    return "\n".join(lines)


def _row(stage: dict[str, Any]) -> str:
    found = "0" if stage["difference"] == 0 else f"{stage['difference']:.1e}"
    allowed = "equal" if stage["tolerance"] == 0 else f"{stage['tolerance']:.0e}"
    mark = "" if stage["holds"] else f" (**{stage['worst']}**)"
    return f"| {stage['stage']} | {stage['cases']} | {found}{mark} | {allowed} |"


if __name__ == "__main__":
    certificate = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORD
    PAGE.write_text(page(json.loads(certificate.read_text(encoding="utf-8"))), encoding="utf-8")
