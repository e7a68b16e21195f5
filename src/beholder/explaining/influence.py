"""How far a slot of the C-Abstractor really reaches, measured on the picture at hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from beholder.explaining.places import pooled


def sentences(model: Any, pixels: Tensor, weights_N: Tensor) -> tuple[str, ...]:
    """For the slot of each branch that got most attention: how much of it comes from where it is drawn.

    `pixels` are the five views of one picture, `weights_N` its slots' attention. Of a model without such
    branches, or with other plans of views, nothing is told.
    """
    if getattr(model.config, "views", None) != "corners":
        return ()
    inner = model.model
    with torch.no_grad():
        maps = inner.patch_maps(pixels[None].to(model.device, model.dtype))
    told: list[str] = []
    slots = model.config.projector_config.slots
    branches = (("corners", inner.corner_abstractor), ("whole picture", inner.whole_abstractor))
    for number, ((name, branch), patches) in enumerate(zip(branches, maps, strict=True)):
        queries = model.config.projector_config.queries
        slot = int(weights_N[number * slots : number * slots + queries].argmax())
        inside, near = shares(branch, patches, slot, queries)
        told.append(
            f"Measured on the most attended slot of the {name}: {inside:.0%} of its squared gradient is in "
            f"the patches where it is drawn, {near:.0%} in these and the two patches around."
        )
    return tuple(told)


def shares(branch: Any, patches: Tensor, slot: int, queries: int) -> tuple[float, float]:
    """Of a slot's squared gradient by (1, L, C) patches: the shares in its window, and two cells around."""
    energy = gradient_energy(branch, patches, slot)
    side = math.isqrt(len(energy))
    window = pooled(side, math.isqrt(queries))[slot].reshape(1, 1, side, side) > 0
    around = torch.nn.functional.max_pool2d(window.float(), 5, stride=1, padding=2).flatten() > 0
    total = energy.sum()
    return float(energy[window.flatten()].sum() / total), float(energy[around].sum() / total)


def gradient_energy(branch: Any, patches: Tensor, slot: int) -> Tensor:
    """(L,): the squared gradient, by each patch, of the slot's vector taken along itself."""
    with torch.enable_grad():
        given = patches.detach().to(branch.dtype).clone().requires_grad_()
        vector = branch(given)[0, slot].float()
        (gradient,) = torch.autograd.grad((vector * vector.detach()).sum(), given)
    return gradient[0].float().pow(2).sum(-1).cpu()
