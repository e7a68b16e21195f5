"""What a benchmark is: rows, how each family's original asks, the score of one answer, figures over all.

A task knows neither models nor files of answers; `run.py` and `scoring.py` bring it together with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.core.errors import InputError
from beholder.core.types import Box, Message
from beholder.evaluation.files import Said
from beholder.evaluation.intervals import Interval
from beholder.processing.images import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

PLAIN = "plain"  # the style of no family
# JSON values; at least "id" (unique), "image" (a path below the data folder, a data URL, or "" for none) and
# "question".
Row = Mapping[str, Any]
Scores = Mapping[str, Any]  # JSON values: what `summary` needs to know of one answer
Scorer = Callable[["Reply", Row], Scores]


@dataclass(frozen=True)
class Reply:
    """What the model said, the boxes in it as pixels of the picture, and what it cost.

    `prompt` and `answer_id` are what an answer file says; `is_missing` marks a row without an answer,
    `tells_boxes` one whose boxes are known, be it that there are none.
    """

    text: str
    boxes: tuple[Box, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    prompt: str = ""
    is_missing: bool = False
    answer_id: str = ""
    tells_boxes: bool = False


Pair = tuple[Row, Reply]
Pairing = Callable[[Sequence[Said], Sequence[Row]], list[Pair]]
# A judge's reply to messages with settings (temperature, max_tokens ...).
AskJudge = Callable[[Sequence[Mapping[str, str]], Mapping[str, Any]], str]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one family's original asks: the prompt for a row, the longest answer, the template it names."""

    prompt: str | Callable[[Row], str] = "{question}"
    max_tokens: int = 32
    template: str | None = None

    def text(self, row: Row) -> str:
        """The question as it is put to the model."""
        return self.prompt.format_map(row) if isinstance(self.prompt, str) else self.prompt(row)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One column of the authors' tables: a figure of a task, by model."""

    source: str
    figures: Mapping[str, float]  # name of the checkpoint -> percent or points
    figure: str = ""  # which figure of the task it is; the headline if left out
    tolerance: float = 0.5  # how far a faithful run may lie from them


