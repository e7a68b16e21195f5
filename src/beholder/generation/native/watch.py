"""Whether a model still computes with what its trunk was packed from, and with nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as modules

from beholder.core.narrow_linear import NarrowLinear
from beholder.generation.native.parts import LINEARS, NORMS, TrunkParts

# Where a model keeps a module: the children of the one above, the name among them, and what stood there.
Place = tuple[dict[str, Any], str, Any]
SAMPLES = 5  # numbers of a weight that are compared


class Watch:
    """Looks at the modules that the packed weights came from and at all that stand above them.

    What it notices: a module in another's place (an adapter), hooks, another `forward`, weights exchanged or
    changed in place. Of changes that go around PyTorch's count of them (through `.data`, which is how
    adapters are merged), those that leave all of a few numbers of each weight as they were go unnoticed.
    """

    def __init__(self, model: Any, parts: TrunkParts) -> None:
        self._parts = parts
        self._places = _places(model, parts)
        self._modules = [model, *(module for _, _, module in self._places)]
        self._states = _states(parts)
        self._views = [
            weight.detach().view(-1)[:: max(1, weight.numel() // SAMPLES)]
            for weight in _weights(parts)
            if weight.is_contiguous()
        ]
        self._samples = self._sampled()

    def is_listened_to(self) -> bool:
        """Somebody waits for modules to be called, or has put another forward into one."""
        return are_listened_to(self._modules)

    def changed(self) -> str:
        """What is not as it was packed; empty where everything is."""
        if not all(children.get(name) is module for children, name, module in self._places):
            return "modules were exchanged"
        if self._states != _states(self._parts):
            return "weights were changed"
        if not torch.equal(self._samples, self._sampled()):
            return "weights were changed in place"
        return ""

    @torch.no_grad()
    def _sampled(self) -> Tensor:
        return torch.cat(self._views).view(torch.uint8)  # bytes: also of what is no number


def is_listened_to(model: Any, parts: TrunkParts) -> bool:
    """As `Watch.is_listened_to`, before there is one: no weight is read, which may still lie on disk."""
    return are_listened_to([model, *(module for _, _, module in _places(model, parts))])


def are_listened_to(listened: Sequence[Any]) -> bool:
    """Whether somebody waits for one of these modules to be called, or has put another forward into it."""
    return any(map(_is_watched, listened)) or bool(
        modules._global_forward_hooks or modules._global_forward_pre_hooks
    )


def _parts_modules(parts: TrunkParts) -> list[Any]:
    inside = [getattr(layer, name) for layer in parts.layers for name in (*LINEARS, *NORMS)]
    return [*inside, parts.last_norm, parts.head, parts.embedding]


def _weights(parts: TrunkParts) -> Iterator[Tensor]:
    """All but codes and scales: those may have been lent, and are then nowhere to be changed."""
    for module in _parts_modules(parts):
        names = ("bias",) if isinstance(module, NarrowLinear) else module._parameters
        for name in names:
            if (weight := module._parameters[name]) is not None:
                yield weight


def _states(parts: TrunkParts) -> list[tuple[int, int]]:
    """Of every weight where it is, and how often it was changed."""
    narrow = [module for module in _parts_modules(parts) if isinstance(module, NarrowLinear)]
    return [*map(_state, _weights(parts)), *((0, module.changes) for module in narrow)]


def _state(weight: Tensor) -> tuple[int, int]:
    """Where the numbers are and how often they were changed there, as far as PyTorch counts it."""
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version


def _is_watched(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _places(model: Any, parts: TrunkParts) -> list[Place]:
    """Where the model keeps the parts and what is above them: an adapter puts another module there."""
    names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
    wanted: set[str] = set()
    for module in _parts_modules(parts):
        steps = names.get(id(module), "").split(".")
        wanted |= {".".join(steps[:count]) for count in range(1, len(steps) + 1)}
    found: list[Place] = []
    for name in sorted(wanted - {""}):
        above, _, last = name.rpartition(".")
        children = model.get_submodule(above)._modules
        found.append((children, last, children[last]))
    return found
