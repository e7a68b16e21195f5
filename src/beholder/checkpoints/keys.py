"""A checkpoint layout is a table of names, read in both directions.

A row pairs a stored name with a parameter name. `{n}` stands for a number and `{rest}` (or any other word)
for whatever follows; both sides of a row hold the same placeholders. `None` on our side drops the stored
tensor on purpose. The first row that matches wins. Where one stored tensor is several parameters, our side of
its row is a name for all of them, and a `Split` says which they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from beholder.checkpoints.splits import Split

PLACEHOLDER = re.compile(r"\{(\w+)\}")
NUMBER = "n"


@dataclass(frozen=True)
class Row:
    """One rule: `theirs` is a stored name, `ours` the parameter that it fills."""

    theirs: str
    ours: str | None

    def __post_init__(self) -> None:
        if self.ours is not None and set(PLACEHOLDER.findall(self.theirs)) != set(
            PLACEHOLDER.findall(self.ours)
        ):
            raise ValueError(f"{self.theirs} and {self.ours} do not hold the same placeholders")

    @cached_property
    def reads_theirs(self) -> re.Pattern[str]:
        """Matches the stored names that the row is for."""
        return re.compile(pattern_of(self.theirs))

    @cached_property
    def reads_ours(self) -> re.Pattern[str] | None:
        """Matches the parameter names that the row is for."""
        return None if self.ours is None else re.compile(pattern_of(self.ours))


def pattern_of(template: str) -> str:
    """The regular expression of a whole name, with a named group for every placeholder."""
    pieces = PLACEHOLDER.split(template)
    text = [re.escape(piece) for piece in pieces[::2]]
    groups = [rf"(?P<{name}>\d+)" if name == NUMBER else f"(?P<{name}>.+)" for name in pieces[1::2]]
    return "^" + "".join(piece for pair in zip(text, [*groups, ""], strict=True) for piece in pair) + "$"


@dataclass(frozen=True)
class KeyTable:
    """All rows of a layout, and which of our names stand for several parameters."""

    rows: tuple[Row, ...]
    splits: tuple[Split, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str | None]], splits: Iterable[Split] = ()) -> KeyTable:
        """From pairs (stored name, our name)."""
        return cls(tuple(Row(theirs, ours) for theirs, ours in rows), tuple(splits))

    def parts(self, ours: str) -> tuple[str, ...]:
        """The parameters that a name of ours stands for: itself, or those of its split."""
        return next((parts for split in self.splits if (parts := split.parts_of(ours))), (ours,))

    def ours(self, theirs: str) -> str | None:
        """The parameter that a stored tensor fills, None if it is dropped; KeyError if no row knows it.

        Of a tensor that is split this is the name for all of its parameters; see `parts`.
        """
        for row in self.rows:
            if found := row.reads_theirs.match(theirs):
                return None if row.ours is None else row.ours.format_map(found.groupdict())
        raise KeyError(theirs)

    def theirs(self, ours: str) -> str:
        """The stored name of a parameter, or of what it is a part of; KeyError if no row knows it."""
        whole = next((whole for split in self.splits if (whole := split.whole_of(ours))), ours)
        for row in self.rows:
            if row.reads_ours is not None and (found := row.reads_ours.match(whole)):
                return row.theirs.format_map(found.groupdict())
        raise KeyError(ours)

    def renamings(self) -> dict[str, str]:
        """The rows as transformers' `key_mapping`: regular expression -> replacement.

        transformers applies all of them in turn, fills in one group, and leaves a name alone that none
        matches, so rows must have at most one placeholder and must not match what another row has made.
        """
        mapping: dict[str, str] = {}
        for row in self.rows:
            if row.ours is None or row.ours == row.theirs:
                continue
            if len(placeholders := PLACEHOLDER.findall(row.theirs)) > 1:
                raise ValueError(
                    f"{row.theirs} has more placeholders than transformers can fill in: {placeholders}"
                )
            source = re.sub(r"\(\?P<\w+>", "(", pattern_of(row.theirs))
            mapping[source] = PLACEHOLDER.sub(r"\\1", row.ours)
        return mapping

    @property
    def dropped(self) -> Sequence[str]:
        """The stored names (or their templates) that are left out on purpose."""
        return [row.theirs for row in self.rows if row.ours is None]
