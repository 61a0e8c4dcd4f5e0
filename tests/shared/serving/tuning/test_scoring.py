"""The choice among measured ways: what is faster wins, what is not told apart does not, and noise decides nothing."""

import math
import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.scoring import LEAST_GAIN, MOST_NOISE, fastest, is_ahead, preferred, score, survivors

SECONDS = st.floats(min_value=1e-6, max_value=1e3)
SCORES = st.floats(min_value=-10, max_value=10)
WAYS = st.integers(1, 8).flatmap(
    lambda rounds: st.lists(st.lists(SCORES, min_size=rounds, max_size=rounds), min_size=1, max_size=8)
)


@given(st.lists(SECONDS, min_size=1, max_size=5), st.floats(min_value=1e-3, max_value=1e3))
def test_a_score_does_not_depend_on_how_large_the_model_is(seconds, times):
    assert score([each * times for each in seconds]) - score(seconds) == pytest.approx(math.log(times), abs=1e-6)


def test_alone_and_busy_weigh_alike():
    assert score([0.9, 1.0]) == pytest.approx(score([1.0, 0.9]))


@given(WAYS)
def test_the_choice_is_one_of_them_and_never_far_behind_the_fastest(rounds):
    chosen, leader = preferred(rounds), fastest(rounds)
    assert not is_ahead(rounds[leader], rounds[chosen])
    differences = [b - a for a, b in zip(rounds[leader], rounds[chosen], strict=True)]
    assert median(differences) <= MOST_NOISE


@given(WAYS)
def test_nobody_before_the_choice_could_have_been_chosen(rounds):
    chosen, leader = preferred(rounds), fastest(rounds)
    assert all(is_ahead(rounds[leader], rounds[i]) for i in range(chosen))


@given(st.lists(SCORES, min_size=1, max_size=8), st.integers(1, 9))
def test_without_noise_the_first_within_the_least_gain_is_chosen(scores, rounds):
    best = min(scores)
    expected = next(i for i, each in enumerate(scores) if not each - best > LEAST_GAIN)
    assert preferred([[each] * rounds for each in scores]) == expected


@given(st.lists(SCORES, min_size=1, max_size=8), st.integers(2, 9), st.lists(SCORES, min_size=9, max_size=9))
def test_what_disturbs_a_whole_round_decides_nothing(scores, rounds, disturbance):
    quiet = [[each] * rounds for each in scores]
    disturbed = [[a + b for a, b in zip(own, disturbance, strict=False)] for own in quiet]
    leader = min(scores)
    chosen = preferred(disturbed)
    assert scores[chosen] - leader <= LEAST_GAIN + 1e-6


@given(WAYS)
def test_the_fastest_always_survives_and_so_does_whoever_may_be_chosen(rounds):
    left = survivors(rounds)
    assert fastest(rounds) in left
    assert left == sorted(set(left))
    if len(rounds[0]) >= 2:
        assert preferred(rounds) in left
        assert len(left) >= -(-len(rounds) // 2)


def test_noise_between_rounds_leaves_the_frugal_one():
    """The second is one per cent faster, and rounds differ by ten: nobody can say."""
    draw = random.Random(7)
    first = [0.01 + draw.gauss(0, 0.1) for _ in range(9)]
    second = [draw.gauss(0, 0.1) for _ in range(9)]
    assert preferred([first, second]) == 0
    assert preferred([[each + 1.0 for each in first], second]) == 1
