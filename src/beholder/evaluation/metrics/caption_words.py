"""Captions cut into words as the COCO caption evaluation cuts them, without Java.

That evaluation runs Stanford's Penn Treebank tokenizer in lower case and then drops punctuation. The rules
here are those that everyday captions meet: contractions, possessives, hyphens, abbreviations, numbers,
brackets and quotes. Rarer ones (web addresses, emoticons, fractions, dates) are not reproduced.
"""

from __future__ import annotations

import re

DROPPED = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
BRACKETS = {"(": "-LRB-", ")": "-RRB-", "{": "-LCB-", "}": "-RCB-", "[": "-LSB-", "]": "-RSB-"}
# Kept with their full stop.
ABBREVIATIONS = frozenset(
    "mr. mrs. ms. dr. prof. st. jr. sr. vs. etc. inc. ltd. co. corp. no. mt. ft. ave. blvd. rd. u.s. u.k. "
    "a.m. p.m. e.g. i.e. jan. feb. mar. apr. jun. jul. aug. sep. sept. oct. nov. dec.".split()
)
TWO_WORDS = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me"}

CURLY = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})

TOKEN = re.compile(
    r"""
    [a-z]+'?[a-z]*\.(?:[a-z]\.)+            # initials: u.s.a.
  | [a-z0-9]+(?:[-_&/][a-z0-9]+)*(?:'[a-z]+)?\.?   # words, with hyphens, with what follows an apostrophe
  | [^\W\d_]+(?:['-][^\W\d_]+)*             # words of other scripts
  | \$?\d[\d,]*(?:\.\d+)?%?                 # never reached by plain numbers, which are words above
  | \.\.\.|--+|``|''
  | [^\s]
    """,
    re.VERBOSE,
)
NUMBER = re.compile(r"\d+(?:[,.:]\d+)+")
ENDING = re.compile(r"^(.+?)(n't|'s|'m|'d|'re|'ve|'ll)$")


def caption_words(caption: str) -> list[str]:
    """The words of a caption in lower case, punctuation dropped."""
    text = caption.replace("\n", " ").lower().translate(CURLY)
    words: list[str] = []
    for piece in text.split():
        words += _piece(piece)
    return [word for word in words if word not in DROPPED]


def _piece(piece: str) -> list[str]:
    """The tokens of one run of characters without blanks."""
    tokens: list[str] = []
    place = 0
    while place < len(piece):
        number = NUMBER.match(piece, place)
        found = number or TOKEN.match(piece, place)
        assert found, piece
        token = found[0]
        place = found.end()
        if number or (token.endswith(".") and token in ABBREVIATIONS) or token.count(".") > 1:
            tokens.append(token)
        else:
            tokens += _word(token)
    return tokens


def _word(token: str) -> list[str]:
    """One word, its contraction cut off; quotes and brackets under their Treebank names."""
    if token == '"':
        return ["''"]
    if token in BRACKETS:
        return [BRACKETS[token]]
    stop = [token[-1]] if len(token) > 1 and token.endswith(".") and token != "..." else []
    word = token[:-1] if stop else token
    if word == "o'clock":
        return [word, *stop]
    if word in TWO_WORDS:
        return TWO_WORDS[word].split() + stop
    ending = ENDING.match(word)
    if ending:
        return [ending[1], ending[2], *stop]
    before, mark, after = word.partition("'")
    if mark and before and after:
        return [before, mark + after, *stop]
    return [word, *stop]
