"""GPT-assisted reviews: what the judge is asked, how its reply is read, and what the scores come to.

LLaVA-Bench from llava/eval/eval_gpt_review_bench.py, eval_gpt_review_visual.py and summarize_gpt_review.py
(c121f04), TouchStone from eval.py of OFA-Sys/TouchStone (6041d5d), MM-Vet from its public evaluator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beholder.evaluation.bootstrap import Array

CHECKER = "You are a helpful and precise assistant for checking the quality of the answer."
REVIEW_SETTINGS = {"temperature": 0.2, "max_tokens": 1024}
FAILED = (-1.0, -1.0)
# What llava/eval/table/rule.json says about all three kinds of questions in the wild.
_WILD_RULE = (
    "We would like to request your feedback on the performance of two AI assistants in response to the user"
    " question displayed above. The user asks the question on observing an image. For your reference, the"
    " visual content in the image is represented with a few sentences describing the image. \nPlease rate the"
    " helpfulness, relevance, accuracy, level of details of their responses. Each assistant receives an"
    " overall score on a scale of 1 to 10, where a higher score indicates better overall performance.\nPlease"
    " first output a single line containing only two values indicating the scores for Assistant 1 and 2,"
    " respectively. The two scores are separated by a space.\nIn the subsequent line, please provide a"
    " comprehensive explanation of your evaluation, avoiding any potential bias and ensuring that the order"
    " in which the responses were presented does not affect your judgment."
)
IN_THE_WILD = {
    f"llava_bench_{kind}": {"role": "Assistant", "prompt": _WILD_RULE}
    for kind in ("conv", "detail", "complex")
}


def review_messages(
    context: str | None, question: str, answers: tuple[str, str], rule: Mapping[str, str]
) -> list[dict[str, str]]:
    """What the judge is asked about two answers; the reference comes first. `rule` has role and prompt."""
    role = rule["role"]
    blocks = [] if context is None else [f"[Context]\n{context}\n\n"]
    blocks.append(f"[Question]\n{question}\n\n")
    for number, answer in enumerate(answers, 1):
        blocks.append(f"[{role} {number}]\n{answer}\n\n[End of {role} {number}]\n\n")
    blocks.append(f"[System]\n{rule['prompt']}\n\n")
    return [{"role": "system", "content": CHECKER}, {"role": "user", "content": "".join(blocks)}]


def review_context(entry: Mapping[str, Any]) -> str:
    """A picture in words: one caption, or captions by lines; with boxes where the entry lists instances."""
    if "instances" in entry:
        boxes = "\n".join(f"{one['category']}: {one['bbox']}" for one in entry["instances"])
        return "\n".join(entry["captions"]) + "\n\n" + boxes
    caption: str | list[str] = entry["caption"]
    return "\n".join(caption) if isinstance(caption, list) else caption


def read_pair(review: str) -> tuple[float, float] | None:
    """The two numbers of the first line, parted by one blank or comma; None where there are not just two."""
    parts = review.split("\n")[0].replace(",", " ").split(" ")
    if len(parts) != 2:
        return None
    try:
        return float(parts[0]), float(parts[1])
    except ValueError:
        return None


def summarize(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """(100 x ours / reference, 10 x reference, 10 x ours) of mean scores; means first to three decimals."""
    # numpy's mean and Python's rounding, as in the original: at ties they differ from any other pair.
    table: Array = np.asarray(pairs, dtype=np.float64)
    reference, ours = (round(float(mean), 3) for mean in table.mean(0))
    relative = round(ours / reference * 100, 1) if reference else 0.0
    return relative, round(reference * 10, 1), round(ours * 10, 1)


MMVET_SETTINGS = {"temperature": 0.0, "max_tokens": 3}
MMVET_RETRY = "\nPredict the correctness of the answer (digit): "
MMVET_TRIES = 5
_ICELAND = (
    "This meme is poking fun at the fact that the names of the countries Iceland and Greenland are"
    " misleading. Despite its name, Iceland is known for its beautiful green landscapes, while Greenland is"
    " mostly covered in ice and snow. The meme is saying that the person has trust issues because"
    " the names of"
    " these countries do not accurately represent their landscapes."
)
_HUMOR = (
    "The meme is using humor to point out the misleading nature of Iceland's and Greenland's names. Iceland,"
    " despite its name, has lush green landscapes while Greenland is mostly covered in ice and snow. The text"
    " 'This is why I have trust issues' is a playful way to suggest that these contradictions can lead to"
    " distrust or confusion. The humor in this meme is derived from the unexpected contrast between the names"
    " of the countries and their actual physical characteristics."
)
_MEME = (
    "The meme talks about Iceland and Greenland. It's pointing out that despite their names, Iceland is not"
    " very icy and Greenland isn't very green."
)
_EXAMPLES = (
    *(
        ("What is x in the equation?", "-1 <AND> -5", said, score)
        for said, score in (
            ("x = 3", "0.0"),
            ("x = -1", "0.5"),
            ("x = -5", "0.5"),
            ("x = -5 or 5", "0.5"),
            ("x = -1 or x = -5", "1.0"),
        )
    ),
    ("Can you explain this meme?", _ICELAND, _MEME, "0.4"),
    ("Can you explain this meme?", _ICELAND, _HUMOR, "1.0"),
)
MMVET_INTRODUCTION = (
    "Compare the ground truth and prediction from AI models, to give a correctness score for the prediction."
    " <AND> in the ground truth means it is totally right only when all elements in the ground truth are"
    " present in the prediction, and <OR> means it is totally right when any one element in the ground truth"
    " is present in the prediction. The correctness score is 0.0 (totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5,"
    " 0.6, 0.7, 0.8, 0.9, or 1.0 (totally right). Just complete the last space of the correctness score.\n\n"
    "Question | Ground truth | Prediction | Correctness\n--- | --- | --- | ---\n"
) + "".join(f"{' | '.join(example)}\n" for example in _EXAMPLES)


def mmvet_question(question: str, truth: str, said: str) -> str:
    """The table with its last line open, which the judge is to complete."""
    spaced = truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return MMVET_INTRODUCTION + " | ".join((question, spaced, said, ""))


def mmvet_score(reply: str) -> float | None:
    """The first word of a reply as a number between 0 and 1; None if it is none."""
    try:
        score = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return score if 0 <= score <= 1 else None


TOUCHSTONE_SETTINGS = {"temperature": 0, "stop": ["\n"]}
TOUCHSTONE_RULE = (
    "We would like to request your feedback on the performance of two AI assistants in response to the user"
    " question and image description displayed above. AI assistants are provided with detailed image"
    " description and questions.\nPlease rate the helpfulness, relevance, accuracy, comprehensiveness of"
    " their responses. Each assistant receives an overall score on a scale of 1 to 10, where a higher score"
    " indicates better overall performance.\nPlease first output a single line containing only two values"
    " indicating the scores for Assistant 1 and 2, respectively. The two scores are separated by a"
    " space. In the"
    " subsequent line, please provide a comprehensive explanation of your evaluation, avoiding any"
    " potential bias and"
    " ensuring that the order in which the responses were presented does not affect your judgment."
)


def touchstone_messages(description: str, question: str, first: str, second: str) -> list[dict[str, str]]:
    """What the judge is asked; every pair of answers is asked in both orders."""
    answers = "".join(
        f"[The Start of Assistant {number}'s Answer]\n{answer}\n\n"
        f"[The End of Assistant {number}'s Answer]\n\n"
        for number, answer in enumerate((first, second), 1)
    )
    text = f"[Detailed Image Description]\n{description}\n\n[Question]\n{question}\n\n{answers}"
    return [
        {"role": "system", "content": CHECKER},
        {"role": "user", "content": f"{text}[System]\n{TOUCHSTONE_RULE}\n\n"},
    ]
