"""An explanation as one page of HTML: all of it is inside, and its own policy forbids it to load anything."""

from __future__ import annotations

import base64
import html
import io
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from beholder.explaining.explanation import Explanation

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_SIDE = 1024  # the original picture is shown no larger; the views are shown pixel for pixel
SMALL = 256 * 256  # an original of up to so many pixels is stored without loss

READING = (
    "A colour says how much of its attention the decoder paid to a place when it chose the token: the mean "
    "over heads and over the layers that are chosen. It says where the model read, not why it said so.",
    "The tower has let every patch see all others before, so what is read at a place may be of elsewhere.",
    "Much of the attention of any token may go to the very first position, whatever is asked; it is told "
    "apart.",
)


def render(told: Explanation, image_processor: Any) -> str:
    """The whole page. `image_processor` has the mean and spread by which pixels are counted back."""
    template = resources.files("beholder.explaining").joinpath("page.html").read_text(encoding="utf-8")
    data = json.dumps(_data(told, image_processor), ensure_ascii=False).replace("<", "\\u003c")
    rows = "".join(
        f"<tr><td>{html.escape(said.text)}</td><td>{said.probability:.4f}</td></tr>" for said in told.said
    )
    parts = {
        "{{TITLE}}": html.escape(f"{told.model}: {told.question}"),
        "{{ANSWER}}": html.escape(told.answer.text),
        "{{ROWS}}": rows,
        "{{DATA}}": data,
    }
    # In one pass, so that nothing in a question is taken for a place of the template.
    pieces = template.split("{{")
    out = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        out += [parts["{{" + name + "}}"], rest]
    return "".join(out)


def _data(told: Explanation, image_processor: Any) -> dict[str, Any]:
    """What the page's script draws."""
    tokens, numbers = len(told.said), range(len(told.pictures))
    is_slot = torch.zeros(told.prompt_length + tokens, dtype=torch.bool)
    for shown in told.pictures:
        is_slot[shown.start : shown.start + shown.slots] = True
    words = [place for place in range(told.prompt_length) if not is_slot[place]]
    strip = torch.stack([rows[:, words] for rows in told.attention])
    return {
        "model": told.model,
        "family": told.family,
        "question": told.question,
        "answer": told.answer.text,
        "finish": told.answer.finish_reason,
        "depths": told.depths,
        "notes": [*READING, *told.notes],
        "said": [
            {"text": said.text, "p": said.probability, "likeliest": said.likeliest} for said in told.said
        ],
        "prompt": _strip(told, words),
        "words": _packed(strip),
        "shares": [
            [_shares(told, depth, token) for token in range(tokens)] for depth in range(len(told.depths))
        ],
        "pictures": [_picture(told, number, image_processor) for number in numbers],
    }


def _strip(told: Explanation, words: Sequence[int]) -> list[dict[str, Any]]:
    """The prompt in order: words with their text, and pictures with their number of slots."""
    starts = {shown.start: number for number, shown in enumerate(told.pictures)}
    places = sorted([*words, *starts])
    return [
        {"picture": starts[place], "slots": told.pictures[starts[place]].slots}
        if place in starts
        else {"text": told.texts[place]}
        for place in places
    ]


def _shares(told: Explanation, depth: int, token: int) -> dict[str, Any]:
    """Where one token's attention went: pictures, the first position, the rest of the prompt, the answer."""
    row = told.attention[depth][token]
    pictures = [float(row[one.start : one.start + one.slots].sum()) for one in told.pictures]
    first = 0.0 if any(one.start == 0 for one in told.pictures) else float(row[0])
    prompt = float(row[: told.prompt_length].sum()) - first - sum(pictures)
    return {
        "pictures": pictures,
        "first": first,
        "prompt": prompt,
        "answer": float(row[told.prompt_length :].sum()),
    }


def _picture(told: Explanation, number: int, image_processor: Any) -> dict[str, Any]:
    shown = told.pictures[number]
    heats = [
        torch.cat([part.flatten() for part in told.heat(depth, token, number)])
        for depth in range(len(told.depths))
        for token in range(len(told.said))
    ]
    heat = torch.stack(heats).unflatten(0, (len(told.depths), len(told.said)))
    painted, small = seen(shown.pixels, image_processor), _smaller(shown.picture)
    return {
        "width": shown.picture.width,
        "height": shown.picture.height,
        "src": _url(small, is_exact=small.width * small.height <= SMALL),
        "views": [
            {
                "name": view.name,
                "rows": view.rows,
                "columns": view.columns,
                "frame": [view.frame.left, view.frame.top, view.frame.width, view.frame.height],
                "src": _url(image, is_exact=True),
            }
            for view, image in zip(shown.places.views, painted, strict=True)
        ],
        "heat": _packed(heat),
    }


def _packed(values: Tensor) -> dict[str, Any]:
    """(depths, tokens, n) numbers as bytes of the largest one of each row, which is told beside."""
    most = values.amax(-1) if values.shape[-1] else values.new_zeros(values.shape[:-1])
    bytes_ = (values / most.clamp_min(1e-12).unsqueeze(-1) * 255).round().to(torch.uint8)
    packed = base64.b64encode(bytes_.contiguous().numpy().tobytes()).decode("ascii")
    return {"count": values.shape[-1], "most": most.tolist(), "bytes": packed}


def seen(pixels: Tensor, image_processor: Any) -> list[Image.Image]:
    """(views, 3, height, width) normalised pixels as pictures: what was really computed with."""
    mean = np.asarray(image_processor.image_mean).reshape(3, 1, 1)
    spread = np.asarray(image_processor.image_std).reshape(3, 1, 1)
    values = pixels.float().cpu().numpy() * spread + mean
    bytes_ = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return [Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0))) for view in bytes_]


def _smaller(picture: Image.Image) -> Image.Image:
    copy = picture.convert("RGB")
    copy.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return copy


def _url(picture: Image.Image, *, is_exact: bool) -> str:
    """A picture as a data URL, with a photograph's loss where it need not be exact."""
    held = io.BytesIO()
    kind = "png" if is_exact else "jpeg"
    picture.save(held, kind.upper(), **({} if is_exact else {"quality": 90}))
    return f"data:image/{kind};base64," + base64.b64encode(held.getvalue()).decode("ascii")
