"""LLaVA and InternVL-Chat: transformers' LLaVA, opened strictly, with every published projector and tiles.

What transformers computes is left to it. Added are the projectors and the merging of tiles that its
class does
not know, and that the rows which fill up the vocabulary are never generated. Follows llava/model of
haotian-liu/LLaVA (c121f04) and internvl_chat_llava of OpenGVLab/InternVL (568dcb7).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration as TheirLlava
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast, LlavaPreTrainedModel
from transformers.models.llava.modeling_llava import LlavaModel as TheirModel
from transformers.utils.generic import can_return_tuple

from beholder.checkpoints.assembled import AssembledLoading
from beholder.core.errors import InputError
from beholder.families.family import Family
from beholder.families.internvl_chat.positions import Float32Positions
from beholder.families.llava.config import BeholderLlavaConfig
from beholder.families.llava.projector import STANDARD, build_projector
from beholder.families.llava.sight import run_tower, tower_depth
from beholder.families.llava.tiles import merge_tiles, tile_grid


class LlavaLoading(AssembledLoading):
    """Opens any layout of LLaVA's system."""

    @classmethod
    def family_of(cls, config: Any) -> Family:
        """The family whose tower the configuration has."""
        from beholder.families import family

        is_intern = config.vision_config.model_type == "internvl_vision"
        return family("internvl_chat" if is_intern else "llava")


class LlavaModel(LlavaLoading, TheirModel):
    """Pictures and tokens in, the language model's last hidden states out."""

    config_class = BeholderLlavaConfig
    config: BeholderLlavaConfig

    def __init__(self, config: BeholderLlavaConfig) -> None:
        super().__init__(config)
        tower, width = config.vision_config, config.text_config.hidden_size
        if config.projector_type != STANDARD:
            self.multi_modal_projector = build_projector(config.projector_type, tower.hidden_size, width)
        if config.has_newline:
            self.image_newline = nn.Parameter(torch.empty(width).normal_(std=width**-0.5))
        if tower.model_type == "internvl_vision":
            self.vision_tower.embeddings = Float32Positions(tower)
        self.post_init()

    def get_image_features(
        self, pixel_values: Tensor, image_sizes: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """`pooler_output` is a list with the (slots, width) of every picture.

        `pixel_values` is (pictures, 3, S, S), or (pictures, tiles, 3, S, S) where pictures are cut into
        tiles:
        then `image_sizes` (pictures, 2) has their heights and widths, and pictures with fewer tiles are
        filled
        up at the end. Tile 0 is the whole picture.
        """
        if pixel_values.ndim == 4:
            return self._features_of_views(pixel_values, kwargs)
        if image_sizes is None or len(image_sizes) != len(pixel_values):
            given = "none" if image_sizes is None else len(image_sizes)
            raise InputError(
                f"{len(pixel_values)} pictures are cut into tiles and {given} have an image size"
            )
        sizes = [(int(width), int(height)) for height, width in image_sizes.tolist()]
        grids = [tile_grid(size, self.config) for size in sizes]
        counts = [1 + columns * rows for columns, rows in grids]
        tiles = torch.cat([picture[:count] for picture, count in zip(pixel_values, counts, strict=True)])
        outputs: Any = self._features_of_views(tiles, kwargs)
        views = torch.stack(list(outputs.pooler_output)).split(counts)
        newline = getattr(self, "image_newline", None)
        outputs.pooler_output = [
            merge_tiles(of_picture, grid, size, self.config.patch_merge_type, newline)
            for of_picture, grid, size in zip(views, grids, sizes, strict=True)
        ]
        return outputs

    def _features_of_views(self, pixels: Tensor, asked: dict[str, Any]) -> Any:
        """transformers' features of (views, 3, S, S), except that layers above the selected one do not run,
        so `last_hidden_state` is the selected one's. What is asked beyond the features is left to it."""
        given = {name: value for name, value in asked.items() if value is not None and name != "return_dict"}
        layer = given.pop("vision_feature_layer", self.config.vision_feature_layer)
        select = given.pop("vision_feature_select_strategy", self.config.vision_feature_select_strategy)
        depth = tower_depth(self.vision_tower, layer)
        if given or asked.get("return_dict") is False or depth is None or select not in ("default", "full"):
            return super().get_image_features(pixels, **asked)
        hidden = run_tower(self.vision_tower, pixels, depth)
        patches = hidden[:, 1:] if select == "default" else hidden
        features = self.multi_modal_projector(patches)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=list(features))  # type: ignore[arg-type]

    def get_placeholder_mask(
        self, input_ids: Tensor, inputs_embeds: Tensor, image_features: Tensor
    ) -> Tensor:
        """Where pictures stand; an `InputError` with both counts if they do not fit."""
        if input_ids is None:
            return super().get_placeholder_mask(input_ids, inputs_embeds, image_features)
        is_slot = input_ids == self.config.image_token_id
        have, slots = image_features.numel() // inputs_embeds.shape[-1], is_slot.sum()
        if not torch.compiler.is_compiling() and int(slots) != have:
            raise InputError(
                f"the prompt reserves {int(slots)} picture positions and the pictures give {have}; "
                "prepare both with the same processor, and pass every picture once"
            )
        return is_slot.unsqueeze(-1).to(inputs_embeds.device)


class LlavaForConditionalGeneration(LlavaLoading, TheirLlava):
    """LLaVA with its language-model head."""

    config_class = BeholderLlavaConfig
    config: BeholderLlavaConfig
    parts_from_base = ("model.vision_tower.",)

    def __init__(self, config: BeholderLlavaConfig) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.model = LlavaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `LlavaModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        image_sizes: Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LlavaCausalLMOutputWithPast:
        """Logits of the last `logits_to_keep` positions (0: of all), and the loss if `labels` are given.

        The logits of the rows that only fill up the vocabulary are minus infinity.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            image_sizes=image_sizes,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        logits[..., self.config.used_rows :] = -torch.inf
        loss = None
        if labels is not None:
            rows = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=rows, **kwargs)
        return LlavaCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )
