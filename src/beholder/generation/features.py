"""From pictures to the rows that stand for them in a prompt, remembered by the pictures' pixels."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from beholder.generation.packed import PackedWeights
from beholder.generation.prompt import Picture, Prompt, disagreement, place_features


class FeatureCache:
    """The features of the pictures seen last, at most `limit` bytes of them; 0 keeps none."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def get(self, digest: bytes | None) -> Tensor | None:
        """The features of a picture, None if they are not here."""
        found = None if digest is None else self._kept.get(digest)
        if found is None or digest is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(digest)
        return found

    def put(self, digest: bytes | None, features: Tensor) -> None:
        """Keep features; the least recently used go when they no longer fit together."""
        if digest is None or features.nbytes > self.limit or digest in self._kept:
            return
        # A copy: a slice would keep all pictures of its batch alive.
        self._kept[digest] = features.clone()
        self.bytes += features.nbytes
        while self.bytes > self.limit:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes

    def forget(self) -> None:
        """Drop everything."""
        self._kept.clear()
        self.bytes = 0


class Embedder:
    """Makes the embeddings of a piece of a prompt, with its pictures in place."""

    def __init__(self, model: Any, cache: FeatureCache, packed: PackedWeights) -> None:
        self.model = model
        self.cache = cache
        self.packed = packed
        self.pictures_run = 0
        self.seconds = 0.0

    def embed(self, prompt: Prompt, start: int, stop: int) -> Tensor:
        """(1, stop - start, width) of a piece that lies inside the prompt.

        Only the pictures that stand there are looked at, all at once: so a prompt of many pictures that is
        read in pieces keeps nobody waiting for more of them than a piece holds.
        """
        pictures = prompt.shown(start, stop)
        self._see_all(prompt, pictures)
        device = self.model.device
        ids = torch.tensor([prompt.ids[start:stop]], device=device)
        for picture in pictures:  # the placeholder's id may lie outside the vocabulary
            slots = picture.slots[(picture.slots >= start) & (picture.slots < stop)]
            ids[0, (slots - start).to(device)] = 0
        embeddings: Tensor = self.model.get_input_embeddings()(ids)
        for picture in pictures:
            place_features(embeddings, start, picture, prompt.features[picture.key])
        return embeddings

    def _see_all(self, prompt: Prompt, pictures: Sequence[Picture]) -> None:
        """Put the features of these pictures into `prompt.features`, from the cache or from the tower."""
        missing: dict[object, Picture] = {}
        for picture in pictures:
            if picture.key in prompt.features or picture.key in missing:
                continue  # seen in an earlier piece, or shown twice
            if (features := self.cache.get(picture.digest)) is None:
                missing[picture.key] = picture
            else:
                prompt.features[picture.key] = features
        if missing:
            for picture, features in zip(missing.values(), self._see(list(missing.values())), strict=True):
                self.cache.put(picture.digest, features)
                prompt.features[picture.key] = features

    def _see(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Run the tower once over several pictures: (slots, width) of each."""
        start = time.perf_counter()
        names = pictures[0].inputs
        inputs = {name: self._joined([picture.inputs[name] for picture in pictures]) for name in names}
        with self.packed.used("tower", pack=True):
            output = self.model.get_image_features(**inputs)
        features = _rows(getattr(output, "pooler_output", output))
        wanted = [len(picture.slots) for picture in pictures]
        if len(features) != sum(wanted):
            raise disagreement(sum(wanted), len(features))
        self.pictures_run += len(pictures)
        self.seconds += time.perf_counter() - start
        return list(features.split(wanted))

    def _joined(self, values: Sequence[Any]) -> Any:
        if len(values) == 1 and not isinstance(values[0], Tensor):
            return values[0]
        joined = torch.cat(list(values)) if len(values) > 1 else values[0]
        dtype = self.model.dtype if joined.is_floating_point() else joined.dtype
        return joined.to(device=self.model.device, dtype=dtype)


def _rows(features: Any) -> Tensor:
    """Features as (rows, width), whatever they came in."""
    if not isinstance(features, Tensor):
        features = torch.cat([one.flatten(0, -2) for one in features])
    return features.flatten(0, -2)
