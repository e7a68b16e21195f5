"""Files of drawn captchas: a folder whose names tell the answers, its split, rows for a tower, and questions.

The archive is a folder like the one that the document's example starts from: 10,000 pictures, each named by
its answer. The split is the example's: files in the order of their names are shuffled with seed 2023, and 80,
5 and 15 of a hundred go to train, valid and test.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from beholder.core.errors import ConfigError, InputError
from beholder.training.captcha.drawing import HANDS, Drawn, draw, faces_below
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


def _write_one(index: int, out: Path, hand: str, seed: int, faces: Faces) -> dict[str, Any]:
    drawn = picture_at(index, hand, seed, faces)
    name = f"{drawn.text}.{index:06d}.jpg"
    drawn.picture.save(out / name, quality=QUALITY)
    return row_of(drawn, name)


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
    """Draw into a new folder; yields how many are done. `rows.json` beside them is for a tower's warm-up."""
    if hand not in HANDS:
        raise ConfigError(f"there is no hand {hand!r}; known: {', '.join(HANDS)}")
    if pictures < 1 or workers < 1:
        raise ConfigError(f"pictures and workers must be at least 1; they are {pictures} and {workers}")
    if fonts is not None and not fonts.is_dir():
        raise ConfigError(f"no such folder of fonts: {fonts}")
    _must_be_new(out)
    out.mkdir(parents=True)
    one = partial(_write_one, out=out, hand=hand, seed=seed, faces=faces_below(fonts))
    rows: list[dict[str, Any]] = []
    with get_context("spawn").Pool(workers) as pool:
        for row in pool.imap(one, range(pictures), chunksize=64):
            rows.append(row)
            yield len(rows)
    (out / "rows.json").write_text(json.dumps(rows), "utf-8")


def split(archive: Path, out: Path) -> dict[str, int]:
    """Move a folder's pictures to `train`, `valid` and `test` of a new one; returns how many went where."""
    found = sorted(path for path in archive.rglob("*") if path.suffix.lower() in ENDINGS)
    if len(found) < 20:
        raise InputError(f"{archive} has {len(found)} pictures; a split by 80, 5 and 15 needs at least 20")
    _must_be_new(out)
    counts = sizes(len(found))
    shuffled = list(found)
    random.Random(SEED_OF_SPLIT).shuffle(shuffled)
    left = iter(shuffled)
    for part, count in counts.items():
        (out / part).mkdir(parents=True)
        for _ in range(count):
            path = next(left)
            shutil.move(path, out / part / path.name)
    for part in counts:
        write_questions(out / part)
    return counts


def sizes(pictures: int) -> dict[str, int]:
    """How many pictures each part gets: of 10,000 the example's 8,000, 500 and 1,500."""
    counts = {part: pictures * share // 100 for part, share in SHARES.items()}
    counts["test"] += pictures - sum(counts.values())
    return counts


def write_questions(folder: Path) -> Path:
    """What `beholder eval captcha` asks: every picture of the folder with the answer from its name."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
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


def write_other(out: Path, pictures: int, *, seed: int = 0) -> Path:
    """The same letters in captchas drawn by the package `captcha` with its own settings; to test on."""
    try:
        from captcha.image import ImageCaptcha  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(f"captchas of other software need it: pip install captcha ({error})") from error
    from beholder.training.captcha.drawing import CAPTCHA, LETTERS

    _must_be_new(out)
    out.mkdir(parents=True)
    # The package draws with the system's own randomness: texts can be repeated, pictures are kept.
    rng, painter = random.Random(seed), ImageCaptcha()
    for index in range(pictures):
        text = "".join(rng.choice(LETTERS) for _ in range(rng.choice(CAPTCHA.lengths)))
        painter.write(text, str(out / f"{text}.{index:06d}.png"))
    return write_questions(out)


def _must_be_new(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; give a new folder")


def texts(folder: Path) -> Sequence[str]:
    """The answers of a folder's pictures."""
    return [answer_in(path.name) for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS]
