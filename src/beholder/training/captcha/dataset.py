"""Files of drawn captchas: a folder whose names tell the answers, its split, rows for a tower, and questions.

The archive is a folder like the one that the document's example starts from: 10,000 pictures, each named by
its answer. The split is the example's: files in the order of their names are shuffled with seed 2023, and 80,
5 and 15 of a hundred go to train, valid and test.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import PIL

from beholder.core.errors import ConfigError, InputError
from beholder.mini.fonts import FontBook
from beholder.mini.shards import Shards, write_json
from beholder.training.captcha.drawing import HANDS, Drawn, draw
from beholder.training.data import MARKER

PROMPT = "CAPTCHA:"
SEED_OF_SPLIT = 2023
SHARES = {"train": 80, "valid": 5, "test": 15}  # of a hundred; the rest after rounding down is the last's
QUALITY = 92  # of the JPEG files
QUESTIONS = "captchas.jsonl"
ENDINGS = (".jpg", ".jpeg", ".png")

Faces = tuple[str | None, ...]


def picture_at(index: int, hand: str, seed: int, faces: Faces) -> Drawn:
    """The picture with a number, which follows from seed, hand, number and typefaces alone."""
    return draw(random.Random(f"{seed}/{hand}/{index}"), HANDS[hand], faces)


def _draw_shard(span: range, out: Path, hand: str, seed: int, faces: Faces) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index in span:
        drawn = picture_at(index, hand, seed, faces)
        name = f"{drawn.text}.{index:06d}.jpg"
        drawn.picture.save(out / name, quality=QUALITY)
        rows.append(row_of(drawn, name))
    return rows


def row_of(drawn: Drawn, name: str) -> dict[str, Any]:
    """A training row in LLaVA's form; `objects` say where each letter is, for a tower's warm-up."""
    return {
        "id": name,
        "image": name,
        "conversations": [
            {"from": "human", "value": f"{MARKER}\n{PROMPT}"},
            {"from": "gpt", "value": drawn.text},
        ],
        "objects": [
            {"what": letter, "box": [round(edge, 4) for edge in box]}
            for letter, box in zip(drawn.text, drawn.boxes, strict=True)
        ],
    }


def write(
    out: Path, pictures: int, *, hand: str = "captcha", seed: int = 0, fonts: Path | None = None,
    workers: int = 1,
) -> Iterator[int]:  # fmt: skip
    """Draw into a folder; yields how many are done. `rows.json` beside them is for a tower's warm-up.

    A run that was stopped goes on, a finished folder is left as it is, and one with anything else is refused.
    """
    if hand not in HANDS:
        raise ConfigError(f"there is no hand {hand!r}; known: {', '.join(HANDS)}")
    if pictures < 1 or workers < 1:
        raise ConfigError(f"pictures and workers must be at least 1; they are {pictures} and {workers}")
    if fonts is not None and not fonts.is_dir():
        raise ConfigError(f"no such folder of fonts: {fonts}")
    book = FontBook.scan(fonts)
    faces = (None, *(str(book.files[name]) for name in sorted(book.files)))
    drawn_as = {"hand": hand, "seed": seed, "fonts": book.record(), "pillow": PIL.__version__}
    shards = Shards(out, range(pictures), {"pictures": pictures, **drawn_as})
    work = partial(_draw_shard, out=out, hand=hand, seed=seed, faces=faces)
    yield from _drawn(shards, work, _write_rows, workers)


def _write_rows(shards: Shards) -> None:
    write_json(shards.out / "rows.json", [row for part in shards.read() for row in part])


def _drawn(
    shards: Shards, work: Callable[[range], Any], finish: Callable[[Shards], object], workers: int = 1
) -> Iterator[int]:
    if shards.manifest() is not None:
        yield len(shards.numbers)
        return
    if not shards.begun():
        _must_be_new(shards.out)
    done = len(shards.numbers) - sum(map(len, shards.left()))
    for more in shards.draw(work, workers):
        done += more
        yield done
    finish(shards)
    shards.finish()


def split(archive: Path, out: Path) -> dict[str, int]:
    """Move a folder's pictures to `train`, `valid` and `test` of a new one; returns how many went where.

    A split that was stopped is ended: what it moved counts as if it were still in the archive.
    """
    found = _pictures(archive.rglob("*"))
    moved = {path.name: part for part in SHARES for path in _pictures((out / part).glob("*"))}
    names = sorted([path.name for path in found] + list(moved))
    if twice := [one for one, next_one in pairwise(names) if one == next_one]:
        raise InputError(f"{archive} and {out} have {len(twice)} names twice, among them {twice[0]}")
    if len(names) < 20:
        raise InputError(f"{archive} has {len(found)} pictures; a split by 80, 5 and 15 needs at least 20")
    _must_be_new(out, but=tuple(SHARES))
    counts = sizes(len(names))
    random.Random(SEED_OF_SPLIT).shuffle(names)
    parts = [part for part, count in counts.items() for _ in range(count)]
    goes_to = dict(zip(names, parts, strict=True))
    if any(goes_to[name] != part for name, part in moved.items()):
        raise InputError(f"{out} holds a split of other pictures than those of {archive}; give a new folder")
    for part in counts:
        (out / part).mkdir(parents=True, exist_ok=True)
    for path in found:
        shutil.move(path, out / goes_to[path.name] / path.name)
    for part in counts:
        write_questions(out / part)
    return counts


def _pictures(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in ENDINGS)


def sizes(pictures: int) -> dict[str, int]:
    """How many pictures each part gets: of 10,000 the example's 8,000, 500 and 1,500."""
    counts = {part: pictures * share // 100 for part, share in SHARES.items()}
    counts["test"] += pictures - sum(counts.values())
    return counts


def write_questions(folder: Path) -> Path:
    """What `beholder eval captcha` asks: every picture of the folder with the answer from its name."""
    found = _pictures(folder.glob("*"))
    if not found:
        raise InputError(f"{folder} holds no pictures ({', '.join(ENDINGS)})")
    lines = [
        json.dumps({"id": path.name, "image": path.name, "question": PROMPT, "answer": answer_in(path.name)})
        for path in found
    ]
    place = folder / QUESTIONS
    place.write_text("\n".join(lines) + "\n", "utf-8")
    return place


def answer_in(name: str) -> str:
    """A file's name up to its first dot."""
    return name.partition(".")[0]


def write_other(out: Path, pictures: int, *, seed: int = 0) -> Iterator[int]:
    """The same letters in captchas drawn by the package `captcha` with its own settings; to test on.

    Yields how many are done and goes on as `write` does.
    """
    try:
        from captcha.image import ImageCaptcha  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(f"captchas of other software need it: pip install captcha ({error})") from error
    from beholder.training.captcha.drawing import CAPTCHA, LETTERS

    # The package draws with the system's own randomness: texts can be repeated, pictures are kept.
    rng, painter = random.Random(seed), ImageCaptcha()
    written = [
        "".join(rng.choice(LETTERS) for _ in range(rng.choice(CAPTCHA.lengths))) for _ in range(pictures)
    ]

    def work(span: range) -> None:
        for index in span:
            painter.write(written[index], str(out / f"{written[index]}.{index:06d}.png"))

    drawn_as = {"hand": f"captcha {version('captcha')}", "seed": seed}
    shards = Shards(out, range(pictures), {"pictures": pictures, **drawn_as})
    yield from _drawn(shards, work, lambda shards: write_questions(shards.out))


def _must_be_new(out: Path, but: Sequence[str] = ()) -> None:
    if out.exists() and any(entry.name not in but for entry in out.iterdir()):
        raise InputError(f"{out} is not empty; give a new folder")
