"""Where the figures that tasks are compared with were published, and for which checkpoints."""

from __future__ import annotations

from beholder.evaluation.task import Published

LLAVA = ("llava-v1.5-7b", "llava-v1.5-13b")
INTERNVL = (
    "InternVL-Chat-ViT-6B-Vicuna-7B",
    "InternVL-Chat-ViT-6B-Vicuna-13B",
    "InternVL-Chat-ViT-6B-Vicuna-13B-448px",
)
QIHOO = ("360VL-8B", "360VL-70B")
COGVLM = "cogvlm-chat-hf"

ZOO = "model zoo of InternVL's internvl_chat_llava README"
LLAVA_ZOO = "model zoo of LLaVA"
QIHOO_README = "README of 360VL"
COGVLM_README = "README of CogVLM"
LLAVA_DOCS = "https://github.com/haotian-liu/LLaVA/blob/main/docs/Evaluation.md"


def zoo(*figures: float, tolerance: float = 0.5) -> Published:
    """A column of InternVL's table: LLaVA-1.5 7B and 13B, InternVL-Chat 7B, 13B and 13B-448."""
    return Published(
        source=ZOO, figures=dict(zip((*LLAVA, *INTERNVL), figures, strict=True)), tolerance=tolerance
    )


def llava_zoo(*figures: float) -> Published:
    """A column of LLaVA's own table: 7B and 13B."""
    return Published(source=LLAVA_ZOO, figures=dict(zip(LLAVA, figures, strict=True)))


def qihoo(*figures: float, figure: str = "", tolerance: float = 0.5) -> Published:
    """A column of 360VL's table: 8B and 70B."""
    return Published(
        source=QIHOO_README,
        figures=dict(zip(QIHOO, figures, strict=True)),
        figure=figure,
        tolerance=tolerance,
    )


def cogvlm(value: float, figure: str = "") -> Published:
    """A figure of CogVLM's table."""
    return Published(source=COGVLM_README, figures={COGVLM: value}, figure=figure)
