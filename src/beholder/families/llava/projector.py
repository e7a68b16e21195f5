"""LLaVA's projectors: from the tower's features to embeddings of the language model.

Follows llava/model/multimodal_projector/builder.py of haotian-liu/LLaVA (c121f04); of OpenGVLab/InternVL's
internvl_chat_llava (568dcb7), which reads the name as a pattern without an end and knows `ln`; and of
01-ai/Yi's VL (42dd1d3), which knows `_Norm`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from beholder.core.errors import ConfigError

STANDARD = "mlp2x_gelu"
# The fork's pattern has no end, so `mlp2x_gel` and `mlp2x_geluXYZ` are names of the same projector there. Who
# reads every name that one of the three reads gives each published checkpoint the projector it was
# trained with.
MLP = re.compile(r"mlp(\d+)x_gel")
NORM_AFTER = re.compile(r"mlp\d+x_gelu_Norm$")


def check_name(name: str) -> int:
    """The depth of the named projector (0 for identity); a `ConfigError` if the name means nothing."""
    if name in ("identity", "linear"):
        return 0 if name == "identity" else 1
    found = MLP.match(name)
    if found is None or int(found[1]) < 1:
        raise ConfigError(
            f"the projector {name!r} is unknown; known: linear, identity, and mlpNx_gelu (also with _Norm or "
            "_ln at its end) with N of 1 or more"
        )
    return int(found[1])


def layers(name: str, width: int, out_width: int) -> Iterator[nn.Module]:
    """The layers of an `mlpNx_gelu` projector in the order of the published indices."""
    is_normed_after = NORM_AFTER.match(name) is not None
    if "ln" in name:
        yield nn.LayerNorm(width)
    for number in range(check_name(name)):
        if number:
            yield nn.GELU()
        yield nn.Linear(out_width if number else width, out_width)
        if is_normed_after:
            yield nn.LayerNorm(out_width)


def build_projector(name: str, width: int, out_width: int) -> nn.Module:
    """A projector by its published name; its parameters are named as published, too."""
    if name == "identity":
        return nn.Identity()
    if name == "linear":
        return nn.Linear(width, out_width)
    return nn.Sequential(*layers(name, width, out_width))
