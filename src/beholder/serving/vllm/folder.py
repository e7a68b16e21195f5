"""The folder that vLLM opens: the checkpoint's weight files by link, and another configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beholder.core.errors import ConfigError
from beholder.serving.vllm.marks import marked_width
from beholder.serving.vllm.names import EMBEDDING_WIDTH, EXPERTS_ARCHITECTURE, KINDS

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json")


def write_folder(target: Path, source: Path, text_config: Any, rows: int) -> Path:
    """Write it. `rows` is how many tokens the stored embedding has, which our configuration may pad."""
    kind = text_config.model_type
    if kind not in KINDS:
        raise ConfigError(
            f"the language model is of kind {kind!r}, which vLLM is not given by Beholder "
            f"(only {', '.join(KINDS)}); serve it without --engine vllm"
        )
    target.mkdir(parents=True)
    settings = {**_settings(text_config), "architectures": [KINDS[kind]], "vocab_size": rows}
    (target / "config.json").write_text(json.dumps(settings, indent=1, default=str), encoding="utf-8")
    files = [file for pattern in WEIGHTS for file in sorted(source.glob(pattern))]
    if not any(file.suffix in (".safetensors", ".bin") for file in files):
        raise ConfigError(f"{source} holds no safetensors or pytorch_model files that vLLM could open")
    for file in files + [file for pattern in TOKENIZER for file in sorted(source.glob(pattern))]:
        (target / file.name).symlink_to(file.resolve())
    return target


def _settings(text_config: Any) -> dict[str, Any]:
    """What vLLM reads; a model with experts is to it a Llama with wider rows."""
    told: dict[str, Any] = text_config.to_dict()
    if KINDS[text_config.model_type] != EXPERTS_ARCHITECTURE:
        return told
    if text_config.rotary_tables != "float32":
        raise ConfigError(
            f"rotary_tables is {text_config.rotary_tables!r}; vLLM has exact ones only, and with rounded "
            "ones more counts than how far apart positions are; serve it without --engine vllm"
        )
    heads = text_config.num_attention_heads
    return told | {
        "model_type": "llama",
        EMBEDDING_WIDTH: text_config.hidden_size,
        "hidden_size": marked_width(text_config.hidden_size, heads),
        "head_dim": text_config.head_dim,
        "num_key_value_heads": heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": text_config.rope_base},
    }
