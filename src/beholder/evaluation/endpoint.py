"""Asks any OpenAI-compatible server: a judge, or the model that is evaluated itself."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from beholder.core.errors import BeholderError, ConfigError
from beholder.core.types import Message

if TYPE_CHECKING:
    from PIL.Image import Image

KEY_VARIABLE = "OPENAI_API_KEY"
WORTH_ANOTHER_TRY = (408, 409, 429, 500, 502, 503, 504)


class EndpointFailed(BeholderError, RuntimeError):
    """A server could not be reached, refused, or answered with something else than a completion."""


@dataclass(frozen=True)
class Endpoint:
    """One server. The key, where one is needed, comes from the environment and is never written anywhere."""

    url: str
    tries: int = 4
    pause: float = 1.0  # seconds before the second try; twice as long before each further one
    timeout: float = 300.0
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{self.url!r} is no address of a server; it should begin with http:// or https://"
            )

    @property
    def address(self) -> str:
        """Where chats are completed."""
        base = self.url.rstrip("/")
        if base.endswith("/chat/completions"):
            return base
        return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"

    def complete(self, model: str, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Any:
        """The server's JSON to one chat; what may pass is tried again, anything else fails at once."""
        body = json.dumps({"model": model, "messages": list(messages), **settings}).encode()
        headers = {"Content-Type": "application/json"}
        if key := self.key or os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        last = ""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                request = urllib.request.Request(self.address, body, headers)
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                with error:
                    last = f"status {error.code}: {error.read(300).decode(errors='replace')}"
                if error.code not in WORTH_ANOTHER_TRY:
                    break
            except json.JSONDecodeError as error:
                last = f"no JSON ({error})"
            except (OSError, urllib.error.URLError) as error:
                last = str(error)
        raise EndpointFailed(f"{self.address} did not answer: {last}")

    def text(
        self, model: str, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> tuple[str, Any]:
        """What the server said, and its whole JSON."""
        told = self.complete(model, messages, settings)
        try:
            content = told["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            content = None
        if not isinstance(content, str):
            raise EndpointFailed(f"{self.address} answered without a message: {json.dumps(told)[:200]}")
        return content, told


def content_parts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Our messages as OpenAI's, pictures as PNG within."""
    return [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {"type": "image_url", "image_url": {"url": _png(part)}}
                for part in message.parts
            ],
        }
        for message in messages
    ]


def _png(picture: Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
