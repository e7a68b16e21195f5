"""OK-VQA val2014: questions that need knowledge from outside the picture, scored as VQA is."""

from __future__ import annotations

from dataclasses import replace

from beholder.evaluation.tasks.vqav2 import VQAV2_VAL

OKVQA = replace(
    VQAV2_VAL,
    name="okvqa",
    protocol="VQA evaluator (GT-Vision-Lab/VQA, vqaEval.py) on OK-VQA val2014",
    source="mscoco_val2014_annotations.json",
    origin="it is on https://okvqa.allenai.org/download.html, its pictures on https://cocodataset.org",
)
