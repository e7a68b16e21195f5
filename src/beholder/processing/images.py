"""Files, arrays and Pillow pictures as RGB, and the pixel operations that families compose. No tensors here.

`open_picture` turns a user's picture into RGB or says in one sentence why it cannot. The other functions,
and those of `resizing`, follow Pillow's and numpy's arithmetic to the last bit; a family says which published
steps it makes of them.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from beholder.core.errors import InputError
from beholder.processing.pages import give_room
from beholder.processing.resizing import threads
from beholder.processing.sources import opened_source

PictureSource = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[Any]
)

MOST_PIXELS = 100_000_000
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
    RuntimeError,
    struct.error,
    zlib.error,
)

log = logging.getLogger("beholder")
_header_lock = threading.Lock()


def open_picture(source: PictureSource) -> Image.Image:
    """A path, web address, data URL, bytes, open file, Pillow picture or numpy array as an RGB picture.

    EXIF orientation is applied, transparency is laid on white, of an animated file the first frame is taken.
    What it returns may be given to it again and stays as it is.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the picture")
    if isinstance(source, np.ndarray):
        return adopt_picture(_from_array(source), "the array")
    with opened_source(source) as (file, name):
        return _decode(file, name)


def open_pictures(sources: Sequence[PictureSource]) -> list[Image.Image]:
    """Several pictures, decoded side by side; of several bad ones the first is told."""
    count = min(threads(), len(sources))
    if count < 2:
        return [open_picture(source) for source in sources]
    with ThreadPoolExecutor(count, thread_name_prefix="beholder-picture") as pool:
        return list(pool.map(open_picture, sources))


def adopt_picture(image: Image.Image, name: str = "the picture") -> Image.Image:
    """The same as `open_picture` of a Pillow picture that nobody else goes on with: its pixels are not copied
    where they are RGB already."""
    return _to_rgb(image, name, is_ours=True)


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
        return adopt_picture(image, name)


def _too_large(name: str, size: tuple[int, int] | None = None) -> str:
    shown = f"has {size[0]} x {size[1]} pixels and" if size else "is larger than the limit:"
    return f"{name} {shown} at most {MOST_PIXELS // 10**6} megapixels are accepted; make it smaller"


def _to_rgb(image: Image.Image, name: str, *, is_ours: bool = False) -> Image.Image:
    """Decode, turn upright, and convert to RGB; the size is checked first."""
    if image.width * image.height > MOST_PIXELS:
        raise InputError(_too_large(name, image.size))
    if image.width * image.height == 0:
        raise InputError(f"{name} has no pixels ({image.width} x {image.height})")
    try:
        if is_ours:
            give_room(image)
        image.load()
        picture = _upright(_flatten(image, name, is_ours), _orientation(image, name))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(_too_large(name)) from None
    except DAMAGE as error:
        raise InputError(f"{name} is truncated or damaged ({error})") from None
    # The notes go: the one about the orientation would turn it again wherever it is opened again.
    picture.info.clear()
    return picture


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


def _flatten(image: Image.Image, name: str, is_ours: bool) -> Image.Image:
    """Any Pillow mode as RGB with 8 bits per channel; transparency on white."""
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255. The high byte is what Pillow itself keeps of 16-bit colour files.
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        if (clear := image.info.get("transparency")) is not None:  # one value that means transparent
            grey[values == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise InputError(f"{name} has 32-bit pixels (mode {image.mode}); convert it to 8 bits per channel")
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.has_transparency_data:  # the A of LAB is none
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if is_ours and image.mode == "RGB":
        # Free of the file without a copy of the pixels, which takes half as long as decoding them did.
        return image._new(image.im)  # pyright: ignore[reportPrivateUsage]  # Pillow has no other way
    # Also where the mode is RGB already: the copy is free of the caller's object.
    return image.convert("RGB")


def _from_array(array: NDArray[Any]) -> Image.Image:
    """A uint8 array of shape (height, width), the same with one channel, with 3 or with 4."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
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
