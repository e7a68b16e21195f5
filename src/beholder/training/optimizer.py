"""Parameter groups and the optimizers behind a recipe's `optimizer` key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from beholder.training.sections import begins
from beholder.training.stages import Recipe

# Rows of an embedding or of the output layer are looked up, not multiplied through: nothing for Muon.
NOT_FOR_MUON = ("embed", "embedding", "lm_head", "position", "pos_emb")


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon may orthogonalise this parameter's update: a weight matrix inside the network."""
    return parameter.ndim == 2 and not any(part in name for part in NOT_FOR_MUON)


def group_of(name: str, recipe: Recipe) -> str | None:
    """The longest prefix with a rate of its own that the name begins with; None if there is none."""
    matching = [prefix for prefix in recipe.learning_rates if begins(name, (prefix,))]
    return max(matching, key=len) if matching else None


def parameter_groups(
    model: nn.Module, recipe: Recipe, choose: Callable[[str, nn.Parameter], bool]
) -> list[dict[str, Any]]:
    """A group for each prefix with a rate of its own and one for the rest, each with and without decay;
    vectors (norms, biases) are never decayed.

    A model inside a reader (see `patches.py`) goes by its own names.
    """
    around = getattr(model, "around", "")
    groups: dict[tuple[str | None, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and choose(name, parameter):
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            group = group_of(name.removeprefix(around), recipe)
            groups.setdefault((group, decay), []).append(parameter)
    rates: dict[str | None, float] = {None: recipe.learning_rate, **recipe.learning_rates}
    return [
        {"params": params, "lr": rates[group], "weight_decay": decay}
        for (group, decay), params in groups.items()
    ]


class MuonAndAdamW(torch.optim.Optimizer):
    """torch's Muon for weight matrices and AdamW for the rest, stepped and saved as one optimizer.

    Keller Jordan et al., "Muon" (2024); update scaled to AdamW's (Moonshot, arXiv 2502.16982), so that one
    learning rate serves both. The parameter groups are the two optimizers' own, so schedulers reach them.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self.muon, self.adamw = muon, adamw
        super().__init__([parameter for group in self._both() for parameter in group["params"]], {})
        self.param_groups = self._both()

    def _both(self) -> list[dict[str, Any]]:
        return [*self.muon.param_groups, *self.adamw.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """Both states."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Both states; the groups are replaced by loading and shared again."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = self._both()


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer a recipe asks for, over the trainable parameters."""
    betas, epsilon = (recipe.beta1, recipe.beta2), recipe.epsilon
    if recipe.optimizer == "adamw":
        groups = parameter_groups(model, recipe, lambda *_: True)
        return torch.optim.AdamW(groups, betas=betas, eps=epsilon, fused=True)
    matrices = parameter_groups(model, recipe, is_matrix)
    others = parameter_groups(model, recipe, lambda name, parameter: not is_matrix(name, parameter))
    muon = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw")
    return MuonAndAdamW(muon, torch.optim.AdamW(others, betas=betas, eps=epsilon, fused=True))
