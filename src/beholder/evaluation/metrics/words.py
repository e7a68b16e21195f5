"""Answers brought to a common form before they are compared, as the VQA and TextVQA evaluators do it.

Both follow from one table of words. Two oddities of the originals are kept on purpose and can be left out
with `strict`: at most 32 full stops are removed (a flag stands where the count belongs), and in the VQA
evaluator answers on which all people agree are compared as they are, upper and lower case included.
"""

from __future__ import annotations

import re

NUMBERS = {
    word: str(value)
    for value, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
ARTICLES = frozenset(("a", "an", "the"))
MARKS = ';/[]"{}()=+\\_-><@`,?!'
FULL_STOPS_REMOVED = 32
DIGITS_WITH_COMMA = re.compile(r"\d,\d")
FULL_STOP = re.compile(r"\.(?!\d)")

# Written without apostrophes (or with one of two) on the left; what is meant on the right.
_NOT = "are could did does do had has have is might must need ought sha should was were wo would"
_HAVE = "could might must should would"
_WHO = "he it she somebody someone something there they we who you"
_SINGLE = (
    "hed>he'd hes>he's howd>how'd howll>how'll hows>how's Id've>I'd've I'dve>I'd've Im>I'm Ive>I've "
    "itd>it'd itll>it'll let's>let's maam>ma'am notve>not've oclock>o'clock ow's'at>'ow's'at "
    "'ows'at>'ow's'at 'ow'sat>'ow's'at she's>she's somebody'd>somebodyd somebodyll>somebody'll "
    "somebodys>somebody's someoned>someone'd someonell>someone'll someones>someone's "
    "somethingd>something'd somethingll>something'll thats>that's thered>there'd therere>there're "
    "theres>there's theyd>they'd "
    "theyll>they'll theyre>they're theyve>they've twas>'twas weve>we've whatll>what'll whatre>what're "
    "whats>what's whatve>what've whens>when's whered>where'd wheres>where's whereve>where've whod>who'd "
    "wholl>who'll whos>who's whove>who've whyll>why'll whyre>why're whys>why's yall>y'all "
    "yall'll>y'all'll y'allll>y'all'll yall'd've>y'all'd've y'alld've>y'all'd've y'all'dve>y'all'd've "
    "youd>you'd youll>you'll youre>you're youve>you've"
)


def _contractions() -> dict[str, str]:
    told = {f"{verb}nt": f"{verb}n't" for verb in _NOT.split()} | {"aint": "ain't", "cant": "can't"}
    told |= {f"{verb}ve": f"{verb}'ve" for verb in _HAVE.split()}
    for verb in ("could", "had", "might", "should", "would"):
        told |= {f"{verb}n'tve": f"{verb}n't've", f"{verb}nt've": f"{verb}n't've"}
    for who in _WHO.split():
        told |= {f"{who}d've": f"{who}'d've", f"{who}'dve": f"{who}'d've"}
    for pair in _SINGLE.split():
        written, _, meant = pair.partition(">")
        told[written] = meant
    return told


CONTRACTIONS = _contractions()


def normal_form(answer: str, strict: bool = False) -> str:
    """An answer as the TextVQA (M4C) evaluator compares it; also what is uploaded for VQAv2 and VizWiz.

    From llava/eval/m4c_evaluator.py (c121f04). `strict` removes every full stop that no digit follows.
    """
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return " ".join(_plain_words(_without_marks(text, strict).split()))


def vqa_form(answer: str, strict: bool = False) -> str:
    """An answer as the VQA evaluator compares it where people disagree (GT-Vision-Lab/VQA, vqaEval.py)."""
    return " ".join(_plain_words(_without_marks(one_line(answer), strict).lower().split()))


def one_line(answer: str) -> str:
    """Line ends and tabs as blanks, none at the ends: all that the VQA evaluator does to every answer."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _without_marks(text: str, strict: bool) -> str:
    """A mark that touches a blank anywhere in the text is dropped everywhere, any other becomes a blank."""
    has_thousands = bool(DIGITS_WITH_COMMA.search(text))
    plain = text
    for mark in MARKS:
        touches = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if touches or has_thousands else " ")
    return FULL_STOP.sub("", plain, count=0 if strict else FULL_STOPS_REMOVED)


def _plain_words(words: list[str]) -> list[str]:
    numbered = (NUMBERS.get(word, word) for word in words)
    return [CONTRACTIONS.get(word, word) for word in numbered if word not in ARTICLES]
