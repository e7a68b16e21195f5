"""8 and 4 bits: which weights become narrow, and what that costs the built-in model and a recorded one."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from beholder import load
from beholder.checkpoints.loader import open_model
from beholder.checkpoints.narrow import quantization
from beholder.checkpoints.quantize import Cost, dense_parts, measure, parameter_bytes, quantized_parts
from beholder.core.errors import ConfigError
from beholder.core.types import Message
from beholder.families import family, identify_folder
from beholder.families.geometries import GEOMETRIES, geometry, published_config
from beholder.mini import FOLDER as MINI

LLAVA = Path(__file__).resolve().parents[1] / "golden" / "llava" / "llava" / "model"
# Mean divergence in nats and share of equal greedy tokens, with room for another CPU's roundings.
GATES = {
    ("mini", "8bit"): (0.001, 0.95),
    ("mini", "4bit"): (0.05, 0.9),
    ("golden", "8bit"): (0.01, 0.9),
    ("golden", "4bit"): (0.6, 0.6),
}


def installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


needs_torchao = pytest.mark.skipif(not installed("torchao"), reason="torchao is not installed")


@cache
def opened(name: str, quantize: str | None = None) -> Any:
    folder = MINI if name == "mini" else LLAVA
    return open_model(folder, identify_folder(folder), device="cpu", dtype="float32", quantize=quantize)


def prompts(name: str) -> list[dict[str, torch.Tensor]]:
    """What the measure is taken on: questions about drawn pictures, or recorded inputs."""
    if name == "mini":
        processor = family("qh360vl").processor_class().from_pretrained(MINI)
        shown = Image.new("RGB", (96, 96), "white")
        shown.paste((220, 30, 30), (20, 20, 60, 60))
        asked = ("What is in the picture?", "What colour is the square?")
        return [dict(processor.encode([Message.user(shown, question)])) for question in asked]
    from tests.parity.golden_llava import CASES, inputs_of

    found = [inputs_of("llava", case) for case in CASES["llava"]]
    return [one | {"attention_mask": torch.ones_like(one["input_ids"])} for one in found]


@needs_torchao
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "quantize"), GATES)
def test_what_it_costs(name, quantize, record_property):
    dense, narrow = opened(name), opened(name, quantize)
    cost = measure(dense, narrow, prompts(name), length=12)
    most, least = GATES[name, quantize]
    record_property("cost", str(cost))
    cost.confirm(most_divergence=most, least_agreement=least)
    assert cost.mean_divergence > 0
    assert cost.places == 12 * len(prompts(name))
    assert cost.bytes_quantized < cost.bytes_dense
    wanted = quantized_parts(dense, 4 if quantize == "4bit" else 8)
    stays = set(dict(dense.named_parameters())) - {f"{part}.weight" for part in wanted}
    kept = dict(narrow.named_parameters())
    for part in stays:
        assert torch.equal(kept[part], dense.get_parameter(part)), part
    weights = {part: narrow.get_submodule(part).weight.data for part in quantized_parts(dense)}
    assert [part for part, weight in weights.items() if type(weight) is not torch.Tensor] == wanted
    assert wanted


@needs_torchao
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("quantize", "most"), [("8bit", 0.02), ("4bit", 0.2)])
def test_every_part_of_a_fused_tensor_is_narrow(quantize, most):
    """CogVLM stores query, key and value as one."""
    folder = LLAVA.parents[2] / "cogvlm" / "model"
    dense, narrow = (
        open_model(folder, identify_folder(folder), device="cpu", dtype="float32", quantize=how)
        for how in (None, quantize)
    )
    torch.manual_seed(0)
    wanted = quantized_parts(dense, 4 if quantize == "4bit" else 8)
    assert {part.rpartition(".")[2] for part in wanted} >= {"q_proj", "k_proj", "v_proj", "o_proj"}
    for part in wanted:
        exact, near = dense.get_submodule(part), narrow.get_submodule(part)
        assert type(near.weight.data) is not torch.Tensor, part
        rows = torch.randn(8, exact.in_features)
        wide = exact(rows).detach()
        assert 0 < (near(rows) - wide).norm() / wide.norm() < most, part


@pytest.mark.parametrize("name", GEOMETRIES)
def test_only_linears_of_the_language_model_s_layers_are_narrow(name):
    size = geometry(name)
    of = family(size.family)
    config = of.config_from_published(published_config(size, layers=2), Path())
    with torch.device("meta"):
        model = of.model_class()(config)
    narrow = quantized_parts(model)
    per_layer = 14 if size.family == "cogvlm" else 7
    assert len(narrow) == 2 * per_layer
    assert all(".layers." in part and "vision_tower" not in part for part in narrow)
    assert "lm_head" in dense_parts(model)


def test_the_measure_sees_a_difference():
    dense = opened("golden")
    same = measure(dense, dense, prompts("golden")[:1], length=4)
    assert (same.mean_divergence, same.agreement) == (0.0, 1.0)
    assert same.bytes_dense == same.bytes_quantized == parameter_bytes(dense) > 0
    with pytest.raises(ConfigError, match="costs too much"):
        Cost(4, 0.5, 1.0, 0.5, 2, 1).confirm(most_divergence=0.1, least_agreement=0.9)


def test_names_that_mean_nothing():
    with pytest.raises(ConfigError, match="quantize is '3bit'; use 8bit or 4bit"):
        open_model(LLAVA, identify_folder(LLAVA), device="cpu", quantize="3bit")
    with pytest.raises(ConfigError, match="nothing of it can be quantised"):
        dense_parts(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("quantize", "told"),
    [
        (None, None),
        ("8bit", "torchao Int8WeightOnlyConfig"),
        ("4bit", "torchao PrototypeInt4WeightOnlyConfig"),
        ("int8", "int8, the head int8"),
        ("int4", "int4 in groups of 64, the head int8"),
    ],
)
def test_every_form_has_a_name_of_its_own(quantize, told):
    """Records and `/v1/models` tell by it how a model was opened."""
    with closing(load(quantize=quantize)) as vlm:
        assert quantization(vlm.model) == told
