"""The four models at their start: what is compared differs between them, everything else is the same.

The same: tokenizer, language model (number for number: all start from the same trained weights), geometry of
the tower (five layers of 192 over patches of 12 pixels; only the larger tower is larger), template-free short
questions. What differs is each system's idea: how a picture reaches the language model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

from beholder.checkpoints.new_folder import new_folder
from beholder.laboratory.lettering import SLOT, write_tokenizer
from beholder.training.blank import quicken, soften

SIDE, PATCH = 96, 12
GRID = SIDE // PATCH
CONTEXT = 512
LANGUAGE_MODEL = "model.language_model."
TOWER = "model.vision_tower."


@dataclass(frozen=True)
class Sizes:
    """Widths and depths: of the tower that three share, of the larger one, and of the language model."""

    tower: int = 192
    tower_layers: int = 5
    large_tower: int = 288
    large_layers: int = 8
    width: int = 256
    inner: int = 704
    layers: int = 4
    heads: int = 4
    queries: int = 64


@dataclass(frozen=True)
class Subject:
    """One of the four: its name in records, what is peculiar to it, the parts that a first stage trains.

    Subjects with the same `tower` can have one another's tower's weights.
    """

    name: str
    title: str
    idea: str
    tower: str
    projector: tuple[str, ...]
    build: Callable[[Sizes, int, int], nn.Module]  # sizes, rows of the vocabulary, id of a picture's slot


def tower_of(sizes: Sizes) -> dict[str, Any]:
    """The tower that LLaVA's and 360VL's subjects share, as CLIP's configuration."""
    return {
        "model_type": "clip_vision_model", "hidden_size": sizes.tower, "intermediate_size": 3 * sizes.tower,
        "num_hidden_layers": sizes.tower_layers, "num_attention_heads": max(1, sizes.tower // 64),
        "image_size": SIDE, "patch_size": PATCH,
    }  # fmt: skip


def language_of(sizes: Sizes, rows: int) -> dict[str, Any]:
    """The language model that all share, in the words of Llama's configuration."""
    return {
        "vocab_size": rows, "hidden_size": sizes.width, "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.heads, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
    }  # fmt: skip


def _llava_like(tower: dict[str, Any], sizes: Sizes, rows: int, slot: int) -> nn.Module:
    from beholder.families.llava.config import BeholderLlavaConfig
    from beholder.families.llava.modeling import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(
        BeholderLlavaConfig(
            vision_config=tower,
            text_config={"model_type": "llama", **language_of(sizes, rows)},
            image_token_index=slot,
            published_vocab_size=rows,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            image_aspect_ratio="pad",
            template="mistral_instruct",  # the shortest: no system message
        )
    )


def llava(sizes: Sizes, rows: int, slot: int) -> nn.Module:
    """Two linear layers between CLIP's patches and the language model."""
    return _llava_like(tower_of(sizes), sizes, rows, slot)


def internvl(sizes: Sizes, rows: int, slot: int) -> nn.Module:
    """The same behind a wider and deeper tower of InternViT's kind."""
    tower = {
        "model_type": "internvl_vision", "hidden_size": sizes.large_tower,
        "intermediate_size": 3 * sizes.large_tower, "num_hidden_layers": sizes.large_layers,
        "num_attention_heads": max(1, sizes.large_tower // 48),
        "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH],
        "use_qk_norm": True, "norm_type": "rms_norm", "attention_bias": False, "use_mean_pooling": False,
        "layer_norm_eps": 1e-6,
    }  # fmt: skip
    return _llava_like(tower, sizes, rows, slot)


def qh360vl(sizes: Sizes, rows: int, slot: int) -> nn.Module:
    """Five views through the tower; one C-Abstractor for the stitched corners, one for the whole."""
    from beholder.families.qh360vl.config import QH360VLConfig
    from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration

    tower = tower_of(sizes)
    del tower["model_type"]
    return QH360VLForConditionalGeneration(
        QH360VLConfig(
            vision_config=tower,
            projector_config={
                "encoder_hidden_size": sizes.tower, "hidden_size": sizes.tower, "depth": 2,
                "readout_depth": 2, "queries": sizes.queries, "positions": GRID * GRID + 1,
            },
            text_config=language_of(sizes, rows),
            image_token_id=slot,
            vision_feature_layer=-1,
            image_aspect_ratio="square",
        )
    )  # fmt: skip


def cogvlm(sizes: Sizes, rows: int, slot: int) -> nn.Module:
    """A gated adapter, and in each layer of the language model a second set of weights for patches.

    Its tower has CLIP's geometry but EVA2's order of norms: the family has no other.
    """
    from beholder.families.cogvlm.config import CogVLMConfig
    from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration

    tower, language = tower_of(sizes), language_of(sizes, rows)
    del tower["model_type"]
    for key in ("num_key_value_heads", "rope_parameters", "tie_word_embeddings"):
        del language[key]
    return CogVLMForConditionalGeneration(
        CogVLMConfig(vision_config=tower, text_config=language, template="vqa")
    )


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("mlp", "two-layer MLP (LLaVA-1.5)", "patches through two linear layers", "clip",
                ("model.multi_modal_projector",), llava),
        Subject("large-tower", "larger tower (InternVL-Chat)", "the same behind a wider, deeper tower",
                "intern-vit", ("model.multi_modal_projector",), internvl),
        Subject("abstractors", "global + local C-Abstractors (360VL)", "five views, two abstractors", "clip",
                ("model.corner_abstractor", "model.whole_abstractor"), qh360vl),
        Subject("experts", "visual experts (CogVLM)", "second weights for patches in every layer", "eva",
                ("model.multi_modal_projector", "model.language_model.layers.*.self_attn.vision_expert",
                 "model.language_model.layers.*.mlp.vision_expert"), cogvlm),
    )
}  # fmt: skip


