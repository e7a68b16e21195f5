"""A tiny 360VL checkpoint of random numbers in the published layout, for tests that need a real folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.layout import PUBLISHED
from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration
from beholder.families.qh360vl.published import to_ours

CONFIG: dict[str, Any] = {
    "architectures": ["QH360_VL_LlamaForCausalLM"],
    "model_type": "QH_360VL",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": 32,
    "image_aspect_ratio": "pad",
    "image_token_id": 5,
    "initializer_range": 0.2,
    "intermediate_size": 48,
    "max_position_embeddings": 192,
    "mm_projector_type": "c-abs",
    "mm_vision_select_layer": -2,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "proj_2": True,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vision_config": {
        "hidden_size": 16,
        "image_size": 28,
        "intermediate_size": 24,
        "model_type": "clip_vision_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "patch_size": 7,
        "projection_dim": 16,
    },
    "visual_projector_config": {
        "depth": 1,
        "encoder_hidden_size": 16,
        "hidden_size": 12,
        "mlp_depth": 2,
        "num_queries": 4,
        "projector_type": "c-abs",
    },
    "vocab_size": 420,
}
SLOTS = 8  # two branches of four queries


def make_tiny_checkpoint(folder: Path, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> Path:
    """Write the checkpoint into `folder`; `changes` replace keys of its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | {"vocab_size": len(tokenizer)} | changes
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    torch.manual_seed(0)
    model = QH360VLForConditionalGeneration(QH360VLConfig(**to_ours(config)))
    tensors = {PUBLISHED.theirs(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    # The published system prompt alone would fill the context of a model this small.
    (folder / "processor_config.json").write_text(
        '{"processor_class": "QH360VLProcessor", "system_prompt": ""}\n'
    )
    return folder
