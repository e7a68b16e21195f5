"""Writes beholder.json, the Grafana dashboard, from the list of panels below."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RATE = "[$__rate_interval]"
SHARES = (0.5, 0.9, 0.99)


def quantile(share: float, name: str) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, sum by (le) (rate({name}_bucket{RATE})))"


def rate(name: str, by: str) -> str:
    """How often something is counted."""
    return f"sum by ({by}) (rate({name}{RATE}))"


# Title, unit, and each line's legend with its query.
PANELS: list[tuple[str, str, dict[str, str]]] = [
    ("Answers running and waiting", "short", {
        "running": "sum(beholder_requests_running)", "waiting": "sum(beholder_requests_waiting)",
    }),
    ("Time to first token", "s", {
        f"p{int(share * 100)}": quantile(share, "beholder_time_to_first_token_seconds") for share in SHARES
    }),
    ("Time per output token", "s", {
        f"p{int(share * 100)}": quantile(share, "beholder_time_per_output_token_seconds") for share in SHARES
    }),
    ("Tokens per second", "short", {
        "prompt": "sum(rate(beholder_prompt_tokens_total[$__rate_interval]))",
        "prompt, computed before": "sum(rate(beholder_cached_prompt_tokens_total[$__rate_interval]))",
        "answer": "sum(rate(beholder_generation_tokens_total[$__rate_interval]))",
    }),
    ("Requests by status", "reqps", {"{{status}}": rate("beholder_http_requests_total", "status")}),
    ("Errors by cause", "reqps", {"{{cause}}": rate("beholder_errors_total", "cause")}),
    ("Answers by end", "reqps", {"{{reason}}": rate("beholder_answers_total", "reason")}),
    ("Pictures", "reqps", {"received": "sum(rate(beholder_pictures_total[$__rate_interval]))"}),
]  # fmt: skip


def panel(number: int, title: str, unit: str, lines: dict[str, str]) -> dict[str, Any]:
    """One diagram, two of them side by side."""
    return {
        "id": number + 1,
        "title": title,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + index), "legendFormat": legend, "expr": query}
            for index, (legend, query) in enumerate(lines.items())
        ],
    }


def dashboard() -> dict[str, Any]:
    """The whole file."""
    return {
        "uid": "beholder",
        "title": "Beholder",
        "schemaVersion": 41,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "panels": [panel(number, *given) for number, given in enumerate(PANELS)],
    }


if __name__ == "__main__":
    Path(__file__).with_name("beholder.json").write_text(json.dumps(dashboard(), indent=2) + "\n")
