"""The folder that vLLM opens: the checkpoint's weight files by link, and another configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beholder.core.errors import ConfigError
from beholder.serving.vllm.names import KINDS, TEXT_ARCHITECTURE

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
    settings = {**text_config.to_dict(), "architectures": [TEXT_ARCHITECTURE], "vocab_size": rows}
    (target / "config.json").write_text(json.dumps(settings, indent=1, default=str), encoding="utf-8")
    files = [file for pattern in WEIGHTS for file in sorted(source.glob(pattern))]
    if not any(file.suffix in (".safetensors", ".bin") for file in files):
        raise ConfigError(f"{source} holds no safetensors or pytorch_model files that vLLM could open")
    for file in files + [file for pattern in TOKENIZER for file in sorted(source.glob(pattern))]:
        (target / file.name).symlink_to(file.resolve())
    return target
