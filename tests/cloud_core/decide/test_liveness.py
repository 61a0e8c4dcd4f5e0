"""Presence: four states, each with what it follows from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.liveness import Liveness, Presence, Why, classify


@pytest.mark.parametrize(
    ("epoch", "born", "died", "seen", "expected"),
    [
        (None, None, None, None, Liveness(Presence.NEVER, Why.UNBORN)),
        (1, 90.0, None, 90.0, Liveness(Presence.ONLINE, Why.HEARD)),
        (1, 10.0, None, 71.0, Liveness(Presence.ONLINE, Why.HEARD)),
        (1, 10.0, None, 70.0, Liveness(Presence.STALE, Why.QUIET)),
        (1, 1.0, None, 10.0, Liveness(Presence.LOST, Why.SILENT)),
        (1, 90.0, 95.0, 95.0, Liveness(Presence.LOST, Why.DIED)),
        (1, 90.0, 95.0, 96.0, Liveness(Presence.ONLINE, Why.HEARD)),
        (1, 96.0, 95.0, None, Liveness(Presence.ONLINE, Why.HEARD)),
    ],
)
def test_the_state_follows_from_birth_death_and_silence(
    epoch: int | None, born: float | None, died: float | None, seen: float | None, expected: Liveness
) -> None:
    verdict = classify(born_epoch=epoch, born_at=born, died_at=died, last_seen=seen, now=100.0, lost_after=90.0)
    assert verdict == expected


times = st.none() | st.floats(0, 1e9)


@given(
    epoch=st.none() | st.integers(0),
    born=times,
    died=times,
    seen=times,
    now=st.floats(0, 1e9),
    lost_after=st.floats(1, 1e6),
    later=st.floats(0, 1e6),
)
def test_silence_only_ever_takes_a_device_away(
    *,
    epoch: int | None,
    born: float | None,
    died: float | None,
    seen: float | None,
    now: float,
    lost_after: float,
    later: float,
) -> None:
    rank = [Presence.ONLINE, Presence.STALE, Presence.LOST, Presence.NEVER]

    def at(moment: float) -> Presence:
        return classify(
            born_epoch=epoch, born_at=born, died_at=died, last_seen=seen, now=moment, lost_after=lost_after
        ).state

    assert rank.index(at(now)) <= rank.index(at(now + later))
    if born is not None and epoch is not None:
        assert at(1e9 + lost_after + 1) is Presence.LOST
