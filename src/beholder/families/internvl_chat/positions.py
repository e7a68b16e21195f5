"""InternViT's embeddings for pictures of another size than its table of positions was made for."""

from __future__ import annotations

import math
from typing import Any, cast

from torch import Tensor, cat, nn
from transformers.models.internvl.modeling_internvl import InternVLVisionEmbeddings


class Float32Positions(InternVLVisionEmbeddings):
    """transformers' embeddings; the table is resized in float32, whatever format it is stored in.

    Follows modeling_intern_vit.py of OpenGVLab/InternVL's internvl_chat_llava (568dcb7). At the table's own
    size it is taken as it is.
    """

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Any:
        """The (1, 1 + patches, width) positions for pictures of this height and width in pixels."""
        table = cast("Tensor", self.position_embeddings)
        patch = cast("tuple[int, int]", self.patch_size)
        rows, columns = height // patch[0], width // patch[1]
        side = math.isqrt(table.shape[1] - 1)
        if (rows, columns) == (side, side):
            return table
        grid = table[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        resized = nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return cat([table[:, :1], resized.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)
