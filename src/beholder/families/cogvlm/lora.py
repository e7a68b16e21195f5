"""Adapters that CogVLM's own fine-tuning trained, as adapters for PEFT on our model.

They sit on attention, of the tower and of the language expert, a pair for each of query, key and value
(finetune_demo.py and sat/model/finetune/lora2.py; THUDM/CogVLM 8bd8be9, SwissArmyTransformer 0.4.11).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from beholder.checkpoints.sat import ADAPTER, ORIGINAL
from beholder.core.errors import CheckpointError
from beholder.families.cogvlm.layout import PUBLISHED
from beholder.families.cogvlm.sat import SAT

ALPHA = 1  # the original's scale is 1 / rank


def peft_tensors(adapters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of adapters under SAT's names as PEFT names them on our model: `X.lora_A.weight`."""
    found: dict[str, Tensor] = {}
    for name, tensor in adapters.items():
        named = ADAPTER.match(name)
        if named is None:
            raise CheckpointError(f"{name} is not a tensor of an adapter")
        try:
            stored = SAT.ours(f"{named['layer']}.weight".replace(ORIGINAL, "."))
            parts = PUBLISHED.parts(str(PUBLISHED.ours(str(stored))))
        except KeyError:
            raise CheckpointError(f"{name} adapts a layer that is unknown to the SAT layout") from None
        if int(named["part"]) >= len(parts):
            raise CheckpointError(f"{name} is one adapter too many: the layer has {len(parts)} parts")
        module = parts[int(named["part"])].removesuffix(".weight")
        found[f"{module}.lora_{named['side']}.weight"] = tensor
    return found
