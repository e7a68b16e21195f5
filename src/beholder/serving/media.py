"""Pictures from strangers: data URLs and web addresses, within limits of bytes, pixels, frames and time.

Nothing of this machine is opened. What a file is, its first bytes say and not its sender, and only the reader
of that one format sees it. Everything here blocks; the server calls it in threads.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from beholder.core.errors import CapacityError, InputError
from beholder.processing.images import DAMAGE, adopt_picture, without_pillow_warnings
from beholder.processing.sources import base64_bytes
from beholder.serving.addresses import AddressError
from beholder.serving.fetching import FetchError, FetchLimits, TooManyBytesError, fetch

# First bytes -> Pillow's name of the format. WebP's mark has a length in its middle, see `sniff`.
MARKS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
)
ACCEPTED = "PNG, JPEG, WebP, GIF or BMP"


class MediaError(InputError):
    """A picture of a request cannot be used; `code` is the error code in the answer."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class MediaPolicy:
    """What is taken from strangers. With `addresses` off, only data URLs."""

    addresses: bool = True
    most_pixels: int = 50_000_000
    most_frames: int = 1000
    fetching: FetchLimits = field(default_factory=FetchLimits)


Take = Callable[[int], None]


def is_address(url: str) -> bool:
    """Whether a picture has to be fetched, so that somebody else decides how long it takes."""
    return url[:8].lower().startswith(("http:", "https:"))


def receive(url: str, policy: MediaPolicy, take: Take | None = None) -> Image.Image:
    """The picture in a data URL or behind an http(s) address, as RGB and upright; MediaError otherwise.

    `take` is told how many pixels it has before they are decoded, and may refuse them.
    """
    scheme = url[:8].lower()
    if scheme.startswith("data:"):
        return decode(_data_url_bytes(url, policy.fetching.most_bytes), policy, take)
    if not is_address(url):
        raise MediaError(
            "a picture must be a data URL or an http(s) address; files of the server are not opened",
            "invalid_image_url",
        )
    if not policy.addresses:
        raise MediaError("this server fetches no pictures; send it as a data URL", "invalid_image_url")
    try:
        held = fetch(url, policy.fetching)
    except TooManyBytesError as error:
        raise MediaError(str(error), "image_too_large") from None
    except FetchError as error:
        raise MediaError(str(error), "image_not_received") from None
    except AddressError as error:
        raise MediaError(str(error), "invalid_image_url") from None
    return decode(held, policy, take)


def _data_url_bytes(url: str, most_bytes: int) -> bytes:
    """The bytes inside `data:...;base64,...`."""
    head, comma, body = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise MediaError("the data URL is not of the form data:image/png;base64,...", "invalid_image_url")
    if len(body) * 3 // 4 > most_bytes + 3:
        raise MediaError(
            f"the picture in the data URL is larger than {most_bytes} bytes; send a smaller one",
            "image_too_large",
        )
    try:
        return base64_bytes(body)
    except ValueError:
        raise MediaError("the data URL does not hold valid base64", "invalid_image_url") from None


def sniff(held: bytes) -> str | None:
    """Pillow's name of the format that the first bytes tell; None where it is none that is accepted."""
    for mark, name in MARKS:
        if held.startswith(mark):
            return name
    return "WEBP" if held[:4] == b"RIFF" and held[8:12] == b"WEBP" else None


def decode(held: bytes, policy: MediaPolicy, take: Take | None = None) -> Image.Image:
    """A file's bytes as an RGB picture; size and frames are known and checked before a pixel is decoded."""
    if not held:
        raise MediaError("the picture is empty (0 bytes)", "invalid_image")
    kind = sniff(held)
    if kind is None:
        raise MediaError(f"the picture is not a {ACCEPTED} file; convert it", "unsupported_image")
    try:
        with without_pillow_warnings():
            image = Image.open(io.BytesIO(held), formats=[kind])
        with image:
            _check_size(image, policy)
            _check_frames(held, kind, image, policy)
            if take is not None:
                take(image.width * image.height)
            return adopt_picture(image)
    except (MediaError, CapacityError):
        raise
    except Image.DecompressionBombError:
        raise MediaError(_too_large(policy), "image_too_large") from None
    except InputError as error:
        raise MediaError(str(error), "invalid_image") from None
    except DAMAGE:
        raise MediaError(f"the picture is a damaged {kind} file", "invalid_image") from None


def _check_size(image: Image.Image, policy: MediaPolicy) -> None:
    if image.width * image.height > policy.most_pixels:
        size = f"{image.width} x {image.height} pixels"
        raise MediaError(f"{_too_large(policy)}; it has {size}", "image_too_large")


def _too_large(policy: MediaPolicy) -> str:
    return f"the picture is larger than {policy.most_pixels / 1e6:g} megapixels; make it smaller"


def _check_frames(held: bytes, kind: str, image: Image.Image, policy: MediaPolicy) -> None:
    """Of an animation the first frame is taken; one with very many is refused."""
    # Pillow counts a GIF's frames by decoding them all, the others' from their header.
    frames = gif_frames(held, policy.most_frames + 1) if kind == "GIF" else getattr(image, "n_frames", 1)
    if frames > policy.most_frames:
        raise MediaError(
            f"the animation has more than {policy.most_frames} frames; send one frame", "image_too_large"
        )


def gif_frames(held: bytes, most: int) -> int:
    """The frames of a GIF, by stepping over its blocks without decoding; counting ends at `most`."""
    frames = 0
    try:
        place = 13 + _colour_table(held[10])
        while frames < most and held[place] != 0x3B:
            if held[place] == 0x2C:
                frames += 1
                place += 11 + _colour_table(held[place + 9])
            elif held[place] == 0x21:
                place += 2
            else:
                break
            while size := held[place]:
                place += 1 + size
            place += 1
    except IndexError:
        pass  # it ends early; whether the first frame is whole, decoding tells
    return frames


def _colour_table(flags: int) -> int:
    """Bytes of the colour table that a block's flags announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