@dataclass(frozen=True, kw_only=True)
class Task:
    """One benchmark. `version` rises with every change that could move a score; `protocol` tells the rules.

    `rows` reads the file `source` (a name or glob pattern, alternatives parted by |) of a data folder; `draw`
    writes the folder of a benchmark that is drawn. `score` scores as the original does, oddities included
    (`quirks` names them); `strict` scores without them. `pair` finds the rows of answers made elsewhere.
    `submit` makes what is uploaded, by file name; `convert` too, where the original's converter goes through
    the answers and knows no rows. `reads_boxes` says that answers made elsewhere must be read for boxes.
    `review` asks a judge where no rule can score; `reviewed` and `grades` read what judges said earlier.
    """

    name: str
    version: int
    protocol: str
    source: str
    rows: Callable[[Path], Sequence[Row]]
    score: Scorer
    summary: Callable[[Sequence[Scores]], Mapping[str, Interval]]
    prompt: str | Callable[[Row], str] = "{question}"
    max_tokens: int = 32
    draw: Callable[[Path], None] | None = None
    strict: Scorer | None = None
    quirks: Mapping[str, str] = field(default_factory=dict[str, str])
    styles: Mapping[str, Style] = field(default_factory=dict[str, Style])
    pair: Pairing | None = None
    skips_broken_lines: bool = False
    headline: str = "accuracy"
    points: tuple[str, ...] = ()  # figures that are no shares of one; "*" for all
    published: tuple[Published, ...] = ()
    submit: Callable[[Sequence[Pair], Path], Mapping[str, bytes]] | None = None
    convert: Callable[[Sequence[Said], Path], Mapping[str, bytes]] | None = None
    reads_boxes: bool = False
    review: Callable[[AskJudge, Reply, Row], Scores] | None = None
    reviewed: Callable[[Said], Scores] | None = None  # reads a line of a file of reviews
    # Writes such a file, of all that was judged.
    reviews: Callable[[Sequence[tuple[Row, Reply, Scores]]], Mapping[str, bytes]] | None = None
    grades: Callable[[Path, Sequence[Row]], list[Scores]] | None = None  # reads a file of grades
    strict_summary: Callable[[Sequence[Scores]], Mapping[str, Interval]] | None = None
    # Get the data from the hub: what scoring needs; and what only asking does, unless it is there.
    fetch: Callable[[Path], None] | None = None
    fetch_pictures: Callable[[Path], None] | None = None
    origin: str = ""  # where the authors publish data that are not fetched
    home: Path | None = None  # the data folder, where the task itself knows it

    @property
    def measure(self) -> str:
        """Name and version, as records carry them."""
        return f"{self.name} v{self.version}"

    def style(self, family: str) -> Style:
        """How the original of that family asks; as the task itself says, which is LLaVA's way, by default.

        `PLAIN` is each question as it stands, for models that were not trained with the originals' endings.
        """
        prompt = "{question}" if family == PLAIN else self.prompt
        return self.styles.get(family, Style(prompt=prompt, max_tokens=self.max_tokens))

    def scorer(self, is_strict: bool) -> Scorer:
        """The rule for one answer: the original's, or the one without its quirks."""
        return self.strict if is_strict and self.strict else self.score

    def summarize(self, scores: Sequence[Scores], is_strict: bool = False) -> Mapping[str, Interval]:
        """The figures over all scores, as the original counts or without its quirks."""
        return (self.strict_summary if is_strict and self.strict_summary else self.summary)(scores)

    def prepare(self, data: Path, is_asked: bool = True) -> None:
        """Draw or fetch a benchmark, unless its data are there; a drawn one appears when it is whole.

        Pictures that nobody will look at, as answers are there already, are not fetched for themselves.
        """
        if self.fetch and self.find_source(data) is None:
            self.fetch(data)
        if self.fetch_pictures and is_asked:
            self.fetch_pictures(data)
        if self.draw and not data.exists():
            unfinished = data.with_name(f"{data.name}.drawing.{os.getpid()}")
            self.draw(unfinished)
            settle(unfinished, data)
        if self.find_source(data) is None:
            raise self._missing(data)

    def find_source(self, data: Path) -> Path | None:
        """The file (or folder) of the questions: of the first alternative that is there the last by name."""
        found = (max(data.glob(pattern), default=None) for pattern in self.source.split("|"))
        return next((path for path in found if path), None)

    def _missing(self, data: Path) -> InputError:
        wanted = self.source.replace("|", " or ")
        from_where = f": {self.origin}" if self.origin else ""
        return InputError(
            f"{data} has no {wanted}, so it is not the data of {self.name}; "
            f"give the folder that has it with --data{from_where}"
        )

    def load(self, data: Path) -> Sequence[Row]:
        """All rows of a data folder. Answers are kept under their ids, so ids that repeat are an error."""
        path = self.find_source(data)
        if path is None:
            raise self._missing(data)
        try:
            rows = self.rows(path)
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            told = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path} is not in the format of {self.name}: {told}") from error
        if not rows:
            raise InputError(f"{path} holds no rows for {self.name}")
        counts = Counter(row["id"] for row in rows)
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise InputError(
                f"{path}: {len(repeated)} ids of {self.name} are given more than once, first "
                f"{repeated[0]!r}; each row needs its own"
            )
        return rows

    def conversation(
        self, row: Row, picture: Image | None, style: Style | None = None
    ) -> tuple[Message, ...]:
        """What the model is shown and asked for one row."""
        text = (style or self.style("")).text(row)
        return (Message.user(text) if picture is None else Message.user(picture, text),)


def settle(unfinished: Path, folder: Path) -> None:
    """Give a folder that is whole its name; where another process was quicker, its work stands."""
    try:
        os.rename(unfinished, folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(unfinished)


def open_row_picture(data: Path, image: str) -> Image | None:
    """The picture of a row: a file below the data folder, a picture in the row itself, or none."""
    if not image:
        return None
    return open_picture(image if image.startswith("data:") else data / image)


def fingerprint(rows: Sequence[Row]) -> str:
    """A hash of questions and truths: two runs that have the same one were asked the same."""
    text = json.dumps([dict(row) for row in rows], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
