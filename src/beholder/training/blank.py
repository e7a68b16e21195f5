"""An untrained built-in model: 360VL's architecture at a size that two processor cores can train.

`python -m beholder.training.blank OUT --rows conversations.json` learns the tokenizer from drawn
conversations and writes random weights, seeded, ready for the recipe `mini/tower`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration
from beholder.families.qh360vl.processing import QH360VLProcessor
from beholder.families.qh360vl.templates import PICTURE_TOKEN
from beholder.families.qh360vl.views import QH360VLImageProcessor
from beholder.mini import tokenizer as mini_tokenizer
from beholder.training.data import MARKER
from beholder.training.rows import read_rows

SIDE, PATCH, TOWER, WIDTH, QUERIES = 96, 12, 192, 256, 64
LETTERING = re.compile(r"[\"“「『][^\"”」』]*[\"”」』]")


def spoken(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """All turns without the lettering read from pictures: to be spelled, it must not become tokens."""
    for row in rows:
        for turn in row["conversations"]:
            text = turn["value"].replace(MARKER + "\n", "")
            if turn["from"] == "human" or text[-1] in ".。]":
                yield LETTERING.sub('""', text)


def configuration(vocabulary: int, picture_id: int, bos: int, eos: int) -> QH360VLConfig:
    """The built-in model's geometry: a tower of 5 layers, two C-Abstractors, a Llama of 4 layers."""
    return QH360VLConfig(
        vision_config={
            "hidden_size": TOWER,
            "intermediate_size": 3 * TOWER,
            "num_hidden_layers": 5,
            "num_attention_heads": 3,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        projector_config={
            "encoder_hidden_size": TOWER,
            "hidden_size": TOWER,
            "depth": 2,
            "readout_depth": 2,
            "queries": QUERIES,
            "positions": (SIDE // PATCH) ** 2 + 1,
        },
        text_config={
            "hidden_size": WIDTH,
            "intermediate_size": 704,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": vocabulary,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "rms_norm_eps": 1e-5,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": eos,
        },
        image_token_id=picture_id,
        vision_feature_layer=-1,
        image_aspect_ratio="square",
    )


@torch.no_grad()
def soften(model: QH360VLForConditionalGeneration) -> None:
    """Let pictures start as quiet as words: a fresh readout is some forty times louder than an embedding."""
    for projector in (model.model.corner_abstractor, model.model.whole_abstractor):
        for parameter in projector.readout[-1].parameters():
            parameter.mul_(0.1)


@torch.no_grad()
def quicken(language: torch.nn.Module) -> None:
    """A start from which a language model this small learns fast; transformers' is made for large ones.

    Embeddings of size one, so that what the first layers add does not drown which word it was; matrices that
    keep the size of what they read; branches that add nothing yet (Karpathy's nanochat starts alike).
    """
    for name, parameter in language.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.zero_()
        elif name.startswith("embed_tokens"):
            parameter.normal_()
        elif parameter.ndim == 2:
            parameter.normal_(std=parameter.shape[1] ** -0.5)


def write_blank(out: Path, rows: Path, seed: int = 0) -> None:
    """Tokenizer, processor and seeded random weights."""
    out.mkdir(parents=True, exist_ok=True)
    mini_tokenizer.write(mini_tokenizer.learn(spoken(read_rows(rows))), out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.convert_tokens_to_ids([PICTURE_TOKEN, tokenizer.bos_token, tokenizer.eos_token])
    config = configuration(len(tokenizer), *ids)
    torch.manual_seed(seed)
    model = QH360VLForConditionalGeneration(config)
    soften(model)
    quicken(model.model.language_model)
    model.save_pretrained(out)
    views = QH360VLImageProcessor.from_model_config(config)
    QH360VLProcessor(
        views, tokenizer, system_prompt="", slots_per_picture=config.slots_per_picture
    ).save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_blank(arguments.out, arguments.rows, arguments.seed)
