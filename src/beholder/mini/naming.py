"""How things are called in questions and answers, in English and Chinese; which description fits only one."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from beholder.mini.scenes import Scene, Thing

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

# The first word of every entry is the one that answers use.
SHAPES_EN: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "circle", "disc"),
    "square": ("square", "square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart", "heart", "heart", "heart shape"),
    "cross": ("cross", "cross", "plus sign", "plus"),
    "ring": ("ring", "ring", "ring", "donut", "hoop"),
    "moon": ("moon", "moon", "crescent", "crescent moon"),
    "arrow": ("arrow",),
}
SHAPES_ZH: dict[str, tuple[str, ...]] = {
    "circle": ("圆形", "圆形", "圆", "圆形图案"),
    "square": ("正方形", "正方形", "方形", "方块"),
    "triangle": ("三角形", "三角形", "三角"),
    "star": ("星形", "星形", "星星", "五角星"),
    "heart": ("心形", "心形", "爱心", "心"),
    "cross": ("十字", "十字", "十字形", "加号"),
    "ring": ("圆环", "圆环", "环形", "环"),
    "moon": ("月亮", "月亮", "月牙", "弯月"),
    "arrow": ("箭头",),
}
COLOURS_EN: dict[str, tuple[str, ...]] = {"grey": ("grey", "gray")}
COLOURS_ZH: dict[str, tuple[str, ...]] = {
    "red": ("红色", "红色", "红"),
    "green": ("绿色", "绿色", "绿"),
    "blue": ("蓝色", "蓝色", "蓝"),
    "yellow": ("黄色", "黄色", "黄"),
    "orange": ("橙色", "橙色", "橘色", "橘黄色"),
    "purple": ("紫色", "紫色", "紫"),
    "pink": ("粉色", "粉色", "粉红色"),
    "brown": ("棕色", "棕色", "褐色", "咖啡色"),
    "black": ("黑色", "黑色", "黑"),
    "white": ("白色", "白色", "白"),
    "grey": ("灰色", "灰色", "灰"),
    "cyan": ("青色", "青色"),
}
SIZES_EN: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium", "medium", "medium-sized", "mid-sized"),
    "large": ("large", "large", "big"),
}
SIZES_ZH: dict[str, tuple[str, ...]] = {
    "small": ("小的", "小的", "小"),
    "medium": ("中等的", "中等的", "中等大小的"),
    "large": ("大的", "大的", "大"),
}
ANYTHING_EN = ("object", "object", "thing", "shape", "figure", "item")
ANYTHING_ZH = ("物体", "物体", "图形", "东西", "形状")
EDGES_EN: dict[str, tuple[str, ...]] = {
    "left": ("leftmost {0}", "{0} on the far left", "{0} furthest to the left"),
    "right": ("rightmost {0}", "{0} on the far right", "{0} furthest to the right"),
    "top": ("topmost {0}", "highest {0}", "uppermost {0}", "{0} at the very top"),
    "bottom": ("bottommost {0}", "lowest {0}", "{0} at the very bottom"),
}
EDGES_ZH: dict[str, tuple[str, ...]] = {
    "left": ("最左边的{0}", "最左侧的{0}"),
    "right": ("最右边的{0}", "最右侧的{0}"),
    "top": ("最上面的{0}", "最上方的{0}", "最高的{0}"),
    "bottom": ("最下面的{0}", "最下方的{0}", "最低的{0}"),
}
# A place is told only where it is plain: this share of the picture's side apart.
MARGIN = 0.12


def choose(words: tuple[str, ...], rng: random.Random | None) -> str:
    """Any of the words, or the one that answers use if there is no randomness."""
    return rng.choice(words) if rng else words[0]


@dataclass(frozen=True, slots=True)
class Description:
    """What a question says of a thing; None leaves it open. `edge`: the outermost of those that match."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    edge: str | None = None

    @classmethod
    def of(cls, thing: Thing, attributes: Iterable[str] = ("size", "colour", "shape")) -> "Description":
        """The thing's own attributes."""
        return cls(**{name: getattr(thing, name) for name in attributes})

    def select(self, scene: Scene) -> list[Thing]:
        """The things of a scene that it fits."""
        found = [
            thing
            for thing in scene.things
            if self.size in (None, thing.size)
            and self.colour in (None, thing.colour)
            and self.shape in (None, thing.shape)
        ]
        return [outer] if (outer := outermost(found, self.edge, scene)) else ([] if self.edge else found)

    def english(self, rng: random.Random | None = None, plural: bool = False) -> str:
        """The noun phrase without an article."""
        noun = choose(SHAPES_EN[self.shape], rng) if self.shape else choose(ANYTHING_EN, rng)
        words = [choose(SIZES_EN[self.size], rng)] if self.size else []
        if self.colour:
            words.append(choose(COLOURS_EN.get(self.colour, (self.colour,)), rng))
        phrase = " ".join([*words, pluralise(noun) if plural else noun])
        return choose(EDGES_EN[self.edge], rng).format(phrase) if self.edge else phrase

    def chinese(self, rng: random.Random | None = None) -> str:
        """The noun phrase."""
        noun = choose(SHAPES_ZH[self.shape], rng) if self.shape else choose(ANYTHING_ZH, rng)
        size = choose(SIZES_ZH[self.size], rng) if self.size else ""
        colour = choose(COLOURS_ZH[self.colour], rng) if self.colour else ""
        if colour and rng and (rng.random() < 0.5 or not self.shape):
            colour += "的"
        elif colour and not self.shape:
            colour += "的"
        phrase = size + colour + noun
        return choose(EDGES_ZH[self.edge], rng).format(phrase) if self.edge else phrase


def outermost(things: list[Thing], edge: str | None, scene: Scene) -> Thing | None:
    """The thing that is furthest towards an edge of the picture, if it leads by a clear margin."""
    if edge is None or len(things) < 2:
        return None
    across = edge in ("left", "right")
    side = scene.width if across else scene.height
    ranked = sorted(things, key=lambda t: t.x if across else t.y, reverse=edge in ("right", "bottom"))
    first, second = ((t.x if across else t.y) for t in ranked[:2])
    return ranked[0] if abs(first - second) >= MARGIN * side else None


def pluralise(noun: str) -> str:
    """The plural of an English noun of this module."""
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def with_article(phrase: str) -> str:
    """An English noun phrase with a or an."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def unique(
    scene: Scene, thing: Thing, rng: random.Random, without: tuple[str, ...] = ()
) -> Description | None:
    """A description that fits only this thing, silent about some attributes; None if there is none."""
    allowed = [name for name in ("size", "colour", "shape") if name not in without]
    found: list[Description] = []
    weights: list[float] = []
    for count in range(len(allowed) + 1):
        for attributes in combinations(allowed, count):
            description = Description.of(thing, attributes)
            if description.select(scene) == [thing]:
                found.append(description)
                weights.append(
                    {(): 1, ("colour", "shape"): 5, ("shape",): 4, ("colour",): 3}.get(attributes, 0.6)
                )
            elif "size" not in attributes:
                for edge in EDGES_EN:
                    outer = Description(description.size, description.colour, description.shape, edge)
                    if outer.select(scene) == [thing]:
                        found.append(outer)
                        weights.append(0.35)
    return rng.choices(found, weights)[0] if found else None
