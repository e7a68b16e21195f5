"""Which replica a conversation belongs to: the one that has its beginning, and its pictures, in memory.

Nothing is remembered here. A key is made of what all turns of a conversation share, and rendezvous hashing
ranks the replicas for it, so that every ingress comes to the same ranking, and one replica more or less moves
only the conversations that are its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

BEGINNING = 512  # letters of a plain prompt
SLACK = 1.25  # how far above the average a replica is loaded before a conversation spills over
LEAST_BOUND = 2  # and one answer on its way is never too much
Place = TypeVar("Place", bound=str)


def conversation_key(body: Mapping[str, Any]) -> bytes:
    """The digest of what a conversation begins with; bodies that no replica would take have one, too.

    System messages, then the pictures of the first user message. Where it has none, its text. So all turns
    of a conversation, and all conversations about one picture, have one key.
    """
    parts: list[str] = [str(body.get("template"))]
    messages: Any = body.get("messages")
    if isinstance(messages, list):
        parts += _beginning(cast("list[Any]", messages))
    else:
        prompt: Any = body.get("prompt")
        first = cast("list[Any]", prompt)[:1] if isinstance(prompt, list) else [prompt]
        parts += [str(text)[:BEGINNING] for text in first]
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        held = part.encode("utf-8", "surrogatepass")
        digest.update(len(held).to_bytes(8, "big"))  # so that "ab" + "c" is not "a" + "bc"
        digest.update(held)
    return digest.digest()


def _beginning(messages: Sequence[Any]) -> list[str]:
    """The texts before the first user message, and that message's pictures or else its text."""
    found: list[str] = []
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        told = cast("Mapping[str, Any]", message)
        content: Any = told.get("content")
        parts: list[Any] = cast("list[Any]", content) if isinstance(content, list) else [content]
        if told.get("role") in ("system", "developer"):
            found += [_text(part) for part in parts]
        elif told.get("role") == "user":
            pictures = [url for part in parts if (url := _picture(part)) is not None]
            return found + (pictures or [_text(part) for part in parts])
    return found


def _text(part: Any) -> str:
    return str(cast("Mapping[str, Any]", part).get("text")) if isinstance(part, Mapping) else str(part)


def _picture(part: Any) -> str | None:
    """The address of a picture, or the data URL, which is the picture itself."""
    told: Any = cast("Mapping[str, Any]", part).get("image_url") if isinstance(part, Mapping) else None
    url: Any = cast("Mapping[str, Any]", told).get("url") if isinstance(told, Mapping) else told
    return url if isinstance(url, str) else None


def ranked(key: bytes, places: Mapping[Place, float]) -> list[Place]:
    """The places with a weight above 0, the one that the key belongs to first.

    Each place draws a number from the key; a place of twice the weight comes first twice as often.
    """

    def draw(place: Place) -> float:
        drawn = hashlib.blake2b(key + place.encode(), digest_size=8).digest()
        fraction = (int.from_bytes(drawn, "big") + 1) / (2**64 + 1)
        return -math.log(fraction) / places[place]

    return sorted((place for place, weight in places.items() if weight > 0), key=draw)


def spilled(
    order: Sequence[Place], loads: Mapping[Place, float], weights: Mapping[Place, float]
) -> list[Place]:
    """The ranking with the places that are loaded well above the average put last, least loaded first.

    `loads` are answers running or waiting, `weights` how many replicas a place has.
    """
    replicas = sum(weights[place] for place in order)
    if not replicas:
        return list(order)
    average = (sum(loads.get(place, 0) for place in order) + 1) / replicas
    bound = max(LEAST_BOUND, math.ceil(SLACK * average))

    def load(place: Place) -> float:
        return loads.get(place, 0) / weights[place]

    roomy = [place for place in order if load(place) < bound]
    return roomy + sorted((place for place in order if load(place) >= bound), key=load)
