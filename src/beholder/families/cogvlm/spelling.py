"""Text to ids as CogVLM was trained: the word-start mark stands before every text, also before a space.

The original's tokenizer puts the mark there always. That of transformers 5 leaves it out where the text
begins with a space, which it takes for the mark; a second space brings it back.
"""

from __future__ import annotations

from typing import Any

SPACES = (" ", "\u2581")  # the second is how SentencePiece writes the first


def as_trained(text: str, tokenizer: Any) -> str:
    """The text with which this tokenizer gives the ids of the original's."""
    if not text.startswith(SPACES):
        return text
    spaced, bare = (tokenizer.encode(sample, add_special_tokens=False) for sample in (" a", "a"))
    return f" {text}" if spaced == bare else text


def ids_of(text: str, tokenizer: Any) -> list[int]:
    """Ids of one text without begin and end; special tokens spelled in it count, as in the original."""
    return list(tokenizer.encode(as_trained(text, tokenizer), add_special_tokens=False)) if text else []
