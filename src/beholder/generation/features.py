"""From pictures to the rows that stand for them in a prompt, remembered by the pictures' pixels."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
    """Makes a prompt's embeddings, with its pictures in place."""

    def __init__(self, model: Any, cache: FeatureCache) -> None:
        self.model = model
        self.cache = cache
        self.pictures_run = 0
        self.seconds = 0.0

    def embed(self, prompt: Prompt, start: int) -> Tensor:
        """(1, length, width) of the whole prompt. Pictures that end before `start` are left out: their keys
        and values are stored, nothing reads them."""
        needed = [picture for picture in prompt.pictures if picture.last >= start]
        device = self.model.device
        ids = torch.tensor([prompt.ids[: prompt.length]], device=device)
        for picture in prompt.pictures:
            ids[0, picture.slots.to(device)] = 0  # the placeholder's id may lie outside the vocabulary
        embeddings: Tensor = self.model.get_input_embeddings()(ids)
        for picture, features in zip(needed, self._features(needed), strict=True):
            place_features(embeddings, picture, features)
        return embeddings

    def _features(self, pictures: Sequence[Picture]) -> list[Tensor]:
        found = [self.cache.get(picture.digest) for picture in pictures]
        # The same picture shown twice is looked at once.
        missing: dict[Any, Picture] = {}
        for number, (picture, features) in enumerate(zip(pictures, found, strict=True)):
            if features is None:
                missing.setdefault(picture.digest or number, picture)
        if not missing:
            return [features for features in found if features is not None]
        seen = dict(zip(missing, self._see(list(missing.values())), strict=True))
        for key, picture in missing.items():
            self.cache.put(picture.digest, seen[key])
        return [
            seen[picture.digest or number] if features is None else features
            for number, (picture, features) in enumerate(zip(pictures, found, strict=True))
        ]

    def _see(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Run the tower once over several pictures: (slots, width) of each."""
        start = time.perf_counter()
        names = pictures[0].inputs
        inputs = {name: self._joined([picture.inputs[name] for picture in pictures]) for name in names}
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
