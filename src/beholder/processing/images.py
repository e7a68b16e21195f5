"""Pictures from wherever they come, and the pure pixel operations that families compose. No tensors here.

`open_picture` turns a user's picture into RGB or says in one sentence why it cannot. The other functions
follow Pillow's and numpy's arithmetic to the last bit; a family says which published steps it makes of them.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import io
import logging
import struct
import threading
import urllib.error
import urllib.request
import warnings
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from beholder.core.errors import InputError

PictureSource = str | Path | bytes | Image.Image | NDArray[Any]

MOST_PIXELS = 100_000_000
MOST_DOWNLOAD_BYTES = 64 * 2**20
DOWNLOAD_SECONDS = 20.0
ORIENTATION_TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's readers raise on damaged files, depending on the format and on where the damage is.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)

log = logging.getLogger("beholder")
_header_lock = threading.Lock()


def open_picture(source: PictureSource) -> Image.Image:
    """A path, web address, data URL, bytes, Pillow picture or numpy array as an RGB picture.

    EXIF orientation is applied, transparency is laid on white, of an animated file the first frame is taken.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the picture")
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), "the array")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), "the picture")
    if isinstance(source, Path):
        return _read_file(source, str(source))
    if not isinstance(source, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"a picture cannot be a {type(source).__name__}; "
            "give a path, a URL, a data URL, bytes, a Pillow image or a uint8 numpy array"
        )
    scheme = source[:8].lower()
    if scheme.startswith("data:"):
        return _decode(io.BytesIO(_data_url_bytes(source)), "the picture in the data URL")
    if scheme.startswith(("http://", "https://")):
        return _decode(io.BytesIO(_download(source)), source)
    return _read_file(Path(source), source)


def _read_file(path: Path, name: str) -> Image.Image:
    """Open a file of this machine."""
    shown = name if len(name) <= 200 else f"{name[:200]}..."
    try:
        with path.open("rb") as file:
            return _decode(file, shown)
    except FileNotFoundError:
        raise InputError(f"no such file: {shown}") from None
    except IsADirectoryError:
        raise InputError(f"{shown} is a directory; give the path of one picture") from None
    except PermissionError:
        raise InputError(f"{shown} may not be read; check the permissions of the file") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{shown} cannot be opened ({reason}); give the path of a picture") from None


def _data_url_bytes(url: str) -> bytes:
    """The bytes inside `data:image/...;base64,...`."""
    head, comma, body = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InputError("the data URL is not of the form data:image/png;base64,...")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"the data URL does not hold valid base64 ({error})") from None


def _download(url: str) -> bytes:
    """The bytes behind a web address, up to a limit in size and time."""
    request = urllib.request.Request(url, headers={"User-Agent": "beholder", "Accept": "image/*,*/*;q=0.5"})
    try:
        with urllib.request.urlopen(request, timeout=DOWNLOAD_SECONDS) as response:
            body = response.read(MOST_DOWNLOAD_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise InputError(f"{url} answered {error.code} {error.reason}; no picture was received") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise InputError(f"{url} cannot be reached ({reason}); check the address and the network") from None
    if len(body) > MOST_DOWNLOAD_BYTES:
        raise InputError(f"{url} is larger than {MOST_DOWNLOAD_BYTES // 2**20} MB; use a smaller picture")
    return body


@contextmanager
def without_pillow_warnings() -> Generator[None]:
    """Read headers and EXIF without warnings: the size limit is ours and an error, odd EXIF is logged.

    The lock is there because warning filters belong to the whole process.
    """
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _decode(file: Any, name: str) -> Image.Image:
    """Read a picture from an open binary file; the header is checked before pixels are decoded."""
    if not file.read(1):
        raise InputError(f"{name} is empty (0 bytes)")
    file.seek(0)
    try:
        with without_pillow_warnings():
            image = Image.open(file)
    except Image.DecompressionBombError:
        raise InputError(_too_large(name)) from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is not a picture in a format that can be read (PNG, JPEG, WebP, GIF, ...)"
        ) from None
    except DAMAGE as error:
        raise InputError(f"{name} is a damaged picture ({error})") from None
    with image:
        return _to_rgb(image, name)


