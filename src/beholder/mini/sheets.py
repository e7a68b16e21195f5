"""Crowded sheets: many things and writings on one picture, of which parts are cut for a tower to look at.

A scene names a few things; a tower that starts from nothing learns far more from a second of looking at a
crowd. Sheets carry no questions. Sizes are those of scenes: a sheet is some pictures wide and high.
"""

import random

from beholder.mini import backgrounds
from beholder.mini.arranging import SIZES, Arrangement
from beholder.mini.fonts import FontBook
from beholder.mini.lettering import place_writing
from beholder.mini.scenes import Scene, Thing, Writing
from beholder.mini.worlds import pick_finish

PICTURES_WIDE = 2
MOST_WRITINGS, MOST_THINGS = 22, 22
# Small things and long lines of letters are the hardest to tell apart, so there are more of them.
WEIGHTS = (6, 5, 1)


class Crowd(Arrangement):
    """As many things as find room, sized for a picture that is a part of the sheet."""

    def fill(self) -> list[Thing]:
        """Place things until there is no room or enough of them."""
        self.shorter //= PICTURES_WIDE
        for _ in range(MOST_THINGS):
            size = self.rng.choices(tuple(SIZES), WEIGHTS)[0]
            if thing := self.place(size, None):
                self.things.append(thing)
        return self.things


def sample_sheet(rng: random.Random, fonts: FontBook) -> Scene:
    """A square sheet: its background, then writings, then things in what room they leave."""
    part = rng.randint(176, 240)
    side = part * PICTURES_WIDE
    background = backgrounds.pick_background(rng)
    writings: list[Writing] = []
    for _ in range(rng.randint(8, MOST_WRITINGS)):
        big = rng.random() < 0.25
        if writing := place_writing(rng, fonts, (part, part), background, writings, big, (side, side)):
            writings.append(writing)
    areas = tuple(writing.area for writing in writings)
    things = Crowd(rng, side, side, background, areas).fill()
    return Scene(side, side, background, tuple(things), tuple(writings), pick_finish(rng, part))
