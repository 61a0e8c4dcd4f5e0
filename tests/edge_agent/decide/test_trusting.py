"""No accepted version is followed by an older one, and every state says what it means."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.trusting import EXPIRED, Accepted, fallen, state_of
from shared.protocol.errors import Corrupt, Transient, Unavailable
from shared.protocol.trust import ROLES, ROOT, TrustState

SEEN = st.fixed_dictionaries(
    {role: st.builds(Accepted, st.integers(1, 9), st.just("") if role == ROOT else st.sampled_from("ab"), st.just(1.0))
     for role in ROLES}
)  # fmt: skip


@given(st.lists(SEEN, min_size=1, max_size=30))
def test_versions_rise_as_long_as_their_keys_stay(history: list[dict[str, Accepted]]) -> None:
    """Whatever is offered in whatever order: what is accepted never falls under the same keys, and a root never falls at all."""
    floors: dict[str, Accepted] = {}
    for seen in history:
        below = fallen(floors, seen)
        if below is None:
            for role, before in floors.items():
                assert seen[role].scope != before.scope or seen[role].version >= before.version
            floors = seen
        else:
            assert seen[below.role].version < floors[below.role].version
            assert seen[below.role].scope == floors[below.role].scope


def test_each_state() -> None:
    away = Transient("away", why=Unavailable.UNREACHABLE)
    rolled, late = Corrupt("older", code="trust-rollback"), Corrupt("late", code=EXPIRED)
    for pinned, error, expires_at, state in (
        (False, None, None, TrustState.UNPINNED),
        (False, rolled, None, TrustState.UNPINNED),
        (True, None, 2.0, TrustState.FRESH),
        (True, None, None, TrustState.OFFLINE),
        (True, away, 2.0, TrustState.OFFLINE),
        (True, away, 1.0, TrustState.STALE),
        (True, None, 1.0, TrustState.STALE),
        (True, late, 2.0, TrustState.STALE),
        (True, rolled, 1.0, TrustState.REFUSED),
        (True, rolled, 2.0, TrustState.REFUSED),
    ):
        assert state_of(pinned=pinned, error=error, expires_at=expires_at, now=1.0) is state
