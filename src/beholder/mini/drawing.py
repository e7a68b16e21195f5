"""Draws a scene: background, things, writings, then blur and noise. Knows nothing of questions or files."""

import math

from PIL import Image, ImageDraw, ImageFilter

from beholder.mini import backgrounds
from beholder.mini.fonts import FontBook
from beholder.mini.scenes import Plate, Scene, Thing, Writing
from beholder.mini.shapes import Contour


def draw_scene(scene: Scene, fonts: FontBook) -> Image.Image:
    """The scene as an RGB picture."""
    picture = backgrounds.paint(scene.background, scene.width, scene.height)
    for thing in scene.things:
        draw_thing(picture, thing, scene.finish.supersampling)
    for writing in scene.writings:
        draw_writing(picture, writing, fonts, scene.finish.supersampling)
    if scene.finish.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(scene.finish.blur))
    if scene.finish.noise:
        picture = backgrounds.add_noise(picture, scene.finish.noise, scene.finish.noise_seed)
    return picture


def draw_thing(picture: Image.Image, thing: Thing, supersampling: int) -> None:
    """Paint one thing, its shadow first and its outline last."""
    left, top = math.floor(thing.box[0]) - 2, math.floor(thing.box[1]) - 2
    size = math.ceil(thing.box[2]) + 2 - left, math.ceil(thing.box[3]) + 2 - top
    # Pixel centres lie half a pixel inside their edges.
    contours = tuple(
        tuple(
            ((thing.x + x - left) * supersampling - 0.5, (thing.y + y - top) * supersampling - 0.5)
            for x, y in contour
        )
        for contour in thing.contours
    )
    fill = fill_mask(contours, size, supersampling)
    if thing.shadow:
        draw_shadow(picture, fill, (left, top), thing.shadow * thing.extent)
    if thing.shading == "flat":
        picture.paste(thing.rgb, (left, top), fill)
    else:
        ramp = Image.linear_gradient("L") if thing.shading == "vertical" else Image.radial_gradient("L")
        shaded = Image.composite(
            Image.new("RGB", size, thing.shade), Image.new("RGB", size, thing.rgb), ramp.resize(size)
        )
        picture.paste(shaded, (left, top), fill)
    if thing.outline:
        line = line_mask(contours, size, thing.outline.width, supersampling)
        picture.paste(thing.outline.rgb, (left, top), line)


def fill_mask(contours: tuple[Contour, ...], size: tuple[int, int], supersampling: int) -> Image.Image:
    """A grey mask of the first contour without the others."""
    mask = Image.new("L", (size[0] * supersampling, size[1] * supersampling))
    pen = ImageDraw.Draw(mask)
    for place, contour in enumerate(contours):
        pen.polygon(contour, fill=0 if place else 255)
    return mask if supersampling == 1 else mask.reduce(supersampling)


def line_mask(
    contours: tuple[Contour, ...], size: tuple[int, int], width: float, supersampling: int
) -> Image.Image:
    """A grey mask of a line along every contour."""
    mask = Image.new("L", (size[0] * supersampling, size[1] * supersampling))
    pen = ImageDraw.Draw(mask)
    for contour in contours:
        # The second point once more, so that the first corner is joined like the others.
        pen.line(
            [*contour, *contour[:2]], fill=255, width=max(1, round(width * supersampling)), joint="curve"
        )
    return mask if supersampling == 1 else mask.reduce(supersampling)


def draw_shadow(picture: Image.Image, fill: Image.Image, corner: tuple[int, int], far: float) -> None:
    """A soft, half-dark copy of the thing, a little to the right and below."""
    edge = math.ceil(2 * far) + 1
    mask = Image.new("L", (fill.width + 2 * edge, fill.height + 2 * edge))
    mask.paste(fill.point([value * 2 // 5 for value in range(256)]), (edge, edge))
    mask = mask.filter(ImageFilter.GaussianBlur(max(0.5, far * 0.6)))
    picture.paste((0, 0, 0), (corner[0] - edge + round(far), corner[1] - edge + round(far)), mask)


def draw_writing(picture: Image.Image, writing: Writing, fonts: FontBook, supersampling: int) -> None:
    """Paint the plate, if there is one, and the letters."""
    ink = fonts.ink(writing.text, writing.font, writing.size, writing.rotation)
    if writing.plate:
        draw_plate(picture, writing, writing.plate, fonts, supersampling)
    picture.paste(writing.rgb, (int(writing.box[0]), int(writing.box[1])), ink)


def draw_plate(
    picture: Image.Image, writing: Writing, plate: Plate, fonts: FontBook, supersampling: int
) -> None:
    """Paint the sign behind the letters, turned like them."""
    straight = fonts.ink(writing.text, writing.font, writing.size)
    half_width, half_height = straight.width / 2 + plate.padding, straight.height / 2 + plate.padding
    turn = math.radians(-writing.rotation)
    cosine, sine = math.cos(turn), math.sin(turn)
    left, top = math.floor(plate.box[0]) - 4, math.floor(plate.box[1]) - 4
    size = math.ceil(plate.box[2]) + 4 - left, math.ceil(plate.box[3]) + 4 - top
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = tuple(
        (
            (writing.x + a * half_width * cosine - b * half_height * sine - left) * supersampling - 0.5,
            (writing.y + a * half_width * sine + b * half_height * cosine - top) * supersampling - 0.5,
        )
        for a, b in signs
    )
    picture.paste(plate.rgb, (left, top), fill_mask((corners,), size, supersampling))
    if plate.border:
        width = max(1.0, writing.size * 0.05)
        picture.paste(plate.border, (left, top), line_mask((corners,), size, width, supersampling))
