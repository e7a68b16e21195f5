"""How many pixels of strangers' pictures a server holds at once: a small file may be a large picture."""

from __future__ import annotations

import threading
from types import TracebackType

from beholder.core.errors import CapacityError


class Room:
    """Pixels for all requests together; used from any thread."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self._lock = threading.Lock()

    def change(self, pixels: int) -> None:
        """Take or give back. CapacityError if there would be more than may be, unless nobody else has any."""
        with self._lock:
            if pixels > 0 and self.held and self.held + pixels > self.most:
                raise CapacityError(
                    f"pictures of {self.held / 1e6:.0f} megapixels are being looked at, and "
                    f"{self.most / 1e6:g} may be at once; try again later, or send smaller ones"
                )
            self.held += pixels


class Share:
    """What one request has of it, given back when the block ends."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._taken = 0
        self._is_over = False
        self._lock = threading.Lock()

    def take(self, pixels: int) -> None:
        """Before a picture of so many is decoded, in whatever thread."""
        with self._lock:
            if self._is_over:
                raise CapacityError("the request has ended")
            self._room.change(pixels)
            self._taken += pixels

    def __enter__(self) -> Share:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_over = True
            self._room.change(-self._taken)
