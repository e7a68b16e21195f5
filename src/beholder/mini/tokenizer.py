"""The built-in model's tokenizer: byte-level BPE with Llama-3's special tokens, from drawn conversations.

Digits and capitals stand alone, so numbers, coordinates and lettering are spelled one character at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|reserved_special_token_44|>",
)
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|end_of_text|>",
    "pad_token": "<|end_of_text|>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 2048,
}


def learn(texts: Iterable[str], vocabulary: int = 1536) -> Tokenizer:
    """A tokenizer with `vocabulary` entries, special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|[A-Z]|\n+| ?[a-z]+| ?\p{Han}+| ?[^\s\p{L}\d]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """`tokenizer.json` and `tokenizer_config.json`, as transformers' fast tokenizers read them."""
    import json

    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps(TOKENIZER_CONFIG, indent=1) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
