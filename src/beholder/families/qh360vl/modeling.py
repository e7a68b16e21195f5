"""360VL: CLIP sees five views, a C-Abstractor reads the stitched corners, another the whole; Llama answers.

Follows qh360_vl/model (360CVGroup/360VL, ad6a11c). Tower and language model are transformers'; the
projector is `projector.py`. Nothing here knows of tokenizers or files.
Shape letters: P pictures, V views, L patches of a view (s * s of them), C tower width, H language width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast, LlavaModelOutputWithPast
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import torch_compilable_check

from beholder.checkpoints.strict import StrictLoading
from beholder.core.errors import InputError
from beholder.families.qh360vl.compatibility import QuickStart
from beholder.families.qh360vl.config import QH360VLConfig
from beholder.families.qh360vl.layout import PUBLISHED
from beholder.families.qh360vl.projector import CAbstractor, square_side
from beholder.families.qh360vl.tower import fill_from_base

CORNERS = 4


def stitch(corners_PVLC: Tensor) -> Tensor:
    """Put the four corners of a picture side by side: (P, 4, L, C) -> (P, 4L, C), row-major over (2s, 2s)."""
    P, _, L, C = corners_PVLC.shape
    s = square_side(L, "the number of patches of a view")
    grid = corners_PVLC.reshape(P, 2, 2, s, s, C)  # block row, block column, row, column
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(P, 4 * L, C)


class QH360VLPreTrainedModel(StrictLoading, PreTrainedModel):
    """What transformers needs to know about the family."""

    published_keys = PUBLISHED

    config_class = QH360VLConfig
    config: QH360VLConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = [  # noqa: RUF012
        "LlamaDecoderLayer",
        "CLIPEncoderLayer",
        "CLIPVisionEmbeddings",
        "CAbstractor",
    ]
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CAbstractor):
            module.reset_parameters()

    def fill_missing(self, missing: set[str]) -> set[str]:
        """A checkpoint without any tensor of the tower takes it from the base tower."""
        base = cast("QH360VLModel", self.base_model)
        prefix = "vision_tower." if base is self else f"{self.base_model_prefix}.vision_tower."
        tower = {prefix + name for name in base.vision_tower.state_dict()}
        if not tower <= missing:
            return set()
        fill_from_base(base.vision_tower, self.config.base_vision_tower, self.config.name_or_path)
        return tower


class QH360VLModel(QH360VLPreTrainedModel):
    """Pictures and tokens in, the language model's last hidden states out."""

    _keys_to_ignore_on_load_unexpected = {r"^lm_head\."}  # noqa: RUF012

    def __init__(self, config: QH360VLConfig) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        self.vision_tower = AutoModel.from_config(config.vision_config)
        if config.views != "single":
            self.corner_abstractor = CAbstractor(config.projector_config, width)
            self.whole_abstractor = CAbstractor(config.projector_config, width)
        if config.views != "corners":
            self.single_abstractor = CAbstractor(config.projector_config, width)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def see(self, pixels: Tensor) -> Tensor:
        """(views, 3, S, S) pixels -> (views, L, C) features; layers above the selected one do not run."""
        tower = self.vision_tower
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in tower.encoder.layers[: self.config.tower_depth]:
            hidden = layer(hidden, None)
        return hidden[:, 1:]  # row 0 is the class token

    def patch_maps(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """(P, 5, 3, S, S) -> what the projectors read: stitched corners (P, 4L, C), whole (P, L, C)."""
        views_PVLC = self.see(pixel_values.flatten(0, 1)).unflatten(0, (len(pixel_values), CORNERS + 1))
        return stitch(views_PVLC[:, :CORNERS]), views_PVLC[:, CORNERS]

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """(P, 5, 3, S, S) or, of one view, (P, 3, S, S) -> `pooler_output` (P, slots, H), corners first."""
        self._check_pixels(pixel_values)
        pictures = len(pixel_values)
        is_single = pixel_values.ndim == 4
        patches = self.see(pixel_values if is_single else pixel_values.flatten(0, 1))
        projector = self.single_abstractor if is_single else self.corner_abstractor
        # A tower that was moved to another precision on its own still meets the projectors in theirs.
        features = patches.to(projector.dtype)
        if is_single:
            slots = self.single_abstractor(features)
        else:
            slots = self._project_views(features.unflatten(0, (pictures, CORNERS + 1)))
        return BaseModelOutputWithPooling(last_hidden_state=patches, pooler_output=slots)

    def _project_views(self, views_PVLC: Tensor) -> Tensor:
        corners, whole = views_PVLC[:, :CORNERS], views_PVLC[:, CORNERS]
        if self.config.views == "corners":
            local = self.corner_abstractor(stitch(corners))
        else:
            local = self.corner_abstractor(corners.flatten(0, 1)).unflatten(0, (-1, CORNERS)).flatten(1, 2)
        return torch.cat([local, self.whole_abstractor(whole)], dim=1)

    def _check_pixels(self, pixels: Tensor) -> None:
        side, plan = self.config.vision_config.image_size, self.config.views
        single, five = (3, side, side), (CORNERS + 1, 3, side, side)
        shapes = {"corners": [five], "separate": [five, single], "single": [single]}[plan]
        if tuple(pixels.shape[1:]) not in shapes:
            wanted = " or ".join(f"(pictures, {', '.join(map(str, shape))})" for shape in shapes)
            raise InputError(
                f"pixel_values has shape {tuple(pixels.shape)}; the view plan {plan!r} takes {wanted}"
            )

    def embed(self, input_ids: Tensor, features: Tensor | None) -> Tensor:
        """Token embeddings with the placeholders overwritten, in order, by the rows of `features`."""
        if features is None:
            return self.get_input_embeddings()(input_ids)
        is_slot = input_ids == self.config.image_token_id
        # The placeholder's own row is never read: its id may lie outside the vocabulary.
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(is_slot, 0))
        rows = features.flatten(0, -2)
        check_slots(is_slot, len(rows))
        if rows.shape[-1] != embeddings.shape[-1]:
            raise InputError(
                f"the pictures' features are {rows.shape[-1]} wide and the language model "
                f"{embeddings.shape[-1]}; they come from another model"
            )
        return embeddings.masked_scatter(is_slot.unsqueeze(-1), rows.to(embeddings.device, embeddings.dtype))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> LlavaModelOutputWithPast:
        """`mm_encoder_outputs["image"]` may hold the result of an earlier `get_image_features`."""
        features = self._features(pixel_values, mm_encoder_outputs)
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give either input_ids or inputs_embeds, not both and not neither")
        if inputs_embeds is None:
            input_ids = cast("Tensor", input_ids)
            if features is None and is_prompt(input_ids, past_key_values):
                check_slots(input_ids == self.config.image_token_id, 0)
            inputs_embeds = self.embed(input_ids, features)
        elif features is not None:
            raise InputError("pictures need input_ids, where their places are marked; inputs_embeds has none")
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        return LlavaModelOutputWithPast(**outputs, image_hidden_states=features)

    def _features(
        self, pixels: Tensor | None, encoded: dict[str, BaseModelOutputWithPooling] | None
    ) -> Tensor | None:
        if encoded is None or encoded.get("image") is None:
            return None if pixels is None else self.get_image_features(pixels).pooler_output
        if pixels is not None:
            raise InputError("give either pixel_values or mm_encoder_outputs, not both")
        features = encoded["image"].pooler_output
        return features if isinstance(features, Tensor) else torch.cat(tuple(features or ()))


