"""Recipes hold every published hyper-parameter; what a stage trains and takes is known without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from beholder.core.errors import ConfigError
from beholder.training.assemble import geometries, geometry, weightless
from beholder.training.estimates import count, told
from beholder.training.run import planned_model
from beholder.training.schedules import plateau_cosine
from beholder.training.sections import Adapters, Start
from beholder.training.stages import Recipe, Source, check_recipe, read_recipe

# The scripts of haotian-liu/LLaVA c121f04 (scripts/v1_5), OpenGVLab/InternVL 568dcb7 (internvl_chat_llava)
# and THUDM/CogVLM 8bd8be9 (finetune_demo), as they set them.
EVERY_LLAVA: dict[str, Any] = {
    "epochs": 1, "weight_decay": 0.0, "warmup_ratio": 0.03, "schedule": "cosine", "beta1": 0.9,
    "beta2": 0.999, "epsilon": 1e-8, "max_grad_norm": 0.0, "max_length": 2048, "precision": "bf16",
    "tf32": True, "gradient_checkpointing": True, "workers": 4, "log_every": 1, "seed": 42,
    "optimizer": "adamw",
}  # fmt: skip
ALIGN = EVERY_LLAVA | {
    "global_batch": 256, "device_batch": 32, "learning_rate": 1e-3, "template": "plain",
    "image_aspect": "square", "sharding": "zero2", "grouping": "none",
    "trainable": ("model.multi_modal_projector",),
}  # fmt: skip
TUNE = EVERY_LLAVA | {
    "global_batch": 128, "device_batch": 16, "learning_rate": 2e-5, "template": "vicuna_v1",
    "image_aspect": "pad", "sharding": "zero3",
    "trainable": ("model.multi_modal_projector", "model.language_model", "lm_head"),
}  # fmt: skip
COGVLM: dict[str, Any] = {
    "steps": 800, "global_batch": 64, "learning_rate": 1e-5, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8,
    "weight_decay": 0.05, "max_grad_norm": 0.1, "warmup_ratio": 0.02, "schedule": "plateau_cosine",
    "template": "base", "precision": "bf16", "seed": 2023, "gradient_checkpointing": True,
    "save_every": 200, "sharding": "zero2", "too_long": "drop",
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "llava-1.5/align": ALIGN | {"save_every": 24000, "keep": 1},
    "llava-1.5/tune": TUNE | {"save_every": 50000, "keep": 1, "grouping": "llava"},
    "llava-1.5/lora": TUNE | {
        "save_every": 50000, "keep": 1, "grouping": "llava", "learning_rate": 2e-4,
        "learning_rates": {"model.multi_modal_projector": 2e-5},
        "trainable": ("model.multi_modal_projector",),
    },
    "cogvlm/lora-224": COGVLM | {"max_length": 319, "device_batch": 32},
    "cogvlm/lora-490": COGVLM | {"max_length": 1288, "device_batch": 8},
}  # fmt: skip
for size in ("7b", "13b"):
    for kind in ("224to336", "448"):
        kept = {"save_every": 1000, "keep": 3, "picture_length": "one"}
        PUBLISHED[f"internvl-chat/{kind}-{size}/align"] = ALIGN | kept
        PUBLISHED[f"internvl-chat/{kind}-{size}/tune"] = TUNE | kept | {"grouping": "internvl"}

ADAPTERS: dict[str, dict[str, Any]] = {
    "llava-1.5/lora": {
        "rank": 128, "alpha": 256, "dropout": 0.05, "dora": False, "quantize": "none",
        "targets": {
            "model.language_model": (
                "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
            )
        },
    },
    "cogvlm/lora-490": {
        "rank": 10, "alpha": 1, "dropout": 0.0,
        "targets": {
            "model.language_model": tuple(f"language_expert.{part}_proj" for part in "qkvo"),
            "model.vision_tower": ("q_proj", "k_proj", "v_proj", "out_proj"),
        },
    },
}  # fmt: skip
TOWERS = {
    "llava-1.5/align": ("lmsys/vicuna-13b-v1.5", "openai/clip-vit-large-patch14-336", -2),
    "internvl-chat/224to336-7b/align": ("lmsys/vicuna-7b-v1.5", "OpenGVLab/InternViT-6B-224px", -4),
    "internvl-chat/224to336-13b/align": ("lmsys/vicuna-13b-v1.5", "OpenGVLab/InternViT-6B-224px", -4),
    "internvl-chat/448-7b/align": ("lmsys/vicuna-7b-v1.5", "OpenGVLab/InternViT-6B-448px", -4),
    "internvl-chat/448-13b/align": ("lmsys/vicuna-13b-v1.5", "OpenGVLab/InternViT-6B-448px", -4),
}
# utils of SwissArmyTransformer 0.4.11, recorded: rate at a step of 800 with 1e-5 and a warm-up of 0.02.
RATES = {
    0: 5.000000000000001e-07, 60: 5.000000000000001e-07, 99: 5.000000000000001e-07,
    100: 9.751627209100954e-06, 109: 9.696875604143924e-06, 200: 8.863787470881688e-06,
    400: 5.7649186164303514e-06, 420: 5.411648383927174e-06,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_hyper_parameters(name: str) -> None:
    recipe = read_recipe(name)
    assert {key: getattr(recipe, key) for key in PUBLISHED[name]} == PUBLISHED[name]
    recipe.accumulation(8 if name != "cogvlm/lora-224" else 2)  # that one splits a model over four devices


@pytest.mark.parametrize("name", ADAPTERS)
def test_published_adapters(name: str) -> None:
    lora = read_recipe(name).lora
    assert lora is not None
    assert {key: getattr(lora, key) for key in ADAPTERS[name]} == ADAPTERS[name]


@pytest.mark.parametrize("name", TOWERS)
def test_published_beginnings(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.start is not None
    config = geometry(recipe.start.geometry)[1]
    assert (recipe.start.language_model, recipe.start.vision_tower) == TOWERS[name][:2]
    assert config["mm_vision_tower"] == TOWERS[name][1]
    assert config["mm_vision_select_layer"] == TOWERS[name][2]
    assert config["mm_projector_type"] == "mlp2x_gelu"
    assert (config["mm_use_im_start_end"], config["mm_use_im_patch_token"]) == (False, False)


def test_360vl_says_that_its_numbers_are_not_its_authors() -> None:
    for stage in ("align", "tune"):
        recipe = read_recipe(f"360vl/{stage}")
        assert "published no numbers" in recipe.about
        assert not recipe.learning_rates  # its configuration tells of one rate


def test_the_rate_of_every_step_is_cogvlms() -> None:
    for step, rate in RATES.items():
        assert 1e-5 * plateau_cosine(step, 800, 0.02) == pytest.approx(rate, rel=1e-12)


def test_cogvlm_trains_the_published_number_of_parameters() -> None:
    recipe = read_recipe("cogvlm/lora-490")
    assert count(weightless("cogvlm-base-490"), recipe).trained == 515_123_968


def test_a_dry_run_needs_no_weights() -> None:
    recipe = read_recipe("llava-1.5/align", ["model=no/such-model"])
    plan = told(planned_model(recipe), recipe, 558128, 8)
    # 1024 x 5120 + 5120 and 5120 x 5120 + 5120 of the projector
    assert f"trains {1024 * 5120 + 5120 + 5120 * 5120 + 5120:,} of" in plan
    assert "GiB" in plan
    assert "time about" in plan


def test_without_model_and_geometry_there_is_no_plan() -> None:
    recipe = read_recipe("llava-1.5/tune", ["geometry=null", "model=/no/such/folder"])
    with pytest.raises(OSError, match="names no geometry"):
        planned_model(recipe)


def test_geometries_are_families_configurations() -> None:
    for name in geometries():
        family, config = geometry(name)
        assert family.config_from_published(config, Path()).text_config.hidden_size == config["hidden_size"]


def test_a_star_stands_for_one_step_of_a_name() -> None:
    from beholder.training.sections import begins

    assert begins("layers.10.mlp.vision_expert.up.weight", ("layers.*.mlp.vision_expert",))
    assert not begins("layers.10.mlp.language_expert.up.weight", ("layers.*.mlp.vision_expert",))
    assert not begins("layers.10.x.mlp.vision_expert", ("layers.*.mlp",))
    assert not begins("layersX10", ("layers.",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainable": []}, "nothing is trained"),
        ({"packing": True, "attention": "flash_attention_2"}, "packing needs"),
        ({"share_pictures": True}, "set packing: true"),
        ({"data": [{"rows": "a", "pictures": "a", "form": "folder"}]}, "give its prompt"),
    ],
)
def test_recipes_that_contradict_themselves(changes: dict[str, Any], said: str) -> None:
    values = read_recipe("mini/align").model_dump() | changes
    with pytest.raises(ConfigError, match=said):
        check_recipe(values, "test")


@pytest.mark.parametrize(
    "override",
    ["name.inside=1", "data.first.pictures=a", "data.7.pictures=a", "lora=[q_proj", "data=[{rows: a"],
)
def test_overrides_without_a_place_or_a_value(override: str) -> None:
    with pytest.raises(ConfigError, match=r"^(the value of )?override "):
        read_recipe("mini/align", [override])


@pytest.mark.parametrize("text", ["", "- name: mine\n", "mine\n"])
def test_a_file_without_settings(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="holds no settings"):
        read_recipe(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("part", [Recipe, Source, Adapters, Start])
def test_every_key_says_what_it_is(part: type[BaseModel]) -> None:
    assert not [name for name, field in part.model_fields.items() if not field.description]
