"""The parts of a model's trunk that the native step is packed from, wherever the model keeps them.

A decoder of Llama's classes is read here; one of another class says its parts itself in `trunk_parts(head)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from beholder.core.errors import ConfigError
from beholder.core.narrow_linear import NarrowLinear

# Positions (rows,) to cosines and sines (rows, head width / 2).
Rotary = Callable[[Tensor], tuple[Tensor, Tensor]]
# Classes whose forward is what the native step computes.
DECODERS = ("LlamaModel", "MistralModel")
FIXED_ROTARY = ("default", "linear", "llama3", "yarn")
LINEARS = ("query", "key", "value", "out", "gate", "up", "down")
NORMS = ("first_norm", "second_norm")


@dataclass(frozen=True)
class LayerParts:
    """The modules of one layer."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    gate: nn.Module
    up: nn.Module
    down: nn.Module
    first_norm: nn.Module
    second_norm: nn.Module


@dataclass(frozen=True)
class TrunkParts:
    """A whole trunk. Norms are RMS norms with a `weight`; the MLP is down(silu(gate) * up)."""

    embedding: nn.Module
    layers: tuple[LayerParts, ...]
    last_norm: nn.Module
    head: nn.Module
    heads: int
    key_heads: int
    head_width: int
    epsilon: float
    rotary: Rotary

    @property
    def hidden(self) -> int:
        """Width of the stream between the layers."""
        return shape_of(self.head, "the head")[1]

    @property
    def inner(self) -> int:
        """Width inside the MLP."""
        return shape_of(self.layers[0].gate, "gate")[0]

    @property
    def vocabulary(self) -> int:
        """Rows of the head."""
        return shape_of(self.head, "the head")[0]

    def check(self) -> None:
        """ConfigError where a part is not what the native step computes."""
        mixed, stored = self.heads * self.head_width, self.key_heads * self.head_width
        if self.heads % self.key_heads or self.head_width % 2:
            raise ConfigError(
                f"{self.heads} heads of width {self.head_width} over {self.key_heads} key heads cannot be "
                "decoded natively: heads must be a multiple of key heads, and their width even"
            )
        H, F = self.hidden, self.inner
        shapes = ((mixed, H), (stored, H), (stored, H), (H, mixed), (F, H), (F, H), (H, F))
        wanted = dict(zip(LINEARS, shapes, strict=True))
        for number, layer in enumerate(self.layers):
            for name, shape in wanted.items():
                have = shape_of(getattr(layer, name), f"{name} of layer {number}")
                if have != shape:
                    raise ConfigError(
                        f"{name} of layer {number} is {have}; by its sizes the trunk needs {shape}"
                    )
            check_norm(layer.first_norm, self.epsilon)
            check_norm(layer.second_norm, self.epsilon)
        check_norm(self.last_norm, self.epsilon)


def parts_of(model: Any) -> TrunkParts:
    """The trunk of a language or image-text model; ConfigError where it is not of a known kind."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if decoder is None or head is None:
        raise ConfigError(f"{type(model).__name__} does not say which is its decoder and which its head")
    parts = decoder.trunk_parts(head) if hasattr(decoder, "trunk_parts") else _llama_parts(decoder, head)
    parts.check()
    return parts


def known_layers(model: Any) -> Sequence[Any]:
    """The layers of a model's decoder, none where that is not of a class whose forward is known."""
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None
    return decoder.layers if type(decoder).__name__ in DECODERS else ()


def linears_of(parts: TrunkParts) -> list[nn.Module]:
    """All layers whose weights are packed, the head last."""
    return [*(getattr(layer, name) for layer in parts.layers for name in LINEARS), parts.head]


def _llama_parts(decoder: Any, head: nn.Module) -> TrunkParts:
    config = decoder.config
    if type(decoder).__name__ not in DECODERS:
        raise ConfigError(
            f"native decode knows {' and '.join(DECODERS)}, and the decoder is a {type(decoder).__name__}; "
            "decode with PyTorch"
        )
    if config.hidden_act not in ("silu", "swish") or getattr(config, "sliding_window", None):
        raise ConfigError(
            f"native decode computes silu over full attention, and the decoder has {config.hidden_act} and a "
            f"sliding window of {getattr(config, 'sliding_window', None)}; decode with PyTorch"
        )
    layers = tuple(
        LayerParts(
            query=layer.self_attn.q_proj,
            key=layer.self_attn.k_proj,
            value=layer.self_attn.v_proj,
            out=layer.self_attn.o_proj,
            gate=layer.mlp.gate_proj,
            up=layer.mlp.up_proj,
            down=layer.mlp.down_proj,
            first_norm=layer.input_layernorm,
            second_norm=layer.post_attention_layernorm,
        )
        for layer in decoder.layers
    )
    return TrunkParts(
        embedding=decoder.embed_tokens,
        layers=layers,
        last_norm=decoder.norm,
        head=head,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_width=layers_width(config),
        epsilon=config.rms_norm_eps,
        rotary=_rotary_of(decoder),
    )


def layers_width(config: Any) -> int:
    """Width of one head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rotary_of(decoder: Any) -> Rotary:
    """The decoder's own tables, so whatever scaling it has is in them; they must not follow the length."""
    rotary = decoder.rotary_emb
    if rotary.rope_type not in FIXED_ROTARY:
        raise ConfigError(
            f"rotary positions of type {rotary.rope_type!r} change with the length of the text; native "
            f"decode takes {', '.join(FIXED_ROTARY)}"
        )

    def tables(positions: Tensor) -> tuple[Tensor, Tensor]:
        cosines, sines = rotary(decoder.embed_tokens.weight[:1], positions[None])
        half = cosines.shape[-1] // 2
        return cosines[0, :, :half], sines[0, :, :half]

    return tables


def shape_of(module: nn.Module, name: str) -> tuple[int, int]:
    """Rows and columns of a linear on the CPU, dense or narrow; ConfigError for what is neither."""
    if type(module) is NarrowLinear:
        if module.keeper is None and module.codes.device.type != "cpu":
            raise ConfigError(f"{name} is on {module.codes.device}; native decode runs on the CPU")
        return module.shape
    rows, columns = weight_of(module, name).shape
    return rows, columns


def weight_of(module: nn.Module, name: str) -> Tensor:
    """The dense weight of a linear on the CPU; ConfigError for adapters, quantised and other modules."""
    weight = getattr(module, "weight", None)
    if type(module) is not nn.Linear or type(weight) is not nn.Parameter or not weight.is_floating_point():
        raise ConfigError(
            f"{name} is a {type(module).__name__} of {type(weight).__name__}, and native decode packs dense "
            "linears; merge adapters first, and load without quantize"
        )
    if weight.device.type != "cpu":
        raise ConfigError(f"{name} is on {weight.device}; native decode runs on the CPU")
    return weight


def check_norm(norm: nn.Module, epsilon: float) -> None:
    """ConfigError unless the module is x / rms(x) * weight with this epsilon."""
    weight = cast("Tensor", norm.weight)
    with torch.no_grad():
        x = torch.linspace(-2.0, 3.0, weight.numel(), dtype=torch.float32)
        x = x.to(weight.dtype)
        wanted = x.float() * torch.rsqrt(x.float().pow(2).mean() + epsilon) * weight.float()
        got = norm(x).float()
    room = 1e-5 if weight.dtype == torch.float32 else 0.02
    if not bool(((got - wanted).abs() <= room * (1 + wanted.abs())).all()):
        raise ConfigError(f"{type(norm).__name__} is no RMS norm with epsilon {epsilon}; decode with PyTorch")
