"""The C-Abstractor: a picture's feature map in, a fixed number of language-model embeddings out.

Two stages of RegNet bottlenecks with a pooling between them, then a readout. The design is Honeybee's
(arXiv 2312.06742); the numbers are those of 360VL (qh360_vl/model/multimodal_projector, ad6a11c).
Shape letters: B maps, N patches, C tower width, D projector width, M queries, H language width, S map side.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from beholder.core.errors import InputError
from beholder.families.qh360vl.config import CAbstractorConfig

# The original asks timm for 1e-6 and gets the default of timm's fused norm-and-activation instead.
CHANNEL_NORM_EPSILON = 1e-5
PRENORM_EPSILON = 1e-6


def square_side(count: int, what: str) -> int:
    """The side of a square of `count` cells; an error that names `what` if it is not a square."""
    side = math.isqrt(count)
    if side * side != count:
        raise InputError(f"{what} must be a square number and is {count}")
    return side


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel of a (B, D, S, S) map."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """A convolution without bias and the norm behind it."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.norm = ChannelLayerNorm(outputs, eps=CHANNEL_NORM_EPSILON)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.conv(features))


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from the mean of the map."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        gate = self.squeeze(features.mean((2, 3), keepdim=True))
        return features * self.expand(functional.silu(gate)).sigmoid()


class Bottleneck(nn.Module):
    """One RegNet block: narrow, mix each channel's neighbours, gate, widen, add the shortcut."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.enter = ConvNorm(inputs, width)
        self.mix = ConvNorm(width, width, kernel=3, groups=width)
        # A quarter of the block's input width, not of its own; round() goes half to even as in timm.
        self.gate = SqueezeExcite(width, round(inputs / 4))
        self.leave = ConvNorm(width, width)
        self.shortcut = ConvNorm(inputs, width) if inputs != width else None

    def forward(self, features: Tensor) -> Tensor:
        residual = features if self.shortcut is None else self.shortcut(features)
        features = functional.silu(self.enter(features))
        features = functional.silu(self.mix(features))
        return functional.silu(self.leave(self.gate(features)) + residual)


def stage(inputs: int, width: int, depth: int) -> Any:
    """`depth` bottlenecks of which the first changes the width."""
    widths = [inputs] + [width] * (depth - 1)
    return nn.Sequential(
        OrderedDict((f"block{n}", Bottleneck(w, width)) for n, w in enumerate(widths, start=1))
    )


def readout(width: int, outputs: int, depth: int) -> nn.Sequential:
    """The multi-layer perceptron from projector width to language width."""
    layers: list[nn.Module] = [nn.Linear(width, outputs)]
    for _ in range(depth - 1):
        layers += [nn.SiLU(), nn.Linear(outputs, outputs)]
    return nn.Sequential(*layers)


class CAbstractor(nn.Module):
    """Reads a square map of tower features of any size and writes `config.slots` embeddings."""

    def __init__(self, config: CAbstractorConfig, output_size: int) -> None:
        super().__init__()
        self.query_side = square_side(config.queries, "the projector's number of queries")
        self.prenorm = (
            nn.LayerNorm(config.encoder_hidden_size, eps=PRENORM_EPSILON) if config.prenorm else None
        )
        # Row 0 belongs to the class token, which never comes here: it is stored and not used.
        shape = (1, config.positions, config.encoder_hidden_size)
        self.position_table = nn.Parameter(torch.zeros(shape)) if config.position_table else None
        self.stage1 = stage(config.encoder_hidden_size, config.hidden_size, config.depth)
        self.pool = nn.AdaptiveAvgPool2d(self.query_side)
        self.stage2 = stage(config.hidden_size, config.hidden_size, config.depth)
        self.readout = readout(config.hidden_size, output_size, config.readout_depth)
        eos = torch.zeros(1, config.eos_tokens, output_size)
        self.eos_tokens = nn.Parameter(eos) if config.eos_tokens else None
        self.initializer_range = config.initializer_range

    @property
    def dtype(self) -> torch.dtype:
        """The number format it computes in; told by a norm, as norms are never quantized."""
        return self.stage1.block1.enter.norm.weight.dtype

    def positions(self, side: int) -> Tensor:
        """The (1, side * side, C) position table, resized in float32 for a map of another size."""
        assert self.position_table is not None
        table = self.position_table[:, 1:]
        stored = square_side(table.shape[1], "the projector's number of positions without the class token")
        if side == stored:
            return table
        grid = table.float().unflatten(1, (stored, stored)).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
        return grid.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, N, C) row-major maps -> (B, M, H) embeddings, row-major too, then the eos rows if any."""
        side = square_side(patches.shape[1], "the number of patches that a projector reads")
        if self.prenorm is not None:
            patches = self.prenorm(patches)
        if self.position_table is not None:
            patches = patches + self.positions(side).to(patches.dtype)
        features = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        features = self.stage2(self.pool(self.stage1(features)))
        embeddings = self.readout(features.permute(0, 2, 3, 1).flatten(1, 2))
        if self.eos_tokens is None:
            return embeddings
        return torch.cat([embeddings, self.eos_tokens.expand(len(embeddings), -1, -1)], dim=1)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A fresh projector: tables from a truncated normal, everything else as the library starts it."""
        for table in (self.position_table, self.eos_tokens):
            if table is not None:
                nn.init.trunc_normal_(table, std=self.initializer_range)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm)):
                module.reset_parameters()
