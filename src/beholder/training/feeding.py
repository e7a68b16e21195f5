"""What stands between rows and the model: the processor as the recipe wants it, their order, the batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from beholder.core.errors import ConfigError
from beholder.training.collate import Collator, blank_sample
from beholder.training.data import Conversations
from beholder.training.packing import PackingCollator
from beholder.training.processes import world
from beholder.training.sampler import (
    EpochSampler,
    LengthGroupedSampler,
    ModalityLengthSampler,
    PictureGroupedSampler,
)
from beholder.training.stages import Recipe


def prepared(processor: Any, recipe: Recipe) -> Any:
    """The processor with the recipe's conversation template and way to make pictures square."""
    if recipe.template is not None:
        if hasattr(processor, "with_template"):
            processor = processor.with_template(recipe.template)
        else:
            raise ConfigError(
                f"recipe {recipe.name}: this model has one way to write conversations; leave template out"
            )
    if recipe.image_aspect is not None:
        views = processor.image_processor
        if hasattr(views, "aspect"):
            views.aspect = recipe.image_aspect
        elif (given := getattr(views, "aspect_ratio", None)) != recipe.image_aspect:
            raise ConfigError(
                f"recipe {recipe.name}: image_aspect is {recipe.image_aspect} and this model's pictures "
                f"are {given}; leave it out"
            )
    return processor


def padding_id(processor: Any, recipe: Recipe) -> int:
    """What fills up shorter rows."""
    found = getattr(processor, "padding_id", None)
    found = processor.tokenizer.pad_token_id if found is None else found
    if found is None:
        raise ConfigError(
            f"the tokenizer of {recipe.model} has no padding token; set pad_token in tokenizer_config.json"
        )
    return found


def limits_for(recipe: Recipe, processor: Any) -> Collator:
    """What pads rows to one length and holds them to the recipe's."""
    return Collator(
        padding_id(processor, recipe),
        recipe.pad_to_multiple,
        recipe.max_length,
        recipe.too_long,
        getattr(processor, "image_token_id", None),
        recipe.picture_length == "one",
        processor=processor,
    )


def collator_for(recipe: Recipe, processor: Any, model: Any) -> Any:
    """What makes a batch of samples."""
    rows = limits_for(recipe, processor)
    always_picture = recipe.always_picture or world() > 1
    if always_picture or recipe.too_long == "drop":
        rows = replace(rows, blank=blank_sample(processor), always_picture=always_picture)
    if not recipe.packing:
        return rows
    return PackingCollator(
        rows, getattr(model, "lay_out_prompt", None), recipe.attention == "eager", recipe.share_pictures,
        model.config.get_text_config().hidden_size,
    )  # fmt: skip


def sampler_for(recipe: Recipe, rows: Conversations) -> EpochSampler | None:
    """The order in which the recipe groups rows; None where they are just shuffled."""
    rule, seed = recipe.grouping, recipe.seed
    if rule == "none":
        return None
    if rule == "length":
        return LengthGroupedSampler(rows.lengths(), recipe.device_batch, seed)
    if rule == "picture":
        return PictureGroupedSampler(rows.shown(), recipe.device_batch, seed)
    # The original hands over all batches of a step in the one and those of a pass in the other.
    passes = recipe.accumulation(world()) if rule == "llava" else 1
    return ModalityLengthSampler(rows.words(), recipe.rows_at_once(world()), world() * passes, rule, seed)
