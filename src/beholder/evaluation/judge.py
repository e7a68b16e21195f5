"""A judge behind an OpenAI-compatible server. Replies are kept, so a review goes on where it stopped.

A judge that fails is an error of the row. It is never a score.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beholder.core.errors import BeholderError
from beholder.evaluation.endpoint import Endpoint


class JudgeFailed(BeholderError, RuntimeError):
    """A judge said nothing that can be read as a score."""


class Judge:
    """One model as judge; `cache` is a folder with one file for each reply."""

    def __init__(self, endpoint: Endpoint, model: str, cache: Path) -> None:
        self.endpoint = endpoint
        self.model = model
        self.cache = cache
        self.asked = 0
        self.dates: set[str] = set()
        self.models: set[str] = set()
        self._recent: list[Path] = []

    def __call__(self, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]) -> str:
        """The judge's reply, from the cache if the same was asked before."""
        request = {"model": self.model, "messages": [dict(one) for one in messages], **settings}
        text = json.dumps(request, sort_keys=True, ensure_ascii=False)
        path = self.cache / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
        else:
            kept = self._ask(request, settings, path)
        self._recent.append(path)
        self.dates.add(kept["date"][:10])
        self.models.add(kept["model"])
        return kept["content"]

    def _ask(self, request: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
        content, told = self.endpoint.text(self.model, request["messages"], settings)
        self.asked += 1
        kept = {
            "content": content,
            "model": str(told.get("model") or self.model),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "request": request,
        }
        self.cache.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(fresh, path)
        return kept

    def start_row(self) -> None:
        """From here on replies belong to another row."""
        self._recent.clear()

    def forget_row(self) -> None:
        """Drop what was kept for this row: replies that made no score are asked for again."""
        for path in self._recent:
            path.unlink(missing_ok=True)

    def describe(self) -> dict[str, Any]:
        """What a score card tells of the judge."""
        return {"judge": sorted(self.models) or [self.model], "judged": sorted(self.dates)}