def _too_large(name: str, size: tuple[int, int] | None = None) -> str:
    shown = f"has {size[0]} x {size[1]} pixels and" if size else "is larger than the limit:"
    return f"{name} {shown} at most {MOST_PIXELS // 10**6} megapixels are accepted; make it smaller"


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decode, turn upright, and convert to RGB; the size is checked first."""
    if image.width * image.height > MOST_PIXELS:
        raise InputError(_too_large(name, image.size))
    if image.width * image.height == 0:
        raise InputError(f"{name} has no pixels ({image.width} x {image.height})")
    try:
        image.load()
        return _upright(_flatten(image, name), _orientation(image, name))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(_too_large(name)) from None
    except DAMAGE as error:
        raise InputError(f"{name} is truncated or damaged ({error})") from None


def _orientation(image: Image.Image, name: str) -> int:
    """The EXIF orientation, 1 (upright) where there is none."""
    try:
        with without_pillow_warnings():
            return int(image.getexif().get(ORIENTATION_TAG, 1))
    except DAMAGE as error:
        log.info("the EXIF data of %s cannot be read (%s); the picture is taken as upright", name, error)
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn or mirror as the camera noted."""
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image, name: str) -> Image.Image:
    """Any Pillow mode as RGB with 8 bits per channel; transparency on white."""
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255. The high byte is what Pillow itself keeps of 16-bit colour files.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InputError(f"{name} has 32-bit pixels (mode {image.mode}); convert it to 8 bits per channel")
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # Also where the mode is RGB already: the copy is free of the file and of the caller's object.
    return image.convert("RGB")


def _from_array(array: NDArray[Any]) -> Image.Image:
    """A uint8 array of shape (height, width), (height, width, 3) or (height, width, 4)."""
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(
            f"the array has dtype {array.dtype} and shape {array.shape}; a picture must be uint8 "
            "of shape (height, width), (height, width, 3) RGB or (height, width, 4) RGBA"
        )
    if array.size == 0:
        raise InputError(f"the array of shape {array.shape} has no pixels")
    return Image.fromarray(array)


def flat_pictures(images: Any) -> list[Any]:
    """Pictures out of any nesting of lists, in order."""
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [picture for inner in images for picture in flat_pictures(inner)]  # pyright: ignore[reportUnknownVariableType]
    return [images]


def pad_to_square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Paste onto a square of the longer side; an odd pixel of border goes to the right or the bottom."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to exactly (width, height) with Pillow's antialiased bicubic filter.

    It works in two passes that each round, so their order moves pixels, by up to a tenth of the range. Pillow
    12 always begins with the width; Pillow 13, which the goldens were made with, begins with the height where
    that shrinks by more than twice what the width does. That order is taken under either of them.
    """
    width, height = size
    shrinks = image.height - height
    if shrinks > max(0, 2 * (image.width - width)):
        image = image.resize((image.width, height), Image.Resampling.BICUBIC)
    return image.resize(size, Image.Resampling.BICUBIC)


def resize_shortest_edge(image: Image.Image, side: int) -> Image.Image:
    """Bring the shorter edge to `side`; the longer one follows, rounded down."""
    width, height = image.size
    if width <= height:
        return resize(image, (side, int(side * height / width)))
    return resize(image, (int(side * width / height), side))


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """The middle square; the offsets are rounded down."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


@lru_cache(maxsize=16)
def normalisation_table(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """(channels, 256): what each byte becomes in each channel.

    A byte is scaled by 1/255 in float64 and rounded to float32; mean and std are applied in float32. So do
    transformers' Pillow processors, and a look-up of 256 values does it once instead of once per pixel.
    """
    unit = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    table = (unit - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]
    table.setflags(write=False)
    return table


def normalise(
    image: Image.Image | NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """RGB pixels (height, width, 3) as normalised float32 (3, height, width), in `out` where it is given."""
    table = normalisation_table(tuple(mean), tuple(std))
    pixels = np.asarray(image)
    if out is None:
        out = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel in range(3):
        # mode="clip" spares numpy a copy of `out`; a byte is never out of range.
        np.take(table[channel], pixels[..., channel], out=out[channel], mode="clip")
    return out
