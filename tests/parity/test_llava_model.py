"""LLaVA and InternVL-Chat compute what the originals computed: features, embeddings, logits, tokens."""

from __future__ import annotations

import pytest
import torch
from tests.parity.golden_llava import (
    CASES,
    FOLDER,
    ROWS,
    close,
    expand,
    inputs_of,
    model_of,
    recorded,
    told,
)

from beholder.core.errors import ConfigError, InputError
from beholder.families.llava.config import BeholderLlavaConfig
from beholder.families.llava.layout import padded, published
from beholder.families.llava.modeling import LlavaForConditionalGeneration
from beholder.families.llava.projector import build_projector, check_name

KINDS = ("llava", "internvl")
ALL = [(kind, case) for kind in KINDS for case in CASES[kind]]
SHOWN = [(kind, case) for kind, case in ALL if case != "text_only"]


def merged(kind: str, case: str) -> torch.Tensor:
    """What enters the language model."""
    model, seen = model_of(kind), []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs_of(kind, case))
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(("kind", "case"), SHOWN)
def test_features(kind, case):
    model, io = model_of(kind), recorded(kind)
    with torch.no_grad():
        found = model.get_image_features(io[f"{case}.pixel_values"])
    close(torch.stack(list(found.pooler_output)), io[f"{case}.projected_features"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_hidden_state_of_the_tower(kind):
    model, io = model_of(kind), recorded(kind)
    with torch.no_grad():
        states = model.model.vision_tower(
            io["one_image.pixel_values"], output_hidden_states=True
        ).hidden_states
    theirs = io["one_image.vision_hidden_states"]
    assert len(states) == len(theirs)
    for ours, wanted in zip(states, theirs, strict=True):
        close(ours, wanted)


@pytest.mark.parametrize(("kind", "case"), ALL)
def test_merged_embeddings(kind, case):
    close(merged(kind, case), recorded(kind)[f"{case}.inputs_embeds"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("kind", "case"), ALL)
def test_logits(kind, case, attention):
    with torch.no_grad():
        logits = model_of(kind, attention)(**inputs_of(kind, case)).logits
    close(logits[:, -1, :ROWS], recorded(kind)[f"{case}.last_logits"])
    if f"{case}.logits" in recorded(kind):
        close(logits[..., :ROWS], recorded(kind)[f"{case}.logits"])
    assert bool((logits[..., ROWS:] == -torch.inf).all()), (
        "rows that fill up the vocabulary are never generated"
    )


@pytest.mark.parametrize(("kind", "case"), ALL)
def test_greedy_tokens(kind, case):
    inputs = inputs_of(kind, case)
    mask = torch.ones_like(inputs["input_ids"])
    ids = model_of(kind).generate(
        **inputs,
        attention_mask=mask,
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        max_length=None,
    )
    assert torch.equal(ids[:, mask.shape[1] :], recorded(kind)[f"{case}.generated"])


@pytest.mark.parametrize(
    ("layer", "feature", "strategy"),
    [("-1", "patch", "default"), ("1", "patch", "default"), ("-2", "cls_patch", "full")],
)
def test_other_layers_and_features(layer, feature, strategy):
    model, io = model_of("llava"), recorded("llava")
    projector = model.model.multi_modal_projector
    seen = []
    hook = projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.get_image_features(
            io["one_image.pixel_values"],
            vision_feature_layer=int(layer),
            vision_feature_select_strategy=strategy,
        )
    hook.remove()
    close(seen[0], io[f"select.layer{layer}.{feature}"])


def training_rows(kind: str) -> dict[str, torch.Tensor]:
    """The recorded training batch as our model takes it: the second row has no picture."""
    io = recorded(kind)
    labels, mask = io["train_batch.merged.labels"], io["train_batch.merged.attention_mask"]
    width = labels.shape[1]
    features = width - io["train_batch.input_ids"].shape[1] + 1
    rows = [expand(row, features)[0] for row in io["train_batch.input_ids"]]
    ids = torch.stack([torch.nn.functional.pad(row, (0, width - len(row)))[:width] for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "pixel_values": io["train_batch.pixel_values"][:1],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients(kind):
    model, io = model_of(kind), recorded(kind)
    model.zero_grad()
    model.model.vision_tower.requires_grad_(False)
    out = model(**training_rows(kind))
    close(out.loss, io["train_batch.loss"])
    kept = training_rows(kind)["attention_mask"].bool()[:, ::8]
    close(out.logits[:, ::8, :ROWS][kept], io["train_batch.logits_every_8th_position"][kept])
    out.loss.backward()
    norms = told(f"{kind}/grad_norms.json")["grad_l2_norm"]

    table, filled = published(model.config), padded(model.config)
    compared = 0
    for name, parameter in model.named_parameters():
        wanted = norms.get(table.theirs(name))
        if parameter.grad is None or not isinstance(wanted, float):
            continue
        gradient = parameter.grad[: filled[name]] if name in filled else parameter.grad
        close(gradient.norm(), torch.tensor(wanted), 1e-5 * max(1.0, wanted))
        compared += 1
    assert compared == len([name for name, norm in norms.items() if isinstance(norm, float)])
    for part, parameter in (("0", "linear_1"), ("2", "linear_2")):
        for kind_of in ("weight", "bias"):
            key = f"train_batch.projector_grad.{part}.{kind_of}"
            if key in io:
                close(getattr(getattr(model.model.multi_modal_projector, parameter), kind_of).grad, io[key])
    model.zero_grad()


def test_left_padded_rows_answer_as_single_ones():
    io = recorded("llava")
    model = model_of("llava")
    cases = ("one_image", "image_last")
    rows = [inputs_of("llava", case)["input_ids"][0] for case in cases]
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(row), (width - len(row), 0)) for row in rows])
    pixels = torch.cat([io[f"{case}.pixel_values"] for case in cases])
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, pixel_values=pixels, position_ids=positions).logits
    for row, case in enumerate(cases):
        close(logits[row : row + 1, -1, :ROWS], io[f"{case}.last_logits"], 3e-5)


def anyres_model(merge: str) -> LlavaForConditionalGeneration:
    """The golden model as one that cuts pictures into tiles."""
    config = model_of("llava").config.to_dict() | {
        "image_aspect_ratio": "anyres",
        "patch_merge_type": merge,
        "image_grid_pinpoints": told("llava/cases.json")["anyres"]["image_grid_pinpoints"],
        "has_newline": merge == "spatial_unpad",
    }
    model = LlavaForConditionalGeneration(BeholderLlavaConfig.from_dict(config)).eval()
    state = dict(model_of("llava").state_dict())
    if merge == "spatial_unpad":
        state["model.image_newline"] = recorded("llava")["anyres.image_newline"]
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("merge", ["flat", "spatial", "spatial_unpad"])
def test_tiles_are_merged_as_in_the_original(merge):
    from beholder.families.llava.tiles import slots_of

    io, model = recorded("llava"), anyres_model(merge)
    tiles = [io["anyres.image0.pixel_values"], io["anyres.image1.pixel_values"]]
    pixels = torch.zeros((2, 4, *tiles[0].shape[1:]))
    for row, picture in zip(pixels, tiles, strict=True):
        row[: len(picture)] = picture
    sizes = told("llava/cases.json")["anyres"]["image_sizes_wh"]
    with torch.no_grad():
        found = model.get_image_features(pixels, image_sizes=torch.tensor([size[::-1] for size in sizes]))
    blocks = iter(found.pooler_output)
    assert [len(block) for block in found.pooler_output] == [slots_of(tuple(s), model.config) for s in sizes]
    words = model.get_input_embeddings()
    row = [
        next(blocks) if token == -200 else words(torch.tensor([token]))
        for token in io["anyres.input_ids"][0].tolist()
    ]
    merged_row = torch.cat(row)[None]
    if merge == "spatial_unpad":
        close(merged_row, io["anyres.spatial_unpad.inputs_embeds"])
    else:
        close(merged_row.norm(dim=-1)[0], io[f"anyres.{merge}.inputs_embeds_row_norms"])


@pytest.mark.parametrize("kind", KINDS)
def test_projectors(kind):
    from safetensors.torch import load_file

    stored = load_file(FOLDER / "projectors" / f"{kind}.safetensors")
    names = {key.split(".")[0] for key in stored}
    for name in names:
        projector = build_projector(name, 12, 20)
        prefix = f"{name}.weights."
        projector.load_state_dict(
            {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
        )
        with torch.no_grad():
            close(projector(stored[f"{name}.input"]), stored[f"{name}.output"])


def test_names_of_projectors():
    for kind in KINDS:
        for name, said in told(f"projectors/{kind}.json")["name_acceptance"].items():
            if said == "Sequential":
                assert check_name(name) == 2
    for name in ("mlpx_gelu", "mlp2x_relu", "conv", "two_mlp", "mlp0x_gelu"):
        with pytest.raises(ConfigError, match=f"the projector '{name}' is unknown"):
            check_name(name)


def test_pictures_and_places_must_agree():
    inputs = inputs_of("llava", "one_image")
    with pytest.raises(InputError, match="reserves 16 picture positions and the pictures give 32"):
        model_of("llava")(inputs["input_ids"], pixel_values=inputs["pixel_values"].repeat(2, 1, 1, 1))
