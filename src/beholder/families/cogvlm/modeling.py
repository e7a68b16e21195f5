"""CogVLM: EVA2-CLIP sees, an adapter translates, and a decoder with two experts per layer answers.

Follows models/cogvlm_model.py (THUDM/CogVLM, 8bd8be9). Nothing here knows of tokenizers or files.
Shape letters: P pictures, B batch, S sequence, L patches of a picture, C tower width, H language width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast, LlavaModelOutputWithPast
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import torch_compilable_check

from beholder.checkpoints.assembled import AssembledLoading
from beholder.checkpoints.strict import StrictLoading
from beholder.core.errors import InputError
from beholder.families.cogvlm.compatibility import QuickStart, flat_images
from beholder.families.cogvlm.config import CogVLMConfig
from beholder.families.cogvlm.decoder import CogVLMTextModel
from beholder.families.cogvlm.layout import PUBLISHED
from beholder.families.cogvlm.routing import VISION, rotary_positions, vision_experts
from beholder.families.cogvlm.tower import CogVLMProjector, CogVLMVisionTower

if TYPE_CHECKING:
    from pathlib import Path

    from beholder.checkpoints.planning import Plan
    from beholder.checkpoints.reader import Contents

# Tables that old versions of transformers stored; they follow from the configuration.
STORED_TABLES = r"self_attn\.rotary_emb\.inv_freq$"


def _is_shared(kwargs: dict[str, Any]) -> bool:
    """Whether `from_pretrained` is asked to divide layers among processes."""
    return kwargs.get("tp_plan") is not None or kwargs.get("distributed_config") is not None


class CogVLMPreTrainedModel(AssembledLoading, PreTrainedModel):
    """What transformers needs to know about the family."""

    published_keys = PUBLISHED

    @classmethod
    def family_of(cls, config: Any) -> Any:
        """CogVLM."""
        from beholder.families import family

        return family("cogvlm")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in `StrictLoading`; where processes share layers, as in `AssembledLoading`: transformers cuts
        a tensor into their shares before it divides it, which mixes up queries, keys and values.
        """
        if _is_shared(kwargs):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        strict = cast("Any", StrictLoading.from_pretrained)
        return strict.__func__(cls, pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_checked(cls, folder: Path, wanted: Plan, contents: Contents, *args: Any, **kwargs: Any) -> Any:
        """As in `from_pretrained`: unless processes share layers, transformers reads the files itself."""
        if _is_shared(kwargs):
            return super().from_checked(folder, wanted, contents, *args, **kwargs)
        return cls.from_pretrained(folder, *args, **kwargs)

    config_class = CogVLMConfig
    config: CogVLMConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["CogVLMDecoderLayer", "CogVLMVisionLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = {STORED_TABLES}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CogVLMProjector):
            for marker in (module.begin, module.end):
                nn.init.normal_(marker, std=self.config.initializer_range)


class CogVLMModel(CogVLMPreTrainedModel):
    """Pictures and tokens in, the decoder's last hidden states out."""

    _keys_to_ignore_on_load_unexpected = {r"^lm_head\.", STORED_TABLES}  # noqa: RUF012

    def __init__(self, config: CogVLMConfig) -> None:
        super().__init__(config)
        self.vision_tower = CogVLMVisionTower(config.vision_config)
        self.multi_modal_projector = CogVLMProjector(config)
        self.language_model = CogVLMTextModel(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.embed_tokens = cast("nn.Embedding", value)

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """(P, 3, S, S) -> `last_hidden_state` (P, L, C) patches, `pooler_output` (P, L + 2, H) slots."""
        side = self.config.vision_config.image_size
        channels = self.config.vision_config.num_channels
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (channels, side, side):
            raise InputError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; "
                f"this model takes (pictures, {channels}, {side}, {side})"
            )
        patches = self.vision_tower(pixel_values)
        # A tower that was moved to another precision on its own still meets the adapter in its own.
        slots = self.multi_modal_projector(patches.to(self.multi_modal_projector.enter.weight.dtype))
        return BaseModelOutputWithPooling(last_hidden_state=patches, pooler_output=slots)

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None, features: Tensor | None) -> Tensor:
        """Token embeddings with the slots, in order, overwritten by the rows of `features`."""
        embeddings = self.get_input_embeddings()(input_ids)
        if features is None:
            return embeddings
        if token_type_ids is None:
            raise InputError("pictures need token_type_ids, where 1 marks their slots and 0 everything else")
        is_slot = token_type_ids == VISION
        rows = features.flatten(0, -2)
        check_slots(is_slot, len(rows))
        return embeddings.masked_scatter(is_slot.unsqueeze(-1), rows.to(embeddings.device, embeddings.dtype))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        vision_expert_mask: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> LlavaModelOutputWithPast:
        """`token_type_ids` (B, S) marks picture slots with 1; experts and positions follow from it.

        Where a prompt comes in chunks that cut a picture, pass `vision_expert_mask` and `position_ids` of the
        whole prompt's (see `routing.py`), cut alike. Where `past_key_values` holds the pictures already and
        these tokens have no slot, pictures are not looked at again.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give either input_ids or inputs_embeds, not both and not neither")
        tokens = cast("Tensor", input_ids if inputs_embeds is None else inputs_embeds)
        past = past_length(past_key_values)
        is_step = past is not None and tokens.shape[1] == 1
        has_slots = token_type_ids is not None and not is_step and bool((token_type_ids == VISION).any())
        if past is not None and not has_slots:
            pixel_values = mm_encoder_outputs = None
        features = self._features(pixel_values, mm_encoder_outputs)
        if inputs_embeds is None:
            if features is None and has_slots:
                check_slots(cast("Tensor", token_type_ids) == VISION, 0)
            inputs_embeds = self.embed(cast("Tensor", input_ids), token_type_ids, features)
        elif features is not None:
            raise InputError("pictures need input_ids, where their slots are; inputs_embeds has none")
        if vision_expert_mask is None and has_slots:
            vision_expert_mask = vision_experts(cast("Tensor", token_type_ids))
        if position_ids is None:
            types = token_type_ids if has_slots else None
            position_ids = positions_of(inputs_embeds, types, attention_mask, past_key_values)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            vision_expert_mask=vision_expert_mask,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        remember_positions(outputs.past_key_values, past or 0, position_ids)
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


def past_length(past: Cache | None) -> Any:
    """How many positions are in the cache; None where there is no cache or nothing in it."""
    length = 0 if past is None else past.get_seq_length()
    return length if length else None


def positions_of(
    embeddings: Tensor, token_types: Tensor | None, attention_mask: Tensor | None, past: Cache | None
) -> Tensor:
    """(B, S) rotary positions of the tokens at hand, counting on from those in the cache."""
    batch, length = embeddings.shape[:2]
    before = past_length(past)
    if token_types is None:
        token_types = torch.zeros((batch, length), dtype=torch.long, device=embeddings.device)
    if before is None:
        is_plain = attention_mask is None or attention_mask.ndim != 2
        return rotary_positions(token_types, None if is_plain else attention_mask)
    if (saved := getattr(past, "saved_positions", None)) is None:
        raise InputError(
            "past_key_values was not filled by this model, so positions cannot be told; give position_ids"
        )
    return (before - saved).to(embeddings.device) + rotary_positions(token_types)


def remember_positions(cache: Cache | None, before: Any, position_ids: Tensor) -> None:
    """Note in the cache how many positions patches saved by sharing one: (B, 1)."""
    if cache is not None:
        seen = before + position_ids.shape[1]
        cache.saved_positions = seen - 1 - position_ids[:, -1:]  # type: ignore[attr-defined]


def check_slots(is_slot: Tensor, have: int) -> None:
    """The prompt must reserve exactly as many positions as there are picture features."""
    torch_compilable_check(
        is_slot.sum() == have,
        lambda: (
            f"token_type_ids marks {int(is_slot.sum())} picture positions and the pictures give {have}; "
            "prepare both with the same processor, and pass every picture once"
        ),
        InputError,
    )


class CogVLMForConditionalGeneration(QuickStart, CogVLMPreTrainedModel, GenerationMixin):
    """CogVLM with its head; `QuickStart` adds the methods of the published quick start."""

    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012

    def __init__(self, config: CogVLMConfig) -> None:
        super().__init__(config)
        self.model = CogVLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `CogVLMModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        vision_expert_mask: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        images: Sequence[Sequence[Tensor]] | None = None,
        **kwargs: Any,
    ) -> LlavaCausalLMOutputWithPast:
        """Logits of the last `logits_to_keep` positions (0: of all), and the loss if `labels` are given.

        `images` is the published name of `pixel_values`: for every row a list of (3, S, S) pictures.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values if images is None else flat_images(images, input_ids, pixel_values),
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            vision_expert_mask=vision_expert_mask,
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

    def lay_out_prompt(self, input_ids: Tensor, **per_token: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of a whole prompt (1, S): where its slots are, and the tensors that any part of it is run with."""
        types = per_token.pop("token_type_ids", torch.zeros_like(input_ids))
        is_slot = types == VISION
        layout = {"position_ids": rotary_positions(types), **per_token}
        if bool(is_slot.any()):
            layout["vision_expert_mask"] = vision_experts(types)
        return is_slot, layout

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in transformers; the experts of the whole prompt are cut to the tokens at hand.

        transformers gives a new token the type of the last one, which is wrong after a prompt that ends
        with a picture: what comes after the prompt is language.
        """
        experts = kwargs.pop("vision_expert_mask", None)
        if experts is not None and (types := kwargs.get("token_type_ids")) is not None:
            kwargs["token_type_ids"] = cut(types[:, : experts.shape[1]], 0, types.shape[1])
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]
        if experts is not None:
            tokens = inputs.get("inputs_embeds")
            length = (inputs["input_ids"] if tokens is None else tokens).shape[1]
            begin = past_length(inputs.get("past_key_values")) or 0
            if begin < experts.shape[1]:  # the answer is language, and asks nothing
                inputs["vision_expert_mask"] = cut(experts, begin, length)
        return inputs


def cut(experts_BS: Tensor, begin: int, length: int) -> Tensor:
    """Columns `begin` to `begin + length`; what lies beyond the prompt is language."""
    beyond = max(0, begin + length - experts_BS.shape[1])
    return nn.functional.pad(experts_BS, (0, beyond))[:, begin : begin + length]
