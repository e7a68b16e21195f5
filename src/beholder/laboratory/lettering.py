"""One tokenizer for all four families, of SentencePiece's kind, as three of them need.

Digits and capitals stand alone, so numbers, coordinates and lettering are spelled one character at a time.
Each family finds the control tokens of its own templates in it, and what templates write in plain words is a
piece each, so that no family's questions are longer than another's.
"""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from beholder.families.qh360vl.templates import PICTURE_TOKEN
from beholder.mini.tokenizer import SPECIALS
from beholder.training.blank import spoken
from beholder.training.rows import read_rows

VOCABULARY = 1536
BLANK = "\u2581"
SLOT = PICTURE_TOKEN
OFTEN = 1000  # as a frequent word of the rows, so that all its merges are learned
CONTROLS = ("<unk>", "<s>", "</s>", *SPECIALS)
BYTES = tuple(f"<0x{code:02X}>" for code in range(256))
WRITTEN = ("[INST]", "[/INST]", "Question:", "Short answer:", "user", "assistant")  # by templates
SPELLED = "|".join(re.escape(word) for word in WRITTEN[:4]).replace(r"\ ", BLANK)
WORDS = Regex(
    rf"{BLANK}?(?:{SPELLED})|\d|[A-Z]|\n+|{BLANK}?[a-z]+|{BLANK}?\p{{Han}}+|{BLANK}?[^{BLANK}\p{{L}}\d]+|{BLANK}+"
)


def learn(rows: Path) -> Tokenizer:
    """A tokenizer of the drawn conversations in a file."""
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    blanks = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    learner.normalizer = blanks
    learner.pre_tokenizer = pre_tokenizers.Split(WORDS, "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[*CONTROLS, *BYTES],
        initial_alphabet=[BLANK, *(chr(code) for code in range(33, 127))],
        show_progress=False,
    )
    learner.train_from_iterator(chain(spoken(read_rows(rows)), WRITTEN * OFTEN), trainer)
    # Bytes are pieces of the vocabulary and nothing that could be meant by its name.
    whole = Tokenizer(models.BPE(**_model(learner), unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    whole.normalizer, whole.pre_tokenizer = blanks, pre_tokenizers.Split(WORDS, "isolated")
    whole.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    whole.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in CONTROLS])
    return whole


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    told = json.loads(tokenizer.to_str())["model"]
    return {"vocab": told["vocab"], "merges": [tuple(pair) for pair in told["merges"]]}


def write_tokenizer(rows: Path, folder: Path, subject: str) -> None:
    """`tokenizer.json` and `tokenizer_config.json`; begin and end are those of the subject's template."""
    learn(rows).save(str(folder / "tokenizer.json"))
    is_llama3 = subject == "abstractors"
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<|begin_of_text|>" if is_llama3 else "<s>",
        "eos_token": "<|end_of_text|>" if is_llama3 else "</s>",
        "pad_token": "<unk>",
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
