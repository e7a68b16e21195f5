"""What the published sizes hold, as docs/models/sizes.md tells it; written by make_reference.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TOP = """# Sizes

Counted from the names and shapes of each release's tensors, which `tests/parity` holds against the published
files; the tower is counted in. The bytes are those of the weights alone: keys, values and what a request
needs come on top. What a machine really takes and how fast it is must be measured there.

In 8 and 4 bits are the linear layers of the language model, as `--quantize` stores them on a CPU; tower,
projector, embeddings and head stay in 16 bits, which is why the numbers fall by less than a half and a
quarter. A scale and a zero go with each row of 8 bits, and with each 32 weights of 4: 0.625 bytes a weight.
On a GPU 4 bits are nf4 with its scales in 8 bits, 0.52 bytes a weight.

| size | numbers | float32 | bfloat16, float16 | 8 bits | 4 bits | slots of a picture | context |
|---|--:|--:|--:|--:|--:|--:|--:|
"""
MIDDLE = """
## Geometry

As `beholder inspect` tells it: layers x width.

| size | tower | projector | language model |
|---|---|---|---|
"""
END = """
A checkpoint of any of these sizes, of random numbers, is made by `beholder models random NAME DIR`; so memory
and speed can be measured before anything is downloaded.
"""


def sizes_page() -> str:
    """Bytes of the weights in each number format, and the geometry; nothing here was measured."""
    from beholder.families import family
    from beholder.families.geometries import GEOMETRIES, geometry, published_config

    held: list[str] = []
    told: list[str] = []
    for name in GEOMETRIES:
        size = geometry(name)
        of = family(size.family)
        config = of.config_from_published(published_config(size), Path())
        model = weightless(of, config)
        count = sum(tensor.numel() for tensor in model.parameters())
        kept = [count * 4, count * 2, bytes_quantized(model, 8, 2), bytes_quantized(model, 4, 2)]
        slots = getattr(config, "slots_per_picture", None) or config.tile_slots
        context = config.get_text_config().max_position_embeddings
        gigabytes = " | ".join(f"{number / 1e9:.1f} GB" for number in kept)
        held.append(f"| `{name}` | {count / 1e9:.2f} G | {gigabytes} | {slots} | {context} |\n")
        parts = of.describe(config)
        shown = " | ".join(
            str(parts.get(part, "")) for part in ("vision_tower", "projector", "language_model")
        )
        told.append(f"| `{name}` | {shown} |\n")
    return "".join([TOP, *held, MIDDLE, *told, END])


def weightless(of: Any, config: Any) -> Any:
    """A model of a family with shapes and without memory for them."""
    import torch

    with torch.device("meta"):
        return of.model_class()(config)


def bytes_quantized(model: Any, bits: int, width: int) -> int:
    """What the parameters take on a CPU with the language model's linears in 8 or 4 bits.

    `width` is the bytes of a number of the rest, and of a scale. torchao keeps a scale and a byte for each
    row of 8 bits, and a scale and a zero of the same width for each group of 4.
    """
    from beholder.checkpoints.quantize import GROUP, quantized_parts

    linears = [model.get_submodule(name).weight for name in quantized_parts(model, bits)]
    dense = sum(tensor.numel() for tensor in model.parameters()) - sum(one.numel() for one in linears)
    if bits == 8:
        return dense * width + sum(one.numel() + one.shape[0] * (width + 1) for one in linears)
    return dense * width + sum(one.numel() // 2 + one.numel() // GROUP * 2 * width for one in linears)
