"""What a server is told when it starts."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from beholder.core.errors import ConfigError
from beholder.serving.media import MediaPolicy
from beholder.serving.threads import cores

KEYS_VARIABLE = "BEHOLDER_API_KEYS"
SHORTEST_KEY = 8
EVENTS_PER_CORE = 50.0


class Keys:
    """API keys. Only their digests are held, so that no log or traceback can show one."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(dict.fromkeys(_digest(key) for key in keys))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def number(self, given: str) -> int | None:
        """Which key this is, counted from 0, or None; takes the same time whichever it is."""
        digest, found = _digest(given), None
        for number, known in enumerate(self._digests):
            if hmac.compare_digest(digest, known):
                found = number
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(file: Path | None) -> Keys:
    """The keys in a file, one a line (`#` begins a comment), and in the environment, separated by commas."""
    found = os.environ.get(KEYS_VARIABLE, "").split(",")
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the file of API keys {file} cannot be read ({error})") from None
        found += [line for line in lines if not line.lstrip().startswith("#")]
    keys = [key.strip() for key in found if key.strip()]
    if file is not None and not keys:
        raise ConfigError(f"the file of API keys {file} has no key in it; write one a line")
    if any(len(key) < SHORTEST_KEY for key in keys):
        raise ConfigError(f"an API key is shorter than {SHORTEST_KEY} characters; take longer ones")
    return Keys(keys)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and switches of a server. Times in seconds.

    `most_running` answers are computed at once, `most_waiting` more wait, `most_per_client` of both may come
    from one API key, or from one address where there are no keys (0: no limit). All streams together bring
    `events_per_second` after their first ones: tokens that come faster share an event. `most_held_pixels`
    are decoded for all requests together, three bytes each.
    """

    keys: Keys = field(default_factory=Keys)
    media: MediaPolicy = field(default_factory=MediaPolicy)
    most_running: int = 32
    most_waiting: int = 128
    most_per_client: int = 0
    most_pictures: int = 16
    most_held_pixels: int = 2_000_000_000
    most_choices: int = 8
    most_body_bytes: int = 64 * 2**20
    body_seconds: float = 60.0
    request_seconds: float = 600.0
    keep_alive_seconds: float = 10.0
    events_per_second: float = field(default_factory=lambda: EVENTS_PER_CORE * cores())
