import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.errors import Refusal, Refused
from shared.serving.tasks.generation_parameters import (
    DEFAULT_MAX_TOKENS,
    MOST_TOKENS,
    Asked,
    asked_of,
    wanted_tokens,
)
from shared.serving.tasks.sampling import Sampler


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_tokens", value) for value in (0, -1, 1.0, "5", True, [], MOST_TOKENS + 1)),
        *(("temperature", value) for value in (-0.1, 2.1, math.nan, math.inf, "hot", False)),
        *(("top_p", value) for value in (0, 0.0, 1.01, -1, math.nan, "all", True)),
        *(("seed", value) for value in (0.5, "7", True, 2**63, -(2**63) - 1)),
        *(("stop", value) for value in ("", [], ["a"] * 5, ["a", ""], [1], {"a": 1}, 3, "x" * 129)),
    ],
)
def test_a_wrong_parameter_is_refused_by_its_name(name, value):
    with pytest.raises(Refused) as caught:
        asked_of({name: value})
    assert (caught.value.field, caught.value.kind) == (f"parameters.{name}", Refusal.MALFORMED)
    assert caught.value.allowed
    assert wanted_tokens({name: value}) == DEFAULT_MAX_TOKENS


def test_what_is_open_or_right_is_taken():
    nothing = dict.fromkeys(("max_tokens", "temperature", "top_p", "seed", "stop"))
    assert asked_of({}) == asked_of(nothing) == asked_of({"else": object()}) == Asked()
    given = {"max_tokens": 3, "temperature": 2, "top_p": 1, "seed": -1, "stop": "。"}
    assert asked_of(given) == Asked(max_tokens=3, temperature=2.0, top_p=1.0, seed=-1, stop=("。",))
    assert asked_of({"stop": ["a", "b" * 128]}).stop == ("a", "b" * 128)
    assert wanted_tokens({"max_tokens": 3}) == 3


LOGITS = np.array([1.0, 3.0, 2.0, 3.0, -math.inf], dtype=np.float32)


def test_without_temperature_the_likeliest_token_is_taken():
    assert Sampler(Asked(seed=1, top_p=0.1)).next(LOGITS) == 1
    # So little temperature, or so small a nucleus, that one token is left.
    assert Sampler(Asked(temperature=1e-30, seed=1)).next(LOGITS[:3]) == 1
    assert Sampler(Asked(temperature=2.0, top_p=1e-9, seed=1)).next(LOGITS[:3]) == 1


@given(st.integers(-(2**63), 2**63 - 1))
def test_the_same_seed_draws_the_same_tokens(seed):
    one, two = (Sampler(Asked(temperature=1.0, seed=seed)) for _ in range(2))
    assert [one.next(LOGITS) for _ in range(8)] == [two.next(LOGITS) for _ in range(8)]


def test_without_a_seed_texts_differ():
    samplers = [Sampler(Asked(temperature=1.0)) for _ in range(2)]
    one, two = ([sampler.next(np.zeros(1000, np.float32)) for _ in range(8)] for sampler in samplers)
    assert one != two


@pytest.mark.parametrize("size", [5, 400])
def test_tokens_are_drawn_as_often_as_they_are_likely(size):
    logits = np.full(size, -20.0, dtype=np.float32)
    logits[:4] = np.log([0.4, 0.3, 0.2, 0.1])
    sampler = Sampler(Asked(temperature=1.0, seed=5))
    drawn = Counter(sampler.next(logits) for _ in range(4000))
    assert [drawn[token] / 4000 for token in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.03)
    # 0.4 and 0.3 are the fewest that have 0.6 together.
    nucleus = Sampler(Asked(temperature=1.0, top_p=0.6, seed=5))
    drawn = Counter(nucleus.next(logits) for _ in range(4000))
    assert drawn.keys() == {0, 1}
    assert drawn[0] / 4000 == pytest.approx(4 / 7, abs=0.03)


def test_a_flat_distribution_has_a_wide_nucleus():
    nucleus = Sampler(Asked(temperature=1.0, top_p=0.9, seed=5))
    assert len({nucleus.next(np.zeros(1000, np.float32)) for _ in range(4000)}) > 800
