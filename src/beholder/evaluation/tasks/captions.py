"""Captions of COCO, NoCaps and Flickr30k: CIDEr-D, BLEU and ROUGE-L against people's captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from beholder.evaluation.bootstrap import figure, mean
from beholder.evaluation.files import json_text, number_or_text, read_json
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.caption_words import caption_words
from beholder.evaluation.metrics.captions import CiderD, bleu, bleu_counts, rouge_l
from beholder.evaluation.pairing import by_row
from beholder.evaluation.prompts import LOADER_TOKENS
from beholder.evaluation.task import Pair, Reply, Row, Scores, Style, Task

KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
ASK = "Provide a one-sentence caption for the provided image."
DESCRIBE = Style(prompt="Describe the image.", max_tokens=LOADER_TOKENS, template="base")


def rows(path: Path) -> list[Row]:
    """COCO's annotation format (images, annotations), or the test part of Karpathy's split file."""
    told = read_json(path)
    if "annotations" not in told:
        return [_karpathy_row(one) for one in told["images"] if one["split"] == "test"]
    captions: dict[Any, list[str]] = defaultdict(list)
    for one in told["annotations"]:
        captions[one["image_id"]].append(one["caption"])
    return [
        {
            "id": str(one["id"]),
            "image": f"images/{one['file_name']}",
            "question": ASK,
            "captions": captions[one["id"]],
            "domain": one.get("domain", ""),
        }
        for one in told["images"]
        if captions[one["id"]]
    ]


def _karpathy_row(one: dict[str, Any]) -> Row:
    folder = f"{one['filepath']}/" if one.get("filepath") else "images/"
    return {
        "id": str(one.get("cocoid", one["imgid"])),
        "image": folder + one["filename"],
        "question": ASK,
        "captions": [sentence["raw"] for sentence in one["sentences"]],
        "domain": "",
    }


def score(reply: Reply, row: Row) -> Scores:
    """The words of the caption and of people's captions; what they are worth depends on the whole corpus."""
    references = [caption_words(caption) for caption in row["captions"]]
    words = caption_words(reply.text)
    told = {"words": words, "references": references, "domain": row["domain"]}
    return told | {"value": rouge_l(words, references), "expected": row["captions"]}


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """CIDEr-D, BLEU-1 to 4 and ROUGE-L over all pictures, and CIDEr-D by domain where there are domains."""
    corpus = CiderD([one["references"] for one in scores])
    cider = [corpus.score(one["words"], one["references"]) for one in scores]
    counts = [bleu_counts(one["words"], one["references"]) for one in scores]
    figures = {"cider": mean(cider)}
    for size in (1, 2, 3, 4):
        figures[f"bleu_{size}"] = figure(counts, partial(bleu, size=size), len(scores))
    figures["rouge_l"] = mean(one["value"] for one in scores)
    for domain in sorted({one["domain"] for one in scores} - {""}):
        chosen = [one for one in scores if one["domain"] == domain]
        # Rarity of words is a matter of each domain's own references, as the NoCaps server has it.
        own = CiderD([one["references"] for one in chosen])
        figures[f"cider.{domain}"] = mean(own.score(one["words"], one["references"]) for one in chosen)
    return figures


def results(pairs: Sequence[Pair], data: Path) -> dict[str, bytes]:
    """COCO's results format."""
    return {
        "captions_results.json": json_text(
            [{"image_id": number_or_text(row["id"]), "caption": reply.text} for row, reply in pairs]
        )
    }


def _task(name: str, source: str, origin: str) -> Task:
    return Task(
        name=name,
        version=1,
        protocol="coco-caption (tylin/coco-caption): CIDEr-D, BLEU, ROUGE-L; words cut without Java",
        source=source,
        rows=rows,
        score=score,
        summary=summary,
        max_tokens=LOADER_TOKENS,
        styles={"cogvlm": DESCRIBE},
        pair=by_row(),
        headline="cider",
        submit=results,
        origin=origin,
    )


COCO_CAPTIONS = _task(
    "coco-captions",
    "dataset_coco.json|captions_val2014.json|coco_karpathy_test*.json",
    f"the split is in {KARPATHY}, annotations and pictures are on https://cocodataset.org",
)
NOCAPS = _task("nocaps", "nocaps_val*.json", "it is on https://nocaps.org/download")
FLICKR30K = _task(
    "flickr30k",
    "dataset_flickr30k.json|flickr30k_karpathy_test*.json",
    f"the split is in {KARPATHY}, the pictures are given out on https://shannon.cs.illinois.edu/DenotationGraph/",
)
