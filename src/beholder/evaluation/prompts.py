"""The endings by which the original evaluations ask for short answers, letters or boxes."""

from __future__ import annotations

from beholder.evaluation.task import Row, Style

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LETTER_CHINESE = "\n请直接回答选项字母。"
YES_OR_NO = " Please answer yes or no."
MAY_BE_UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
REGION = "Please provide the bounding box coordinate of the region this sentence describes: {question}"
PLAIN_REGION = "What is the bounding box of the {question}?"
THOUSANDTHS_REGION = "Where is {question}? answer in [[x0,y0,x1,y1]] format."

LOADER_TOKENS = 128  # the longest answer of LLaVA's and 360VL's batch loaders
LONG_TOKENS = 1024  # of the scripts that ask one question after the other

SHORT_ANSWER = "{question}" + SHORT
# CogVLM's own template ends in "Short answer:", so nothing is added to the question.
COGVLM_SHORT = {"cogvlm": Style(prompt="{question}", max_tokens=LOADER_TOKENS, template="vqa")}


def as_yes_or_no(row: Row) -> str:
    """360VL's MME and POPE scripts put "Please answer yes or no." in place of the short-answer ending."""
    return row["question"] + YES_OR_NO
