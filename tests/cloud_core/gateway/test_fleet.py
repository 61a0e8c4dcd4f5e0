from hypothesis import given
from hypothesis import strategies as st

from cloud_core.gateway.fleet import End, Fleet, Limits
from cloud_core.store.replicas import Replica

MODELS = '[{"tenant":"default","name":"m","version":"1.0.0","state":"ready"}]'
LOADING = '[{"tenant":"default","name":"m","version":"1.0.0","state":"loading"}]'


def row(
    name: str = "a", *, seen_at: float, started_at: float = 1.0, models: str = MODELS, kind: str = "local"
) -> Replica:
    return Replica(replica=name, url=f"http://{name}", kind=kind, models=models, started_at=started_at, seen_at=seen_at)


def test_a_replica_is_dropped_by_our_clock_whatever_its_own_says_and_comes_back() -> None:
    fleet = Fleet(Limits(stale=6.0, glance=2.0))
    # Its clock stands an hour off and moves; ours counts.
    assert fleet.observe([row(seen_at=-3600.0)], now=0.0) == ()
    assert [fleet.observe([row(seen_at=-3600.0)], now=float(t)) for t in range(1, 6)] == [()] * 5
    assert fleet.observe([row(seen_at=-3600.0)], now=6.0) == ("a",)
    assert fleet.snapshot() == ()
    fleet.observe([row(seen_at=-3590.0)], now=6.5)
    assert [replica.name for replica in fleet.snapshot()] == ["a"]
    assert len(fleet.snapshot()[0].served) == 1


def test_a_database_that_was_away_takes_nobody_out() -> None:
    fleet = Fleet(Limits(stale=6.0, glance=2.0))
    fleet.observe([row(seen_at=1.0)], now=0.0)
    # Ten minutes without a reading: the replica could not report either.
    assert fleet.observe([row(seen_at=1.0)], now=600.0) == ()
    assert fleet.is_live("a")


def test_an_external_server_never_gets_stale_and_a_removed_row_goes() -> None:
    fleet = Fleet(Limits(stale=1.0))
    for now in range(10):
        assert fleet.observe([row(seen_at=1.0, kind="external")], now=float(now)) == ()
    fleet.observe([], now=10.0)
    assert not fleet.members


def test_a_restarted_replica_owes_nothing_and_is_trusted_again() -> None:
    fleet = Fleet()
    fleet.observe([row(seen_at=1.0)], now=0.0)
    for _ in range(3):
        fleet.ended(fleet.sent("a", 5.0, now=0.0), 5.0, End.FAILED, now=0.0)
    pending = fleet.sent("a", 7.0, now=0.0)
    assert fleet.members["a"].health.ejected_until is not None
    fleet.observe([row(seen_at=2.0, started_at=2.0, models=LOADING)], now=0.5)
    fleet.ended(pending, 7.0, End.FAILED, now=0.6)
    member = fleet.members["a"]
    assert (member.outstanding, member.in_flight, member.health.failures) == (0.0, 0, 0)
    assert member.ready == frozenset()


@given(st.lists(st.tuples(st.floats(1, 1e6), st.sampled_from(End)), max_size=30), st.randoms())
def test_what_was_charged_is_given_back_in_any_order(requests: list[tuple[float, End]], shuffle: object) -> None:
    fleet = Fleet()
    fleet.observe([row(seen_at=1.0)], now=0.0)
    open_ = [(fleet.sent("a", cost, now=0.0), cost, end) for cost, end in requests]
    shuffle.shuffle(open_)  # type: ignore[attr-defined]
    for member, cost, end in open_:
        fleet.ended(member, cost, end, now=0.0)
    assert fleet.members["a"].in_flight == 0
    assert fleet.members["a"].outstanding == 0.0
