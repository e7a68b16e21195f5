"""Folds an adapter into its base model, and proves it: the model answers after as it did before.

Before: the base model's own weights with the adapter beside them, applied as each layer runs. After: the new
folder, opened as any other. Both run in float32 on one picture with one question, one after the other, so
memory holds one model at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from beholder.checkpoints.assembled import Files
from beholder.checkpoints.loader import check, open_model, stored_dtype
from beholder.checkpoints.lora import Pair
from beholder.checkpoints.reader import Contents, has_weights
from beholder.checkpoints.splits import targets
from beholder.checkpoints.writer import Conversion, PublishedFamily, convert
from beholder.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

EXACT = 1e-4  # of the largest logit, where weights are float32
ROUNDINGS = 16  # so many roundings to the stored format, relative to the largest logit, where they are not


class AskedFamily(PublishedFamily, Protocol):
    """A family whose models can be asked something."""

    @property
    def processor_class(self) -> Callable[[], Any]:
        """What turns a question into tensors."""
        ...


@dataclass(frozen=True)
class Proof:
    """How far the logits of the merged model are from those of the unmerged one."""

    difference: float  # the largest of all logits
    largest: float  # logit, without its sign
    allowed: float
    positions: int
    same_choice: int  # positions at which both find the same token likeliest

    @property
    def holds(self) -> bool:
        """Whether the difference is no more than rounding."""
        return self.difference <= self.allowed

    def confirm(self) -> None:
        """CheckpointError where it is more."""
        if not self.holds:
            raise CheckpointError(
                f"the merged model does not answer as the adapter does: logits differ by "
                f"{self.difference:.3g} and may by {self.allowed:.3g}; nothing was written"
            )


def merge(
    folder: Path,
    target: Path,
    family: AskedFamily,
    question: Any,
    *,
    base: str | Path | None = None,
    to: str = "published",
) -> tuple[Conversion, Proof]:
    """Write the merged model to the new folder `target`; nothing is left there if the proof fails.

    `question` is a conversation that the family's processor can encode.
    """
    _, contents = check(folder, family, base=base)
    if contents.adapter is None and has_weights(folder):
        raise ConfigError(f"{folder} is a whole model; merge needs an adapter, or a projector with its base")
    done = convert(folder, target, family, to, base=base, allow_loss=True)
    try:
        proof = prove(folder, target, family, question, base=base)
        proof.confirm()
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return done, proof


def prove(
    folder: Path, merged: Path, family: AskedFamily, question: Any, *, base: str | Path | None = None
) -> Proof:
    """Compare the logits of the adapter beside its base with those of the merged folder."""
    import torch

    origin: dict[str, Any] = {} if base is None else {"base": base}
    inputs = family.processor_class().from_pretrained(folder, **origin).encode(question)
    before, stored = _before(folder, family, inputs, base)
    after = logits_of(open_model(merged, family, device="cpu", dtype=torch.float32), inputs)
    return compared(before, after, stored)


def compared(before: torch.Tensor, after: torch.Tensor, stored: torch.dtype) -> Proof:
    """(1, positions, rows) logits of both, from weights that are stored in that format."""
    import torch

    rows = min(before.shape[-1], after.shape[-1])
    before, after = before[..., :rows], after[..., :rows]
    # What is never generated has no finite logit.
    finite = before.isfinite() & after.isfinite()
    is_same_kind = bool((before.isfinite() == after.isfinite()).all())
    largest = before[finite].abs().max().item()
    share = EXACT if stored == torch.float32 else ROUNDINGS * torch.finfo(stored).eps
    return Proof(
        difference=(before - after)[finite].abs().max().item() if is_same_kind else float("inf"),
        largest=largest,
        allowed=share * max(largest, 1.0),
        positions=before.shape[1],
        same_choice=int((before.argmax(-1) == after.argmax(-1)).sum()),
    )


def _before(
    folder: Path, family: AskedFamily, inputs: Mapping[str, Any], base: str | Path | None
) -> tuple[torch.Tensor, torch.dtype]:
    """Logits of the base model with the adapter beside it, and the format that weights are stored in."""
    import torch

    wanted, contents = check(folder, family, base=base)
    model = open_model(folder, family, device="cpu", dtype=torch.float32, base=base)
    pairs = contents.adapter.pairs if contents.adapter is not None else {}
    files = Files(contents)
    with torch.no_grad():
        for name, pair in pairs.items():
            parameter = targets(wanted.names, name)[0]
            model.get_parameter(parameter).copy_(files.read(contents.tensors[name], name).float())
            _put_beside(model.get_submodule(parameter.removesuffix(".weight")), pair, files)
    return logits_of(model, inputs), _format(contents)


def _put_beside(module: Any, pair: Pair, files: Files) -> None:
    """Add B A x * scale to what the module gives."""
    down, up = (files.read(half, half.name).float() for half in (pair.down, pair.up))

    def add(_: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + (given[0] @ down.T @ up.T) * pair.scale

    module.register_forward_hook(add)


def logits_of(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Of all positions, without the dropout of a training."""
    import torch

    with torch.no_grad():
        return model.eval()(**inputs).logits


def _format(contents: Contents) -> torch.dtype:
    import torch

    stored = stored_dtype(contents)
    return torch.float32 if stored == torch.float64 else stored
