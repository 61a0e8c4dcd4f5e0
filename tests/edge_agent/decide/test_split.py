from hypothesis import assume, given
from hypothesis import strategies as st

from edge_agent.decide.split import version_of

VERSIONS = [f"1.{minor}.0" for minor in range(5)]
SPLITS = st.dictionaries(st.sampled_from(VERSIONS), st.floats(0, 100), min_size=1).filter(lambda s: sum(s.values()) > 0)
DRAWS = st.floats(0, 1, exclude_max=True)
ABSENT = st.sets(st.sampled_from(VERSIONS))


@given(SPLITS, DRAWS, ABSENT)
def test_a_version_without_a_share_is_never_chosen(split: dict[str, float], u: float, absent: set[str]) -> None:
    chosen = version_of(split, u=u, without=absent)
    having = {version for version, share in split.items() if share > 0} - absent
    assert (chosen is None) == (not having)
    assert chosen is None or chosen in having


@given(SPLITS, ABSENT)
def test_those_that_are_left_share_as_before(split: dict[str, float], absent: set[str]) -> None:
    left = {version: share for version, share in split.items() if version not in absent}
    total = sum(left.values())
    assume(total > 0)
    given_ = [version_of(split, u=i / 500, without=absent) for i in range(500)]
    for version, share in left.items():
        assert abs(given_.count(version) / 500 - share / total) <= 1 / 500 + 1e-9


@given(SPLITS, DRAWS)
def test_who_was_not_given_an_absent_version_keeps_its_own(split: dict[str, float], u: float) -> None:
    chosen = version_of(split, u=u)
    assert version_of(split, u=u, without=()) == chosen
    assert version_of(dict(reversed(split.items())), u=u) == chosen


def test_no_split_no_version() -> None:
    assert version_of(None, u=0.5) is None
    assert version_of({}, u=0.5) is None
    assert version_of({"1.0.0": 1.0}, u=0.5, without={"1.0.0"}) is None
