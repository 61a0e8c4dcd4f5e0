import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.batching import LEAST, LOWEST, WORTH_S, Budget, Waiting, bounded, next_batch, worth
from shared.serving.decide.cost import Cost, observed, predict

entries = st.lists(
    st.builds(
        Waiting,
        id=st.integers(0, 10_000),
        tokens=st.integers(1, 700),
        rows=st.one_of(st.just(1), st.integers(1, 70)),
        priority=st.integers(0, 200),
        enqueued_at=st.floats(0, 100),
        deadline=st.one_of(st.none(), st.floats(0, 300)),
    ),
    max_size=80,
    unique_by=lambda entry: entry.id,
)
budgets = st.builds(Budget, tokens=st.integers(1, 4096), rows=st.integers(1, 32))


@given(entries, budgets, st.floats(100, 200))
def test_budget_rows_and_deadlines_hold(waiting, budget, now):
    by_id = {entry.id: entry for entry in waiting}
    batch = next_batch(waiting, budget, now=now)
    chosen = [by_id[each] for each in batch.ids]
    dropped = {drop.id for drop in batch.dropped}
    assert len(set(batch.ids)) == len(batch.ids)
    rows = sum(entry.rows for entry in chosen)
    assert rows <= budget.rows or len(chosen) == 1
    assert dropped.isdisjoint(batch.ids)
    assert dropped == {entry.id for entry in waiting if entry.deadline is not None and entry.deadline <= now}
    if chosen:
        padded = rows * max(entry.tokens for entry in chosen)
        assert batch.padded == padded
        assert padded <= budget.tokens or len(chosen) == 1
    else:
        assert dropped == set(by_id)


@given(entries, budgets)
def test_every_entry_is_in_exactly_one_batch(waiting, budget):
    left = {entry.id: entry for entry in waiting}
    seen: list[int] = []
    while left:
        batch = next_batch(list(left.values()), budget, now=150.0)
        gone = [*batch.ids, *(drop.id for drop in batch.dropped)]
        assert gone
        seen += gone
        for each in gone:
            del left[each]
    assert sorted(seen) == sorted(entry.id for entry in waiting)


def test_a_low_priority_entry_does_not_starve():
    budget = Budget(tokens=100, rows=1)
    low = Waiting(id=0, tokens=10, priority=LOWEST, enqueued_at=0.0)
    waiting, now, next_id = [low], 0.0, 1
    for _ in range(1000):
        # Two urgent ones come for each that is computed: the queue only ever grows.
        waiting += [Waiting(id=next_id + i, tokens=10, priority=1, enqueued_at=now) for i in range(2)]
        next_id += 2
        batch = next_batch(waiting, budget, now=now)
        if 0 in batch.ids:
            break
        waiting = [entry for entry in waiting if entry.id not in batch.ids]
        now += 0.1
    else:
        raise AssertionError("starved")


def test_higher_priority_goes_first_and_default_stands_after_highest():
    waiting = [
        Waiting(id=1, tokens=5, priority=3),
        Waiting(id=2, tokens=5, priority=0),
        Waiting(id=3, tokens=5, priority=1),
        Waiting(id=4, tokens=5, priority=2),
    ]
    order = []
    while waiting:
        (chosen,) = next_batch(waiting, Budget(tokens=5, rows=1), now=0.0).ids
        order.append(chosen)
        waiting = [entry for entry in waiting if entry.id != chosen]
    assert order == [3, 2, 4, 1]


def test_similar_lengths_are_grouped_around_the_oldest():
    waiting = [Waiting(id=i, tokens=tokens, enqueued_at=float(i)) for i, tokens in enumerate([10, 500, 11, 490, 12, 9])]
    batch = next_batch(waiting, Budget(tokens=2000, rows=4), now=10.0)
    assert sorted(batch.ids) == [0, 2, 4, 5]


def test_an_entry_larger_than_the_budget_runs_alone():
    waiting = [Waiting(id=0, tokens=900), Waiting(id=1, tokens=1)]
    assert next_batch(waiting, Budget(tokens=100, rows=8), now=0.0).ids == (0,)


def test_an_entry_of_more_rows_than_the_budget_runs_alone():
    waiting = [Waiting(id=0, tokens=9, rows=9), Waiting(id=1, tokens=1)]
    batch = next_batch(waiting, Budget(tokens=1000, rows=8), now=0.0)
    assert (batch.ids, batch.padded) == ((0,), 81)


def test_the_rows_of_a_long_text_leave_less_room_for_others():
    waiting = [Waiting(id=0, tokens=10, rows=6), *(Waiting(id=i, tokens=10) for i in range(1, 9))]
    batch = next_batch(waiting, Budget(tokens=1000, rows=8), now=0.0)
    assert (batch.ids, batch.padded) == ((0, 1, 2), 80)


@given(entries, budgets, st.integers(1, 6))
def test_lanes_that_are_idle_at_once_share_what_waits(waiting, budget, idle):
    live = [msgspec.structs.replace(entry, deadline=None, rows=1) for entry in waiting]
    if not live:
        return
    share = -(-len(live) // idle)
    batch = next_batch(live, budget, now=150.0, idle=idle)
    assert 1 <= len(batch.ids) <= max(1, min(share, budget.rows))


@given(entries, budgets, st.lists(st.sampled_from(["a", "b", "c"]), min_size=80, max_size=80))
def test_entries_of_different_groups_never_share_a_batch(waiting, budget, groups):
    left = {
        entry.id: msgspec.structs.replace(entry, group=group, deadline=None)
        for entry, group in zip(waiting, groups, strict=False)
    }
    while left:
        batch = next_batch(list(left.values()), budget, now=150.0)
        assert len({left[each].group for each in batch.ids}) == 1
        for each in batch.ids:
            del left[each]


def cost_of(per_token: float, fixed: float = 1e-3) -> Cost:
    cost = Cost()
    for tokens in (32, 512, 64, 1024) * 5:
        cost = observed(cost, tokens, per_token * tokens + fixed)
    return cost


@given(st.floats(1e-7, 1e-2), st.sampled_from((512, 1024, 2048, 4096)), st.sampled_from((4096, 16384)))
def test_a_batch_is_worth_what_it_takes_and_its_bounds_come_to_rest(per_token, begin, most):
    cost, now = cost_of(per_token), Budget(tokens=begin)
    seen = [now := worth(now, most, cost) for _ in range(20)]
    assert seen[-1] is seen[-2]
    assert LEAST <= now.tokens <= most
    if now.tokens > LEAST:
        assert predict(cost, now.tokens) <= 1.25 * WORTH_S
    if now.tokens < most:
        assert predict(cost, 2 * now.tokens) > 0.75 * WORTH_S


def test_nothing_is_changed_before_anything_was_measured():
    assert worth(Budget(tokens=512), 4096, Cost()) == Budget(tokens=512)


def test_bounds_begin_small_where_nobody_chose():
    assert bounded(Budget(), rows=None, tokens=None, alone=False) == Budget(tokens=512, rows=32)
    assert bounded(Budget(), rows=8, tokens=2048, alone=False) == Budget(tokens=2048, rows=8)
    assert bounded(Budget(), rows=None, tokens=None, alone=False, generates=True) == Budget(tokens=4096, rows=32)
    assert bounded(Budget(), rows=None, tokens=None, alone=True).rows == 1
