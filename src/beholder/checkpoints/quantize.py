"""Weights of the language model's linears in 8 or 4 bits, by torchao on the CPU and bitsandbytes on a GPU.

"int8" and "int4" are our own form of them, see `narrow.py`.

Everything outside the language model's blocks stays as it is: the tower, the projector, embeddings and head;
so do norms, which are no linears. `measure` says what the narrower numbers cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from beholder.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import torch

BITS = {"8bit": 8, "4bit": 4}
OWN = {"int8": 8, "int4": 4}
GROUP = 32  # weights that share a scale in 4 bits; a row that is no multiple of it stays dense
ROWS = 16  # the CPU's packed 4-bit form holds so many rows together; a matrix of other heights stays dense
EXTRA = "quant"


def check_name(quantize: str) -> int:
    """How many bits a name stands for."""
    if quantize not in BITS and quantize not in OWN:
        raise ConfigError(f"quantize is {quantize!r}; use {' or '.join(BITS)}, or our own {' or '.join(OWN)}")
    return (BITS | OWN)[quantize]


def dense_parts(model: Any) -> list[str]:
    """Names of the modules that stay dense: whatever lies beside the way to the language model's blocks.

    `model` may be on the meta device. ConfigError where its language model cannot be told.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    place = next((name for name, module in model.named_modules() if module is decoder), None)
    if not place or getattr(decoder, "layers", None) is None:
        raise ConfigError(
            f"{type(model).__name__} does not say where the layers of its language model are, so nothing "
            "of it can be quantised; load it without quantize"
        )
    dense: list[str] = []
    inside = ""
    for step in (*place.split("."), "layers"):
        owner = model.get_submodule(inside)
        dense += [f"{inside}.{name}".strip(".") for name, _ in owner.named_children() if name != step]
        inside = f"{inside}.{step}".strip(".")
    return dense


def quantized_parts(model: Any, bits: int = 8) -> list[str]:
    """Names of the linears that are quantised; in 4 bits only those of whole groups and packs of rows."""
    import torch

    group, rows = (GROUP, ROWS) if bits == BITS["4bit"] else (1, 1)
    dense = tuple(dense_parts(model))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module.in_features % group == 0
        and module.out_features % rows == 0
        and not any(name == part or name.startswith(f"{part}.") for part in dense)
    ]


def settings_for(quantize: str, model_class: Any, config: Any, device: torch.device) -> Any:
    """What transformers' `from_pretrained` takes as `quantization_config` for such a model."""
    import torch

    bits = check_name(quantize)
    if quantize in OWN:
        from beholder.checkpoints.narrow import Choice
        from beholder.checkpoints.narrow_quantizer import settings_of

        return settings_of(Choice(quantize))
    with torch.device("meta"):
        model = model_class(config)
    dense = dense_parts(model)
    if device.type == "cuda":
        from transformers import BitsAndBytesConfig

        _need("bitsandbytes", f"{quantize} on a GPU")
        if bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=dense)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=dense,
        )
    if device.type != "cpu":
        raise ConfigError(f"quantize works on a CPU or a CUDA GPU, and not on {device}")
    _need("torchao", f"{quantize} on the CPU")
    from transformers import TorchAoConfig

    dense += sorted(set(quantized_parts(model)) - set(quantized_parts(model, bits)))
    return TorchAoConfig(_torchao(bits), modules_to_not_convert=dense)


def _torchao(bits: int) -> Any:
    # torchao has neither stubs nor a py.typed.
    from torchao import quantization  # pyright: ignore[reportMissingTypeStubs]

    if bits == 8:
        return quantization.Int8WeightOnlyConfig(set_inductor_config=False)
    try:  # where the CPU's packed form is in torchao 0.16 and later; before, it was a format of the other one
        from torchao.prototype.quantization.int4 import (  # pyright: ignore[reportMissingTypeStubs]
            PrototypeInt4WeightOnlyConfig as Packed,
        )
    except ImportError:
        opaque = cast("Any", "opaque")  # the members of its enumeration are texts
        return quantization.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format=opaque)
    return Packed(group_size=GROUP, set_inductor_config=False)


def _need(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise MissingExtraError.of(what, EXTRA)


@dataclass(frozen=True)
class Cost:
    """What quantising changed over some prompts and the dense model's own answers to them.

    Divergences are of the next-token distributions, dense from quantised, in nats; `agreement` is the share
    of places where both would say the same; `bytes` are those of all parameters.
    """

    places: int
    mean_divergence: float
    worst_divergence: float
    agreement: float
    bytes_dense: int
    bytes_quantized: int

    def confirm(self, *, most_divergence: float, least_agreement: float) -> None:
        """ConfigError where the cost is higher."""
        if self.mean_divergence > most_divergence or self.agreement < least_agreement:
            raise ConfigError(
                f"quantising costs too much: divergence {self.mean_divergence:.4f} (at most "
                f"{most_divergence}), agreement {self.agreement:.3f} (at least {least_agreement}) "
                f"over {self.places} places"
            )


def measure(dense: Any, quantized: Any, prompts: Sequence[Mapping[str, Any]], *, length: int = 16) -> Cost:
    """Let the dense model answer each prompt greedily with `length` tokens, and score both on all of them."""
    import torch

    divergences: list[torch.Tensor] = []
    agreements: list[torch.Tensor] = []
    with torch.inference_mode():
        for prompt in prompts:
            inputs = dict(prompt)
            said = dense.generate(
                **inputs, max_new_tokens=length, min_new_tokens=length, max_length=None, do_sample=False
            )
            start = inputs["input_ids"].shape[1]
            longer = _continued(inputs, said[:, start:])
            ours, theirs = (
                torch.log_softmax(model(**longer).logits[0, start - 1 : -1].float(), dim=-1)
                for model in (dense, quantized)
            )
            # Rows that only fill up a vocabulary are minus infinity in both, and count for nothing.
            apart = torch.where(ours.isfinite(), ours.exp() * (ours - theirs), 0.0)
            divergences.append(apart.sum(-1))
            agreements.append(ours.argmax(-1) == theirs.argmax(-1))
    divergence, agreement = torch.cat(divergences), torch.cat(agreements)
    return Cost(
        places=len(divergence),
        mean_divergence=float(divergence.mean()),
        worst_divergence=float(divergence.max()),
        agreement=float(agreement.float().mean()),
        bytes_dense=parameter_bytes(dense),
        bytes_quantized=parameter_bytes(quantized),
    )


def _continued(inputs: Mapping[str, Any], said: torch.Tensor) -> dict[str, Any]:
    """The inputs of a prompt with its answer after it: what stands for tokens grows, the rest stays."""
    import torch

    ids = inputs["input_ids"]
    fill = {"input_ids": said, "attention_mask": torch.ones_like(said)}
    return {
        name: torch.cat([value, fill.get(name, torch.zeros_like(said)).to(value.dtype)], dim=1)
        if getattr(value, "shape", None) == ids.shape
        else value
        for name, value in inputs.items()
    }


def parameter_bytes(model: Any) -> int:
    """What the parameters take in memory, also where they are stored in parts."""
    return sum(_bytes(parameter.data) for parameter in model.parameters())


def _bytes(tensor: Any) -> int:
    if hasattr(tensor, "__tensor_flatten__") and type(tensor).__name__ != "Parameter":
        names, _ = tensor.__tensor_flatten__()
        return sum(_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()
