"""Choosing a token: greedy, penalised, filtered, and repeatable."""

from __future__ import annotations

import pytest
import torch

from beholder.core.types import Sampling
from beholder.generation.sampling import Chooser, Largest

CPU = torch.device("cpu")
SCORES = torch.tensor([[0.0, 3.0, 2.0, 1.0, -1.0]])


def draws(count: int = 400, **settings) -> set[int]:
    chooser = Chooser(Sampling(temperature=1.0, seed=0) if not settings else Sampling.of(settings), [], CPU)
    return {chooser.choose(SCORES) for _ in range(count)}


def test_greedy_takes_the_largest():
    assert Chooser(Sampling(), [], CPU).choose(SCORES) == 1


def test_unfiltered_drawing_reaches_every_token():
    assert draws() == {0, 1, 2, 3, 4}


def test_top_k_keeps_k():
    assert draws(temperature=1.0, seed=0, top_k=2) == {1, 2}


def test_top_p_keeps_the_likeliest_that_reach_it():
    # The probabilities are 0.63, 0.23, 0.09, 0.03, 0.01.
    assert draws(temperature=1.0, seed=0, top_p=0.6) == {1}
    assert draws(temperature=1.0, seed=0, top_p=0.7) == {1, 2}


def test_min_p_drops_what_is_far_below_the_best():
    # Relative to the best: 1, 0.37, 0.14, 0.05, 0.02.
    assert draws(temperature=1.0, seed=0, min_p=0.3) == {1, 2}


def test_temperature_flattens():
    cold = [Chooser(Sampling(temperature=0.05, seed=seed), [], CPU).choose(SCORES) for seed in range(50)]
    hot = [Chooser(Sampling(temperature=50.0, seed=seed), [], CPU).choose(SCORES) for seed in range(50)]
    assert set(cold) == {1}
    assert len(set(hot)) == 5


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-38, 1e-30, 1e-6, 0.0009])
@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize("others", [{}, {"top_k": 3}, {"top_p": 1e-30}, {"min_p": 0.1}])
def test_next_to_no_temperature_is_greedy(temperature, scale, others):
    """Scores divided by it are no numbers any more; what is drawn is what they mean."""
    scores = SCORES * scale
    scores[0, 4] = -torch.inf
    chooser = Chooser(Sampling(temperature=temperature, seed=0, repetition_penalty=0.5, **others), [2], CPU)
    assert {chooser.choose(scores) for _ in range(20)} <= {1, 2}
    plain = Chooser(Sampling(temperature=temperature, seed=0, **others), [], CPU)
    assert {plain.choose(scores) for _ in range(20)} == {1}


def test_a_cold_temperature_draws_as_any_other():
    """Two scores that are as near to each other as it is small are both drawn, and in that proportion."""
    scores = torch.tensor([[0.0, 5e-4, -7.0]])
    chooser = Chooser(Sampling(temperature=5e-4, seed=0), [], CPU)
    drawn = [chooser.choose(scores) for _ in range(2000)]
    assert set(drawn) == {0, 1}
    assert abs(drawn.count(1) / 2000 - 0.731) < 0.04


def test_the_hottest_temperature_still_says_nothing_that_cannot_be():
    scores = SCORES.clone()
    scores[0, 1] = -torch.inf
    chooser = Chooser(Sampling(temperature=1e9, seed=0), [], CPU)
    assert {chooser.choose(scores) for _ in range(400)} == {0, 2, 3, 4}


def test_a_seed_repeats_and_seeds_differ():
    def sequence(seed: int) -> list[int]:
        chooser = Chooser(Sampling(temperature=2.0, seed=seed), [], CPU)
        return [chooser.choose(SCORES) for _ in range(20)]

    assert sequence(1) == sequence(1)
    assert sequence(1) != sequence(2)


def test_drawing_leaves_the_global_random_numbers_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    chooser = Chooser(Sampling(temperature=1.0), [], CPU)
    for _ in range(3):
        chooser.choose(SCORES)
    assert torch.equal(torch.rand(3), wanted)


def test_the_penalty_counts_prompt_and_answer():
    chooser = Chooser(Sampling(repetition_penalty=2.0), [1], CPU)
    assert [chooser.choose(SCORES) for _ in range(3)] == [2, 1, 1]


def test_the_penalty_counts_the_answer():
    scores = torch.tensor([[3.0, 2.5, 0.0]])
    chooser = Chooser(Sampling(repetition_penalty=1.5), [], CPU)
    assert [chooser.choose(scores) for _ in range(3)] == [0, 1, 0]


def test_presence_and_frequency_count_the_answer_alone():
    flat = torch.tensor([[1.0, 0.9, 0.8]])
    present = Chooser(Sampling(presence_penalty=0.15), [0, 1, 2], CPU)
    assert [present.choose(flat) for _ in range(4)] == [0, 1, 0, 0]
    often = Chooser(Sampling(frequency_penalty=0.15), [0, 1, 2], CPU)
    assert [often.choose(flat) for _ in range(4)] == [0, 1, 0, 2]


def test_a_bias_moves_tokens():
    assert Chooser(Sampling(logit_bias={4: 5.0}), [], CPU).choose(SCORES) == 4
    assert Chooser(Sampling(logit_bias={1: -100.0}), [], CPU).choose(SCORES) == 2


def test_a_mask_hears_what_was_said():
    heard: list[list[int]] = []

    def mask(said):
        heard.append(list(said))
        return None if said else torch.tensor([True, False, False, True, False])

    chooser = Chooser(Sampling(), [], CPU, mask)
    assert [chooser.choose(SCORES), chooser.choose(SCORES)] == [3, 1]
    assert heard == [[], [3]]


@pytest.mark.parametrize(
    "settings",
    [
        {"logit_bias": {4: 9.0}},
        {"logit_bias": {4: 9.0}, "presence_penalty": 0.5, "frequency_penalty": 0.25},
        {"logit_bias": {4: 9.0}, "repetition_penalty": 2.0},
        {"logit_bias": {4: 99.0}, "temperature": 2.0, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 1},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_those_before_penalties(settings, dtype):
    chooser, given = Chooser(Sampling(logprobs=2, **settings), [1], CPU), SCORES.to(dtype)
    chooser.choose(given)
    chooser.choose(given)
    assert torch.equal(given, SCORES.to(dtype))
    first, score = chooser.scores
    assert first == score
    wanted = SCORES[0].log_softmax(0)
    assert score.token == 4
    assert score.logprob == pytest.approx(float(wanted[4]))
    assert score.likeliest == (
        (1, pytest.approx(float(wanted[1]))),
        (2, pytest.approx(float(wanted[2]))),
    )


def test_a_placeholder_outside_the_vocabulary_is_not_penalised():
    assert Chooser(Sampling(repetition_penalty=2.0), [1, 99], CPU).choose(SCORES) == 2


def test_plain_rows_are_chosen_together():
    rows = torch.tensor([[0.0, 2.0], [3.0, 1.0], [0.0, torch.nan]])
    assert Largest()(rows) == [1, 0, None]
    assert Chooser(Sampling(), [], CPU).is_plain
    for settings in (
        {"temperature": 1.0},
        {"logprobs": 0},
        {"presence_penalty": 1.0},
        {"logit_bias": {1: 1.0}},
    ):
        assert not Chooser(Sampling.of(settings), [], CPU).is_plain