def is_prompt(input_ids: Tensor, past: Cache | None) -> bool:
    """Whether pictures may be marked here: later on they are in the cache. The length decides most calls."""
    return input_ids.shape[1] > 1 and (past is None or bool(past.get_seq_length() == 0))


def check_slots(is_slot: Tensor, have: int) -> None:
    """The prompt must reserve exactly as many positions as there are picture features."""
    torch_compilable_check(
        is_slot.sum() == have,
        lambda: (
            f"the prompt reserves {int(is_slot.sum())} picture positions and the pictures give {have}; "
            "prepare both with the same processor, and pass every picture once"
        ),
        InputError,
    )


class QH360VLForConditionalGeneration(QuickStart, QH360VLPreTrainedModel, GenerationMixin):
    """360VL with its language-model head; `QuickStart` adds the names of the published quick start."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012
    parts_from_base = ("model.vision_tower.",)

    def __init__(self, config: QH360VLConfig) -> None:
        super().__init__(config)
        self.model = QH360VLModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `QH360VLModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers, but an assistant that drafts for another model is shown the pictures too.

        transformers calls none of its steps the first; its empty cache tells.
        """
        if past_key_values is not None and next_sequence_length != 1 and kwargs.get("inputs_embeds") is None:
            is_first_iteration = is_first_iteration or is_prompt(input_ids, past_key_values)
        prepare = cast("Any", super()).prepare_inputs_for_generation
        return prepare(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> LlavaCausalLMOutputWithPast:
        """Logits of the last `logits_to_keep` positions (0: of all), and the loss if `labels` are given."""
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return LlavaCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )
