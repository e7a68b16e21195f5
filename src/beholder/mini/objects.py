"""What lies where on a scene's picture, for the warm-up of a vision tower: things, and letters one by one."""

from beholder.mini.fonts import FontBook
from beholder.mini.worlds import Scene, Writing

# Letters whose small and capital forms differ in size alone cannot be told apart one by one.
SAME_IN_BOTH_CASES = frozenset("cosuvwxz")


def objects(scene: Scene, fonts: FontBook) -> list[dict[str, object]]:
    """Each thing with colour and each letter, with its box in fractions of the picture; back to front."""
    found: list[dict[str, object]] = []
    for thing in scene.things:
        found.append({"what": thing.shape, "colour": thing.colour, "box": fractions(thing.box, scene)})
    for writing in scene.writings:
        found += letters(writing, scene, fonts)
    return found


def letters(writing: Writing, scene: Scene, fonts: FontBook) -> list[dict[str, object]]:
    """The letters of a writing; a turned writing's letters are cut as if it stood upright."""
    face = fonts.face(writing.font, writing.size)
    ends = [face.getlength(writing.text[:count]) for count in range(len(writing.text) + 1)]
    left, top, right, bottom = writing.box
    scale = (right - left) / ends[-1]
    found: list[dict[str, object]] = []
    for letter, start, end in zip(writing.text, ends, ends[1:], strict=False):
        name = letter.upper() if letter in SAME_IN_BOTH_CASES else letter
        box = (left + start * scale, top, left + end * scale, bottom)
        found.append({"what": f"letter {name}", "box": fractions(box, scene)})
    return found


def fractions(box: tuple[float, float, float, float], scene: Scene) -> list[float]:
    """Pixels as shares of the picture's width and height, three digits."""
    sides = (scene.width, scene.height, scene.width, scene.height)
    return [round(min(max(edge / side, 0.0), 1.0), 3) for edge, side in zip(box, sides, strict=True)]
