"""Draws docs/pictures/model-*.svg: how the four systems are put together, from picture to answer.

    python docs/draw_architectures.py

The numbers on them come from the released configurations in `beholder.families.geometries`.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT, GAP, MARGIN = 210, 58, 34, 12

Box = tuple[str, str]


def diagrams() -> dict[str, list[list[Box]]]:
    """Name of the drawing -> columns from left to right, each of boxes with a title and what is in it."""
    from beholder.families.geometries import geometry, published_config

    llava, intern = (published_config(geometry(name)) for name in ("llava-1.5-7b", "internvl-chat-7b"))
    big, cog = (published_config(geometry(name)) for name in ("360vl-8b", "cogvlm-chat"))
    text = "{num_hidden_layers} layers of {hidden_size}"
    eye = cog["vision_config"]
    return {
        "llava": [
            [("Picture", "padded to a square, 336 x 336")],
            [("CLIP ViT-L/14", "second to last layer, without class token")],
            [("Projector", f"2 linear layers, {llava['mm_hidden_size']} to {llava['hidden_size']}")],
            [("Prompt", "text, 576 slots, text"), ("Vicuna", text.format(**llava))],
            [("Answer", "one token after another")],
        ],
        "internvl-chat": [
            [("Picture", "padded to a square, 336 or 448")],
            [("InternViT-6B", "fourth to last layer, without class token")],
            [("Projector", f"2 linear layers, {intern['mm_hidden_size']} to {intern['hidden_size']}")],
            [("Prompt", "text, 576 or 1024 slots, text"), ("Vicuna", text.format(**intern))],
            [("Answer", "one token after another")],
        ],
        "360vl": [
            [("Four corners", "of the picture at 672 x 672"), ("The whole", "at 336 x 336")],
            [("CLIP ViT-L/14", "each of the five views alone")],
            [("C-Abstractor of the corners", "48 x 48 to 24 x 24"), ("C-Abstractor of the whole", "24 x 24")],
            [("Prompt", "text, 576 + 576 slots, text"), ("Llama 3", text.format(**big))],
            [("Answer", "one token after another")],
        ],
        "cogvlm": [
            [("Picture", f"stretched to {eye['image_size']} x {eye['image_size']}")],
            [("EVA2-CLIP-E", f"{eye['num_hidden_layers']} layers of {eye['hidden_size']}")],
            [("Gated adapter", "and two markers around the patches")],
            [("Text", "goes through the language experts"), ("Patches", "go through the vision experts")],
            [("Decoder", text.format(**cog)), ("One attention", "joins both in every layer")],
        ],
    }


def drawing(columns: list[list[Box]]) -> str:
    """Columns of boxes with an arrow between neighbours, as SVG that follows a page's light or dark."""
    rows = max(map(len, columns))
    height = rows * HEIGHT + (rows - 1) * GAP + 2 * MARGIN
    width = len(columns) * WIDTH + (len(columns) - 1) * GAP + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<style>rect{fill:#eef3fb;stroke:#3a7bd5}text{fill:#1b2330}path{stroke:#3a7bd5;fill:none}</style>",
    ]
    for number, boxes in enumerate(columns):
        left = MARGIN + number * (WIDTH + GAP)
        for title, detail, top in _placed(boxes, height):
            parts.append(f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>')
            parts.append(_text(left, top + 24, title, 15, bold=True) + _text(left, top + 44, detail, 11))
        if number:
            y, start = height // 2, left - GAP + 4
            parts.append(f'<path d="M{start} {y}h{GAP - 8}m-6 -5l6 5l-6 5" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>", ""])


def _placed(boxes: list[Box], height: int) -> list[tuple[str, str, int]]:
    taken = len(boxes) * HEIGHT + (len(boxes) - 1) * GAP
    first = (height - taken) // 2
    return [(title, detail, first + row * (HEIGHT + GAP)) for row, (title, detail) in enumerate(boxes)]


def _text(left: int, y: int, words: str, size: int, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    middle = left + WIDTH // 2
    return (
        f'<text x="{middle}" y="{y}" font-size="{size}" text-anchor="middle"{weight}>{escape(words)}</text>'
    )


if __name__ == "__main__":
    for name, columns in diagrams().items():
        (HERE / "pictures" / f"model-{name}.svg").write_text(drawing(columns), encoding="utf-8")
