"""What a prompt's rows carry to vLLM beside their embeddings, and what its model with experts reads of it."""

from __future__ import annotations

import json

import pytest
import torch
from tests.structure.repository import ROOT

from beholder.core.errors import ConfigError
from beholder.families.cogvlm.config import CogVLMTextConfig
from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration
from beholder.families.cogvlm.rotary import rotary_tables, rotate
from beholder.generation.prompt import read_prompt
from beholder.serving.vllm.folder import write_folder
from beholder.serving.vllm.marks import marked_width, with_marks, without_marks

GOLDEN = ROOT / "tests" / "golden" / "cogvlm" / "model"
SLOTS = 18  # of the golden model's picture


@pytest.fixture(scope="module")
def model():
    return CogVLMForConditionalGeneration.from_pretrained(GOLDEN, dtype=torch.float32)


def prompt_of(model, *, pictures: int = 1, words: int = 5):
    ids = torch.arange(10, 11 + words + pictures * SLOTS)[None]
    types = torch.zeros_like(ids)
    types[:, 1 : 1 + pictures * SLOTS] = 1
    shown = {"pixel_values": torch.zeros(pictures, 3, 56, 56)} if pictures else {}
    return read_prompt(model, {"input_ids": ids, "token_type_ids": types, **shown}, digests=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_come_back_as_they_went(model, dtype):
    prompt = prompt_of(model)
    embeddings = torch.randn(prompt.length, 64).to(dtype)
    rows = with_marks(embeddings, prompt, 4)
    assert rows.shape == (prompt.length, marked_width(64, 4))
    again, is_vision, shifts = without_marks(rows, 64)
    assert torch.equal(again, embeddings)
    assert torch.equal(is_vision, prompt.per_token["vision_expert_mask"][0].bool())
    assert is_vision.sum() == SLOTS - 1  # the end marker is language
    # Wherever a row stands for vLLM, it is as far from every other as in the original.
    moved = torch.arange(prompt.length) + shifts
    original = torch.tensor([prompt.position(place) for place in range(prompt.length)])
    assert torch.equal(moved - moved[-1], original - original[-1])
    assert moved[-1] == prompt.length - 1
    assert (shifts >= 0).all()


def test_large_shifts_are_exact_in_every_format(model):
    class Long:
        length, per_token = 1300, {}

        def position(self, place: int) -> int:
            return min(place, 2) if place < 1290 else place - 1287

    for dtype in (torch.bfloat16, torch.float16):
        rows = with_marks(torch.zeros(1300, 8, dtype=dtype), Long(), 2)  # type: ignore[arg-type]
        shifts = without_marks(rows, 8)[2]
        assert shifts.tolist() == [Long().position(place) - place + 1287 for place in range(1300)]


def test_a_prompt_without_a_picture_has_no_marks(model):
    prompt = prompt_of(model, pictures=0)
    rows = with_marks(torch.randn(prompt.length, 64), prompt, 4)
    assert not rows[:, 64:].any()


def test_positions_count_by_their_differences():
    """What the shift rests on: scores of queries and keys that are moved together are the same."""
    states = torch.randn(1, 1, 6, 16, dtype=torch.float64)
    places = torch.tensor([[0, 1, 2, 2, 2, 3]])

    def scores(positions: torch.Tensor) -> torch.Tensor:
        tables = (table.double()[:, None] for table in rotary_tables(positions, 16, 10000.0, "float32"))
        turned = rotate(states, *tables)
        return turned @ turned.transpose(-1, -2)

    torch.testing.assert_close(scores(places), scores(places + 1200), rtol=0, atol=2e-3)


def test_the_folder_says_how_wide_a_row_is(tmp_path, model):
    config = model.config.get_text_config()
    told = json.loads((write_folder(tmp_path / "model", GOLDEN, config, 512) / "config.json").read_text())
    assert told["architectures"] == ["BeholderExperts"]
    assert (told["model_type"], told["embedding_width"], told["hidden_size"]) == ("llama", 64, 68)
    assert (told["head_dim"], told["num_key_value_heads"], told["vocab_size"]) == (16, 4, 512)
    assert told["rope_parameters"]["rope_theta"] == 10000.0


def test_rounded_tables_are_refused(tmp_path):
    config = CogVLMTextConfig(rotary_tables="bfloat16_sat")
    with pytest.raises(ConfigError, match="bfloat16_sat"):
        write_folder(tmp_path / "model", GOLDEN, config, 512)
    assert not (tmp_path / "model" / "config.json").exists()
