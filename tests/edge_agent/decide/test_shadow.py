"""Whether a copy may be computed, and whether two versions say the same: the rules as a table, and what holds of all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.shadow import (
    COSINE,
    DISTANCE,
    MOST,
    Arrays,
    Difference,
    Drop,
    Facts,
    Unlike,
    Vectors,
    difference,
    drop,
)

SAME_LABEL = Facts(Difference.LABEL, "good", "good")
OTHER_TEXT = Facts(Difference.TEXT, "a", "b")

TABLE = [
    # the pairs, and in what they differ
    ([], None),
    ([SAME_LABEL], None),
    ([Facts(Difference.LABEL, "good", "bad")], Difference.LABEL),
    ([Facts(Difference.ENTITIES, frozenset({("PER", 0, 2)}), frozenset())], Difference.ENTITIES),
    ([OTHER_TEXT], Difference.TEXT),
    ([Vectors(1.0)], None),
    ([Vectors(COSINE)], None),
    ([Vectors(0.98)], Difference.VECTOR),
    ([Vectors(-1.0)], Difference.VECTOR),
    ([Vectors(None)], Difference.VECTOR),
    ([Vectors(float("nan"))], Difference.VECTOR),
    ([Arrays(0.0)], None),
    ([Arrays(DISTANCE)], None),
    ([Arrays(0.02)], Difference.TENSORS),
    ([Arrays(None)], Difference.TENSORS),
    ([Arrays(float("nan"))], Difference.TENSORS),
    ([Unlike()], Difference.KIND),
    ([SAME_LABEL, OTHER_TEXT, Unlike()], Difference.TEXT),
]


@pytest.mark.parametrize(("pairs", "expected"), TABLE)
def test_table(pairs: list[Facts | Vectors | Arrays | Unlike], expected: Difference | None) -> None:
    assert difference(pairs) is expected


FACTS = st.builds(Facts, st.sampled_from(Difference), st.integers(0, 2), st.integers(0, 2))
NUMBERS = st.none() | st.floats()
PAIRS = st.lists(st.one_of(FACTS, st.builds(Vectors, NUMBERS), st.builds(Arrays, NUMBERS), st.just(Unlike())))


@given(PAIRS, PAIRS)
def test_a_request_is_the_same_when_each_of_its_items_is(
    first: list[Facts | Vectors | Arrays | Unlike], second: list[Facts | Vectors | Arrays | Unlike]
) -> None:
    both = difference([*first, *second])
    assert (both is None) == (difference(first) is None and difference(second) is None)
    assert both == (difference(first) or difference(second))


@given(ready=st.booleans(), under_way=st.integers(0, 3), copies=st.integers(0, 2 * MOST))
def test_a_copy_is_computed_on_an_idle_device_that_has_the_version_and_no_other(
    *, ready: bool, under_way: int, copies: int
) -> None:
    verdict = drop(ready=ready, under_way=under_way, copies=copies)
    assert (verdict is None) == (ready and under_way == 0 and copies < MOST)
    if verdict is Drop.NOT_READY:
        assert not ready
    if verdict is Drop.BUSY:
        assert under_way > 0
    if verdict is Drop.FULL:
        assert copies >= MOST
