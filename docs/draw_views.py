"""Draws docs/pictures/sees-*.png: what each family's tower gets of examples/shapes.png.

    python docs/draw_views.py

Made by the families' own image processors; the pixels are counted back from what a model would be given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parent / "examples" / "shapes.png"
GAP = 8
SHOWN = 168  # pixels of a view's side on the page


def processors() -> dict[str, Any]:
    """Name of the drawing -> an image processor with the settings of a release."""
    from beholder.families.cogvlm.views import CogVLMImageProcessor
    from beholder.families.llava.views import LlavaImageProcessor
    from beholder.families.qh360vl.views import QH360VLImageProcessor

    return {
        "360vl": QH360VLImageProcessor(),
        "llava-pad": LlavaImageProcessor(aspect="pad"),
        "llava-square": LlavaImageProcessor(aspect=None),
        "llava-tiles": LlavaImageProcessor(
            aspect="anyres", grid_pinpoints=[[336, 672], [672, 336], [672, 672]]
        ),
        "cogvlm": CogVLMImageProcessor(),
    }


def sheet(processor: Any) -> Image.Image:
    """The views of the example side by side, in the order in which a model gets them."""
    from beholder.explaining.page import seen

    pixels = processor.preprocess(Image.open(PICTURE), return_tensors="pt")["pixel_values"]
    views = [view.resize((SHOWN, SHOWN)) for view in seen(pixels.reshape(-1, *pixels.shape[-3:]), processor)]
    width = len(views) * SHOWN + (len(views) - 1) * GAP
    drawn = Image.fromarray(np.full((SHOWN, width, 3), 255, np.uint8))
    for number, view in enumerate(views):
        drawn.paste(view, (number * (SHOWN + GAP), 0))
    return drawn


if __name__ == "__main__":
    for name, processor in processors().items():
        sheet(processor).save(HERE / "pictures" / f"sees-{name}.png", optimize=True)