def raw_language(sizes: Sizes, rows: int, seed: int) -> dict[str, torch.Tensor]:
    """The weights of language model and head before they have read anything, by Llama's names."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**language_of(sizes, rows)))
    quicken(model.model)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def read_language(folder: Path) -> dict[str, torch.Tensor]:
    """Those of a trained model of CogVLM's kind: its language experts', and what is there once."""
    found: dict[str, torch.Tensor] = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if name.startswith(LANGUAGE_MODEL) and "vision_expert" not in name:
            found["model." + name.removeprefix(LANGUAGE_MODEL).replace("language_expert.", "")] = value
        elif name.startswith("lm_head."):
            found[name] = value
    return found


@torch.no_grad()
def give_language(model: nn.Module, shared: dict[str, torch.Tensor]) -> None:
    """Put the shared weights into a subject; both experts of a layer get them, as CogVLM's authors began."""
    taken: set[str] = set()
    for name, parameter in model.named_parameters():
        if name.startswith(LANGUAGE_MODEL):
            plain = "model." + name.removeprefix(LANGUAGE_MODEL)
            plain = plain.replace("language_expert.", "").replace("vision_expert.", "")
        elif name.startswith("lm_head."):
            plain = name
        else:
            continue
        parameter.copy_(shared[plain])
        taken.add(plain)
    if missing := sorted(shared.keys() - taken):
        raise AssertionError(f"the subject has no place for {missing}")


@torch.no_grad()
def give_tower(model: nn.Module, shared: dict[str, torch.Tensor]) -> None:
    """Put a trained model's tower into a subject whose tower is of the same kind."""
    own = {name: value for name, value in model.state_dict().items() if name.startswith(TOWER)}
    given = {name: value for name, value in shared.items() if name.startswith(TOWER)}
    if not own or own.keys() != given.keys():
        raise AssertionError(f"the towers differ: {sorted(own.keys() ^ given.keys())[:3]}")
    for name, value in own.items():
        value.copy_(given[name])


@torch.no_grad()
def quieten(model: Any) -> None:
    """Slots about as loud as words, and matrices that keep the size of what they read."""
    if hasattr(model.model, "corner_abstractor"):
        soften(model)
        return
    for module in model.model.multi_modal_projector.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)


def write_subject(
    subject: Subject, folder: Path, texts: Path, seed: int, sizes: Sizes,
    language: dict[str, torch.Tensor] | None = None, tower: dict[str, torch.Tensor] | None = None,
) -> None:  # fmt: skip
    """A model with processor and tokenizer, untrained but for a `language` and a `tower` that it is given.

    `texts` are rows that the tokenizer learns from. The folder is there when all of it is.
    """
    with new_folder(folder) as partial:
        _write_subject(subject, partial, texts, seed, sizes, language, tower)


def _write_subject(
    subject: Subject, folder: Path, texts: Path, seed: int, sizes: Sizes,
    language: dict[str, torch.Tensor] | None, tower: dict[str, torch.Tensor] | None,
) -> None:  # fmt: skip
    from beholder.families import identify_folder

    write_tokenizer(texts, folder, subject.name)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    slot, rows = tokenizer.convert_tokens_to_ids(SLOT), len(tokenizer)
    shared = raw_language(sizes, rows, seed) if language is None else language
    torch.manual_seed(seed)
    model: Any = subject.build(sizes, rows, slot)
    quieten(model)
    give_language(model, shared)
    if tower is not None:
        give_tower(model, tower)
    model.save_pretrained(folder)
    # 360VL's own system message is longer than any question here; the others' templates have none.
    quiet: dict[str, Any] = {"system_prompt": ""} if subject.name == "abstractors" else {}
    identify_folder(folder).processor_class().from_pretrained(folder, **quiet).save_pretrained(folder)
