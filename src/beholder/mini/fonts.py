"""The typefaces of writings: which font files are usable, and the ink of a text in one of them."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BUILT_IN = "built-in"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
# A usable face looks like the built-in one, letter by letter; symbol and barcode faces do not.
LIKENESS = 0.24
THINNEST = 0.14  # share of ink in "HIEW": hairline faces vanish when a picture is squeezed
INK = 100  # a pixel darker than this (of 255) counts as part of a letter


class FontBook:
    """The built-in typeface and any number of font files, by name. Picklable: faces load when used."""

    def __init__(self, files: Sequence[Path] = ()) -> None:
        self.files = {path.name: path for path in files}
        self.names = (BUILT_IN, *sorted(self.files))

    @classmethod
    def scan(cls, folder: Path | None) -> "FontBook":
        """Every usable .ttf and .otf below a folder; only the built-in typeface without one."""
        if folder is None:
            return cls()
        found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in {".ttf", ".otf"}]
        unique = {path.name: path for path in reversed(found)}
        return cls([path for path in unique.values() if is_usable(path)])

    def face(self, name: str, size: int) -> ImageFont.FreeTypeFont:
        """The typeface at a size in pixels."""
        return load_face(None if name == BUILT_IN else str(self.files[name]), size)

    def ink(self, text: str, name: str, size: int, rotation: float = 0.0) -> Image.Image:
        """The text as a grey mask, cropped to its visible letters."""
        return draw_ink(text, None if name == BUILT_IN else str(self.files[name]), size, rotation)

    def record(self) -> list[dict[str, str]]:
        """Names and SHA-256 sums of the font files, for the manifest."""
        sums = [
            {"name": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for name, path in sorted(self.files.items())
        ]
        return [{"name": BUILT_IN, "sha256": ""}, *sums]


@lru_cache(maxsize=512)
def load_face(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    """Load a font file, or Pillow's built-in typeface for None."""
    if path is None:
        face = ImageFont.load_default(size)
        assert isinstance(face, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
        return face
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=16)
def draw_ink(text: str, path: str | None, size: int, rotation: float) -> Image.Image:
    """A mask of the drawn text, turned by `rotation` degrees and cropped to what is visible."""
    face = load_face(path, size)
    left, top, right, bottom = face.getbbox(text)
    edge = 2
    mask = Image.new("L", (int(right - left) + 2 * edge, int(bottom - top) + 2 * edge))
    ImageDraw.Draw(mask).text((edge - left, edge - top), text, font=face, fill=255)
    if rotation:
        mask = mask.rotate(rotation, resample=Image.Resampling.BICUBIC, expand=True)
    return mask.crop(visible(mask))


def visible(mask: Image.Image) -> tuple[int, int, int, int]:
    """The box of everything dark enough to be seen; the whole mask if nothing is."""
    return mask.point([0] * INK + [255] * (256 - INK)).getbbox() or (0, 0, *mask.size)


@lru_cache(maxsize=1)
def reference_glyphs() -> np.ndarray:
    """The built-in typeface's letters as unit vectors, one row each."""
    return glyphs(None)


def glyphs(path: str | None) -> np.ndarray:
    """Each letter of a face, its ink stretched over 16 × 16 pixels, centred and normalised: one row each."""
    rows = []
    for letter in LETTERS:
        mask = draw_ink(letter, path, 40, 0.0).resize((16, 16), Image.Resampling.BOX)
        row = np.asarray(mask, dtype=np.float32).ravel()
        row = row - row.mean()
        rows.append(row / (np.linalg.norm(row) + 1e-6))
    return np.stack(rows)


def is_usable(path: Path) -> bool:
    """Whether a font file draws A-Z, a-z and 0-9 as distinct letters that look like letters."""
    try:
        rows = glyphs(str(path))
        # Small capitals would make "stop" and "STOP" look alike: case could not be read.
        alike = [float(rows[LETTERS.index(c)] @ rows[LETTERS.index(c.lower())]) for c in "ABDEGHNQRT"]
        ink = float(np.asarray(draw_ink("HIEW", str(path), 64, 0.0)).mean()) / 255
    except (OSError, ValueError):
        return False
    plain = [i for i, letter in enumerate(LETTERS) if letter not in "Il1|O0oCcSsVvWwXxZzUuPpKkYyJjMmFf"]
    among = rows[plain] @ rows[plain].T - np.eye(len(plain))
    likeness = float(np.mean(np.sum(rows * reference_glyphs(), axis=1)))
    return (
        likeness >= LIKENESS
        and float(among.max()) < 0.985
        and float(np.mean(alike)) < 0.9
        and ink >= THINNEST
    )
