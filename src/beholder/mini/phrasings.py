"""Words a question: picks one of the wordings of its kind, fills it in, and varies its manners."""

import random
import re
from functools import cache
from pathlib import Path

import yaml

from beholder.mini.naming import Language

Wordings = dict[str, dict[Language, list[str]]]

ALTERNATIVES = re.compile(r"\{([^{}]*/[^{}]*)\}")
# Kinds whose answer is one word or phrase, so that a person may ask for just that.
SHORT = frozenset("exists text_exists is_colour is_shape colour shape size relation".split())
# Chinese requests that are not questions begin like this and take no question mark.
REQUESTS = tuple("描述 读 数 说 找 指 框 标 把 列 检 带 给 识 介绍 请".split())


@cache
def wordings() -> Wordings:
    """All wordings by kind and language."""
    return yaml.safe_load((Path(__file__).parent / "wordings.yaml").read_text(encoding="utf-8"))


def phrase(kind: str, language: Language, rng: random.Random, **slots: str) -> str:
    """One of the wordings with its slots filled; sometimes polite, hurried, or asking for a short answer."""
    template = rng.choice(wordings()[kind][language])
    picture = rng.choice(wordings()["picture"][language])
    possessive = f" of {picture}" if language == "en" else f"{picture}的"
    filled = {
        "of_pic": possessive if rng.random() < 0.5 else "",
        "place": rng.choice(wordings()["place"][language]),
        "pic": picture,
        "in_pic": f" in {picture}",
        "text": rng.choice(("text", "text", "word", "writing", "label")),
        **slots,
    }
    for name, value in filled.items():
        template = template.replace("{" + name + "}", value)
    while found := ALTERNATIVES.search(template):
        template = template[: found.start()] + rng.choice(found.group(1).split("/")) + template[found.end() :]
    finish = finish_english if language == "en" else finish_chinese
    return finish(template, rng, kind in SHORT)


def finish_english(text: str, rng: random.Random, brief: bool) -> str:
    """Manners, missing capitals and question marks, a wish for a short answer."""
    if rng.random() < 0.1:
        manner = rng.choice(wordings()["manner"]["en"])
        text = manner.format(text[0].lower() + text[1:] if manner.endswith(", {}") else text)
    elif rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.1:
        text = text.rstrip("?.")
    elif brief and rng.random() < 0.08:
        text += rng.choice(wordings()["brief"]["en"])
    return text


def finish_chinese(text: str, rng: random.Random, brief: bool) -> str:
    """Manners, a question mark of either width or none, a wish for a short answer."""
    asks = not text.startswith(REQUESTS)
    if rng.random() < 0.12 and not text.startswith("请"):
        text = rng.choice(wordings()["manner"]["zh"]).format(text)
    ending = rng.random()
    if ending < 0.75:
        text += "？" if asks else "。"
    elif ending < 0.87 and asks:
        text += "?"
    if brief and rng.random() < 0.08 and text.endswith(("？", "?", "。")):
        text += rng.choice(wordings()["brief"]["zh"])
    return text
