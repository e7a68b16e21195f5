"""The engine's cached greedy answers are the original's, from opening the published folder on."""

from __future__ import annotations

import pytest
from tests.parity.golden_360vl import FOLDER, inputs_of, model_of, recorded

from beholder.checkpoints.loader import open_model
from beholder.core.types import Sampling
from beholder.families import identify_folder
from beholder.generation.engine import Engine


@pytest.mark.parametrize("case", ["cc", "turn2", "text", "sw", "sv"])
def test_greedy_ids(case):
    ids = list(Engine(model_of(case)).stream(inputs_of(case), Sampling(max_tokens=16), ()))
    assert ids == recorded()[f"{case}.generated"][0].tolist()


def test_it_stops_after_the_terminator():
    io = recorded()
    end = tuple(io["cc_stop.eos_token_id"].tolist())
    ids = list(Engine(model_of("cc")).stream(inputs_of("cc"), Sampling(max_tokens=16), end))
    assert ids == io["cc_stop.output_ids"][0, io["cc.input_ids"].shape[1] :].tolist()


def test_a_model_opened_from_its_folder():
    model = open_model(FOLDER, identify_folder(FOLDER), device="cpu")
    ids = list(Engine(model).stream(inputs_of("cc"), Sampling(max_tokens=16), ()))
    assert ids == recorded()["cc.generated"][0].tolist()
