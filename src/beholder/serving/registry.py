"""The models of a server: loaded one after the other, each of them ready, loading, or failed for a reason."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from beholder.core.errors import BeholderError, ConfigError
from beholder.serving.describing import describe
from beholder.serving.errors import APIError

if TYPE_CHECKING:
    from beholder.api import VLM

State = Literal["loading", "ready", "failed"]
LoadModel = Callable[[str | None], "VLM"]

log = logging.getLogger("beholder.serve")


class Served:
    """One model under the name that requests use."""

    def __init__(self, name: str, source: str | None) -> None:
        self.name = name
        self.source = source
        self.created = int(time.time())
        self.state: State = "loading"
        self.reason: str | None = None
        self.vlm: VLM | None = None
        self.facts: dict[str, Any] = {}

    def open(self, load: LoadModel) -> None:
        """Load the model and let it answer once; what goes wrong is kept as the reason."""
        try:
            vlm = load(self.source)
            vlm.chat("Hello.", max_tokens=1)
            self.facts = describe(vlm)
            self.vlm = vlm
            self.state = "ready"
            log.info("model %s is ready", self.name)
        except BeholderError as error:
            self._failed(str(error))
        except Exception as error:
            log.exception("model %s", self.name)
            self._failed(f"{type(error).__name__}; the log of the server tells more")

    @property
    def has_died(self) -> bool:
        """It was ready, and its engine has ended by itself."""
        return bool(getattr(getattr(self.vlm, "engine", None), "is_closed", False))

    def _failed(self, reason: str) -> None:
        log.error("model %s cannot be served: %s", self.name, reason)
        self.reason = reason
        self.state = "failed"


class Registry:
    """All models of a server, by name."""

    def __init__(self, served: Iterable[Served]) -> None:
        self._served = {one.name: one for one in served}
        self._is_closed = False

    @classmethod
    def of(cls, given: Iterable[str]) -> Registry:
        """From the command line: hub ids, folders, or NAME=either; of nothing, the built-in model."""
        from beholder.api import BUILT_IN

        served = [_read(text) for text in given] or [Served(BUILT_IN, None)]
        names = [one.name for one in served]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two models are called {', '.join(repeated)}; name one of them NAME=MODEL")
        return cls(served)

    def __iter__(self) -> Any:
        return iter(self._served.values())

    @property
    def is_ready(self) -> bool:
        """Every model answers."""
        return all(one.state == "ready" and not one.has_died for one in self)

    @property
    def is_lost(self) -> bool:
        """No model will ever answer."""
        return all(one.state == "failed" or (one.has_died and not self._is_closed) for one in self)

    def get(self, name: str) -> Served:
        """The model of that name, whatever its state."""
        if name not in self._served:
            known = ", ".join(self._served)
            raise APIError(
                404,
                f"there is no model {name[:200]!r} here; known: {known}",
                code="model_not_found",
                param="model",
            )
        return self._served[name]

    def ready(self, name: str) -> VLM:
        """The model of that name, to be asked."""
        served = self.get(name)
        if served.vlm is None:
            reason = f"cannot be served: {served.reason}" if served.reason else "is still loading"
            raise APIError(
                503, f"model {served.name} {reason}", code="model_not_ready", retry=not served.reason
            )
        if served.has_died:
            reason = "has stopped working; the log of the server tells why"
            raise APIError(503, f"model {served.name} {reason}", code="model_not_ready")
        return served.vlm

    def close(self) -> None:
        """End what is still running."""
        self._is_closed = True
        for served in self:
            if served.vlm is not None:
                served.vlm.close()

    def open_all(self, load: LoadModel) -> None:
        """Load what is not loaded yet, in a thread of its own."""

        def run() -> None:
            for served in self:
                if served.state == "loading":
                    served.open(load)

        threading.Thread(target=run, name="loading", daemon=True).start()


def _read(text: str) -> Served:
    """`NAME=MODEL`, or a model that is called by its hub id or by the last part of its path."""
    name, equals, source = text.partition("=")
    if equals and name and "/" not in name:
        return Served(name, source)
    path = Path(text).expanduser()
    return Served(path.resolve().name if path.is_dir() else text, text)
