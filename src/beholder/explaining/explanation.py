"""An answer with what can be seen of how it came about: probabilities, and attention over the picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from beholder.core.errors import InputError
from beholder.core.types import Answer, Message
from beholder.explaining.influence import sentences
from beholder.explaining.places import Places, places
from beholder.explaining.watching import Watched, watch
from beholder.processing.messages import read_messages

if TYPE_CHECKING:
    from PIL.Image import Image

    from beholder.api import VLM

ALTERNATIVES = 5
DEPTHS = 4  # groups of layers that are told apart, beside all of them together


@dataclass(frozen=True)
class Said:
    """One token of the answer: its probability among all words, and the likeliest ones with theirs."""

    token: int
    text: str
    probability: float
    likeliest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Shown:
    """One picture of the conversation: its first position and number of slots, its places, its pixels."""

    picture: Image
    start: int
    slots: int
    places: Places
    pixels: Tensor  # (views, 3, height, width), as the tower got them


@dataclass(frozen=True)
class Explanation:
    """What `explain` found out.

    `attention` has, for each name in `depths`, (tokens of the answer, positions): the mean over the heads and
    layers of that group; a row sums to one. `texts` are the prompt's tokens, with those of the answer after.
    """

    model: str
    family: str
    question: str
    answer: Answer
    said: tuple[Said, ...]
    texts: tuple[str, ...]
    prompt_length: int
    pictures: tuple[Shown, ...]
    depths: tuple[str, ...]
    attention: tuple[Tensor, ...]
    notes: tuple[str, ...]

    def heat(self, depth: int, token: int, picture: int) -> list[Tensor]:
        """Of one picture the (rows, columns) of every view: attention that the token paid, place by place."""
        shown = self.pictures[picture]
        slots = self.attention[depth][token, shown.start : shown.start + shown.slots]
        cells = slots @ shown.places.spread_NL
        sizes = [view.cells for view in shown.places.views]
        return [
            part.reshape(view.rows, view.columns)
            for part, view in zip(cells.split(sizes), shown.places.views, strict=True)
        ]

    def share(self, token: int, picture: int) -> float:
        """How much of a token's attention, over all layers, went to a picture's slots."""
        shown = self.pictures[picture]
        return float(self.attention[0][token, shown.start : shown.start + shown.slots].sum())


def explain(vlm: VLM, messages: str | Iterable[Message | Mapping[str, Any]], **sampling: Any) -> Explanation:
    """Answer a conversation, then run prompt and answer once more and watch. `sampling` as in `Sampling`.

    InputError for models of which it is not known where their slots come from, and without a picture.
    """
    conversation = read_messages(messages)
    pictures = [picture for message in conversation for picture in message.pictures]
    if not pictures:
        raise InputError("there is no picture in the conversation, so nothing to look at")
    config, family = vlm.model.config, vlm.family.name
    laid = [places(family, config, vlm.processor, picture) for picture in pictures]
    inputs = vlm.processor.encode(conversation)
    answer = vlm.chat(conversation, **{**sampling, "logprobs": 0})
    said = [score.token for score in answer.scores]
    watched = watch(vlm.model, inputs, said)
    shown = _shown(pictures, laid, inputs, watched.slots)
    depths, attention = grouped(watched.attention_KAT)
    shown = [_measured(vlm.model, one, attention[0]) for one in shown] if family == "qh360vl" else shown
    prompt = inputs["input_ids"][0].tolist()
    return Explanation(
        model=vlm.name,
        family=vlm.family.title,
        question=conversation[-1].text,
        answer=answer,
        said=chosen(vlm.processor.tokenizer, said, watched),
        texts=tuple(token_texts(vlm.processor.tokenizer, [*prompt, *said])),
        prompt_length=len(prompt),
        pictures=tuple(shown),
        depths=depths,
        attention=attention,
        notes=tuple(dict.fromkeys(note for one in shown for note in one.places.notes)),
    )


def _shown(
    pictures: Sequence[Image], laid: Sequence[Places], inputs: Mapping[str, Any], slots: Tensor
) -> list[Shown]:
    """Each picture with its own slots and views. Its slots stand next to each other."""
    counts = [len(one.spread_NL) for one in laid]
    if sum(counts) != len(slots):
        raise InputError(
            f"the pictures have {sum(counts)} places and the prompt {len(slots)} picture positions"
        )
    starts = [int(some[0]) for some in slots.split(counts)]
    pixels = inputs["pixel_values"]
    found: list[Shown] = []
    for number, (picture, one) in enumerate(zip(pictures, laid, strict=True)):
        views = pixels[number].reshape(-1, *pixels.shape[-3:])[: len(one.views)]
        found.append(Shown(picture, starts[number], counts[number], one, views))
    return found


def _measured(model: Any, one: Shown, attention_AT: Tensor) -> Shown:
    weights = attention_AT[:, one.start : one.start + one.slots].sum(0)
    notes = (*one.places.notes, *sentences(model, one.pixels, weights))
    return replace(one, places=replace(one.places, notes=notes))


def grouped(attention_KAT: Tensor) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """Means over all layers, and over groups of neighbouring layers from the first to the last."""
    layers = len(attention_KAT)
    names, means = [f"all {layers} layers"], [attention_KAT.mean(0)]
    edges = (
        [layers * part // DEPTHS for part in range(DEPTHS + 1)] if layers >= DEPTHS else [*range(layers + 1)]
    )
    for start, end in pairwise(edges):
        names.append(f"layer {end}" if end - start == 1 else f"layers {start + 1} to {end}")
        means.append(attention_KAT[start:end].mean(0))
    return tuple(names), tuple(means)


def chosen(tokenizer: Any, said: Sequence[int], watched: Watched) -> tuple[Said, ...]:
    """Every token of the answer with the probability that the model gave it, before any sampling setting."""
    probabilities = watched.logits_AV.softmax(-1)
    best = probabilities.topk(min(ALTERNATIVES, probabilities.shape[-1]), dim=-1)
    told: list[Said] = []
    for row, token in enumerate(said):
        others = zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True)
        likeliest = tuple((token_texts(tokenizer, [other])[0], value) for other, value in others)
        text = token_texts(tokenizer, [token])[0]
        told.append(Said(token, text, float(probabilities[row, token]), likeliest))
    return tuple(told)


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token reads as, a word's leading blank included; of half a character the token's name."""
    texts: list[str] = []
    for name, token in zip(tokenizer.convert_ids_to_tokens(list(ids)), ids, strict=True):
        text = tokenizer.decode([token], skip_special_tokens=False)
        if name is None or not text or "\ufffd" in text:
            text = name or ""
        elif name.startswith("\u2581") and not text.startswith(" "):
            text = f" {text}"
        texts.append(text)
    return texts
