"""First-in-first-out batching, the opponent that ours is measured against: it plays by the same bounds."""

from hypothesis import given
from hypothesis import strategies as st

from bench.mixed_lengths import LONGEST, SHORTEST, first_in_first_out, mixed_texts
from shared.serving.decide.batching import Budget, Waiting

BUDGET = Budget(tokens=256, rows=6)
ENTRIES = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 3), st.sampled_from([None, 5.0, 50.0])), min_size=1, max_size=30
)


@given(ENTRIES, st.integers(1, 3))
def test_every_entry_is_in_one_batch_in_its_turn_and_within_the_bounds(drawn, idle: int) -> None:
    waiting = [
        Waiting(id=i, tokens=tokens, rows=rows, enqueued_at=float(i), deadline=deadline)
        for i, (tokens, rows, deadline) in enumerate(drawn)
    ]
    expired = {each.id for each in waiting if each.deadline == 5.0}
    served: list[int] = []
    left = {each.id: each for each in waiting}
    while left:
        batch = first_in_first_out(list(reversed(left.values())), BUDGET, now=10.0, idle=idle)
        dropped = {drop.id for drop in batch.dropped}
        assert dropped == expired & left.keys()
        chosen = [left[number] for number in batch.ids]
        if len(chosen) > 1:
            rows = sum(each.rows for each in chosen)
            assert rows <= BUDGET.rows
            assert rows * max(each.tokens for each in chosen) == batch.padded <= BUDGET.tokens
        assert chosen or not left.keys() - dropped
        served.extend(batch.ids)
        left = {number: each for number, each in left.items() if number not in dropped and number not in batch.ids}
    assert served == [each.id for each in waiting if each.id not in expired]


def test_lengths_are_log_uniform() -> None:
    lengths = [len(text) + 2 for text in mixed_texts(2000)]
    assert min(lengths) >= SHORTEST
    assert max(lengths) <= LONGEST
    # Each of five doublings has a fifth of them.
    for power in range(3, 8):
        assert 300 <= sum(2**power <= length < 2 ** (power + 1) for length in lengths) <= 500
    assert mixed_texts(5) == mixed_texts(5) != mixed_texts(5, seed=2)
