"""Waves lead to the whole fleet, the order is stable and spread, and rates are held."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.rollout_waves import CANARY, Rate, check_waves, quota, room, spread
from shared.protocol.errors import Refused


@given(st.integers(0, 5000))
def test_waves_rise_to_the_whole_fleet(fleet: int) -> None:
    found = [quota(CANARY, wave, fleet) for wave in range(len(CANARY))]
    assert found == sorted(found)
    assert found[-1] == fleet == quota(CANARY, len(CANARY), fleet)
    assert found[0] == min(1, fleet)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.text(max_size=5))
def test_each_beginning_has_its_share_of_each_site(sizes: list[int], seed: str) -> None:
    devices = {f"{site}-{i}": f"site-{site}" for site, size in enumerate(sizes) for i in range(size)}
    order = spread(devices, seed=seed)
    assert sorted(order) == sorted(devices)
    assert order == spread(dict(reversed(devices.items())), seed=seed)
    for count in range(len(order) + 1):
        for site, size in enumerate(sizes):
            came = sum(devices[name] == f"site-{site}" for name in order[:count])
            share = size * count / len(order)
            assert math.floor(share) - len(sizes) <= came <= math.ceil(share) + 1


@pytest.mark.parametrize(
    "waves",
    [
        [],
        ["5%"],
        ["100%", "100%"],
        ["2", "1", "100%"],
        ["5%", "1", "100%"],
        ["0", "100%"],
        ["1%", "101%"],
        ["x", "100%"],
    ],
)
def test_other_waves_are_refused(waves: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        check_waves(waves, field="waves")
    assert refused.value.field == "waves"


def test_a_rate_grows_with_success_and_has_a_bound() -> None:
    rate = Rate(base_per_minute=10, factor=2.0, every=10, most_per_minute=35)
    assert room(None, came=[], succeeded=0, now=0.0) is None
    assert room(rate, came=[], succeeded=0, now=0.0) == 10
    assert room(rate, came=[0.0] * 10, succeeded=9, now=59.0) == 0
    assert room(rate, came=[0.0] * 10, succeeded=9, now=60.0) == 10
    assert room(rate, came=[0.0] * 10, succeeded=10, now=30.0) == 10
    assert room(rate, came=[], succeeded=1000, now=0.0) == 35
    # Less than one a minute is one in a longer time.
    slow = Rate(base_per_minute=0.1)
    assert room(slow, came=[0.0], succeeded=1, now=599.0) == 0
    assert room(slow, came=[0.0], succeeded=1, now=600.0) == 1
