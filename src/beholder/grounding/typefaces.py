"""Typefaces for labels: one is looked for that has every character, so that none is drawn as an empty box."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from PIL import ImageFont

from beholder.core.errors import InputError

MISSING = "\uffff"  # no typeface has this character, so its shape is that of any character that is missing
# Where systems keep typefaces, and parts of the names of those with more than Latin characters, best first.
FONT_FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts",),
}
WIDE_FONTS = (
    "DejaVuSans.ttf", "NotoSansCJK", "NotoSansSC", "SourceHanSans", "wqy-", "NotoSerifCJK",
    "DroidSansFallback", "PingFang", "STHeiti",
    "Hiragino", "msyh", "simhei", "simsun", "unifont", "uming", "ukai",
)  # fmt: skip
WEIGHTS = re.compile(r"black|bold|heavy|light|medium|thin", re.IGNORECASE)
# Noto's and Adobe's collections hold the forms of Japan, Korea and China in this order. A text without kana
# and hangul is taken for Chinese.
COLLECTIONS = re.compile(r"(Noto|SourceHan)\w*(CJK|Sans|Serif)[^/\\]*\.[ot]tc$", re.IGNORECASE)
KANA, HANGUL = re.compile("[\u3040-\u30ff]"), re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
JAPAN, KOREA, CHINA = 0, 1, 2

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

log = logging.getLogger("beholder")


@dataclass(frozen=True)
class Typeface:
    """A file, or Pillow's own typeface without one; `face` counts within a collection."""

    file: str = ""
    face: int = 0

    def at(self, points: int) -> Font:
        """The typeface at a size. A file that is no typeface is an `OSError`."""
        return _open(self.file, self.face, points)


def find_typeface(text: str, file: str = "") -> Typeface | None:
    """A typeface with all characters of a text: the one given, Pillow's own, one of the system's; or none."""
    if file:
        try:
            Typeface(file).at(12)
        except OSError as error:
            raise InputError(f"{file} cannot be read as a typeface: {error}") from error
        candidates = [Typeface(file)]
    else:
        candidates = _candidates(text)
    return next((one for one in candidates if has_characters(one.at(12), text)), None)


def _candidates(text: str) -> Iterator[Typeface]:
    yield Typeface()
    wanted = JAPAN if KANA.search(text) else KOREA if HANGUL.search(text) else CHINA
    for path in wide_fonts():
        for face in (wanted, 0) if COLLECTIONS.search(path) else (0,):
            try:
                Typeface(path, face).at(12)
            except OSError as error:
                log.info("%s is passed over: %s", path, error)
                continue
            yield Typeface(path, face)


@lru_cache(maxsize=64)
def _open(file: str, face: int, points: int) -> Font:
    return ImageFont.truetype(file, points, face) if file else ImageFont.load_default(size=points)


def has_characters(font: Font, text: str) -> bool:
    """Whether no character of a text looks like one that is missing."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return text.isascii() and (text.isprintable() or text.isspace())
    missing = _shape(font, MISSING)
    return all(char in " \n" or _shape(font, char) != missing for char in set(text))


def _shape(font: ImageFont.FreeTypeFont, char: str) -> tuple[tuple[int, int], bytes]:
    mask = cast(Any, font.getmask(char))  # Pillow's own picture type, which its stubs do not describe
    return mask.size, bytes(mask)


@lru_cache(maxsize=1)
def wide_fonts() -> tuple[str, ...]:
    """Typeface files of this system that are known to hold thousands of characters, best first."""
    found: list[tuple[int, bool, str]] = []
    for folder in FONT_FOLDERS.get(sys.platform, FONT_FOLDERS["linux"]):
        for home, _, names in os.walk(os.path.expanduser(folder)):
            found += [(*_rank(name), os.path.join(home, name)) for name in names if _is_wide(name)]
    return tuple(path for _, _, path in sorted(found))


def _is_wide(name: str) -> bool:
    return name.lower().endswith((".ttf", ".ttc", ".otf")) and any(part in name for part in WIDE_FONTS)


def _rank(name: str) -> tuple[int, bool]:
    """The family's place, and within it the regular weight before bold and light ones."""
    return next(i for i, part in enumerate(WIDE_FONTS) if part in name), bool(WEIGHTS.search(name))
