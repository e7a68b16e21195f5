"""InternVL-Chat on LLaVA's code: InternViT-6B, a small projector, Vicuna (OpenGVLab/InternVL).

Everything but the tower is LLaVA's; which of the two a checkpoint is, its tower decides.
"""

from __future__ import annotations

from beholder.families.family import Family
from beholder.families.llava import PARTS, has_intern_tower, is_ours

FAMILY = Family(
    name="internvl_chat",
    title="InternVL-Chat",
    hub_ids=(
        "OpenGVLab/InternVL-Chat-ViT-6B-Vicuna-7B",
        "OpenGVLab/InternVL-Chat-ViT-6B-Vicuna-13B",
        "OpenGVLab/InternVL-Chat-ViT-6B-Vicuna-13B-448px",
    ),
    tensor_marks=("model.vision_tower.vision_tower.encoder.layers.0.attn.qkv.",),
    recognises=lambda config, names, folder: (
        is_ours(config, folder) and has_intern_tower(config, names, folder)
    ),
    **PARTS,
)
