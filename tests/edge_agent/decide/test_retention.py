from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.retention import Held, Rank, Reason, rank_of, to_drop, worth
from shared.protocol.telemetry import Event, Host, Sample

HOST = Host(cpu=0.1, memory=0.2, disk_free_bytes=1, agent_memory_bytes=1)
rings = st.lists(st.tuples(st.sampled_from(Rank), st.integers(1, 50)), min_size=1, max_size=40).map(
    lambda rows: [Held(seq=seq, rank=rank, size=size) for seq, (rank, size) in enumerate(rows, 1)]
)


@given(rings, st.integers(0, 500), st.integers(0, 50))
def test_it_drops_the_least_worth_and_no_more_than_need_be(ring: list[Held], most: int, sent: int) -> None:
    total, newest = sum(each.size for each in ring), ring[-1].seq
    lost = to_drop(sorted(ring, key=worth), total=total, most=most, sent=sent, newest=newest)
    gone = {loss.seq for loss in lost}
    sizes = {each.seq: each.size for each in ring}
    free = [each for each in ring if each.seq > sent and each.seq != newest]
    assert gone <= {each.seq for each in free}
    left = total - sum(sizes[seq] for seq in gone)
    # Either it fits, or nothing that may go is left.
    assert left <= most or gone == {each.seq for each in free}
    # The last to go was needed.
    assert not lost or left + sizes[lost[-1].seq] > most
    kept = [worth(each) for each in free if each.seq not in gone]
    assert all(worth(each) < min(kept) for each in free if each.seq in gone) if kept else True
    reasons = {loss.seq: loss.reason for loss in lost}
    for each in ring:
        expected = Reason.FULL if each.rank is Rank.MEASUREMENT else Reason.FULL_EVENTS
        assert reasons.get(each.seq, expected) is expected


def test_a_sample_with_events_is_worth_more() -> None:
    plain = Sample(seq=9, started_at=0.0, ended_at=1.0, host=HOST)
    told = Sample(seq=1, started_at=0.0, ended_at=1.0, host=HOST, events=(Event(at=0.5, kind="failed"),))
    assert rank_of(plain) < rank_of(told)
