"""An untrained CogVLM at a size that two processor cores can train: the same classes, smaller numbers.

`python -m beholder.training.captcha.start OUT` writes seeded random weights with a tokenizer that spells
letter by letter, ready for the recipe `captcha/tower`. Tower, adapter and both experts have the published
structure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer

from beholder.families.cogvlm.config import CogVLMConfig
from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration
from beholder.families.cogvlm.processing import CogVLMProcessor
from beholder.families.cogvlm.views import CogVLMImageProcessor
from beholder.families.random_tokenizer import write_tokenizer

VOCABULARY = 354  # control tokens, bytes, and what can be printed: no words
CONTEXT = 512


def configuration(
    side: int = 128, patch: int = 16, width: int = 192, tower: int = 6, language: int = 3
) -> CogVLMConfig:
    """`tower` layers over patches of `patch` pixels, `language` layers with two experts each."""
    return CogVLMConfig(
        vision_config={
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": tower,
            "num_attention_heads": width // 48,
            "image_size": side,
            "patch_size": patch,
        },
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": width,
            "intermediate_size": 8 * width // 3,
            "num_hidden_layers": language,
            "num_attention_heads": width // 48,
            "max_position_embeddings": CONTEXT,
        },
        template="base",
    )


@torch.no_grad()
def spread(model: CogVLMForConditionalGeneration) -> None:
    """A start from which a model this small learns fast: as `blank.quicken`, and places told apart."""
    from beholder.training.blank import quicken

    quicken(model.model.language_model)
    for module in model.model.multi_modal_projector.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)
    tower = model.model.vision_tower
    # The tower norms what its branches give to size one; the published start would drown pixels and places.
    tower.patch_embedding.weight.normal_(std=tower.patch_embedding.weight[0].numel() ** -0.5)
    tower.position_embedding.weight.normal_(std=0.5)


def write_blank(out: Path, seed: int = 0, config: CogVLMConfig | None = None) -> None:
    """Tokenizer, processor and seeded random weights."""
    out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(out, "llama", VOCABULARY, CONTEXT)
    config = config or configuration()
    torch.manual_seed(seed)
    model = CogVLMForConditionalGeneration(config)
    spread(model)
    model.save_pretrained(out)
    CogVLMProcessor(
        CogVLMImageProcessor.from_model_config(config),
        AutoTokenizer.from_pretrained(out),
        template=config.template,
        slots_per_picture=config.slots_per_picture,
        image_token_id=config.image_token_id,
    ).save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_blank(arguments.out, arguments.seed)
