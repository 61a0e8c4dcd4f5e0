from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.restart import Limits, Reason, restart

LIMITS = Limits(first=0.5, longest=8.0, stable=20.0)
draws = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10_000), st.floats(0, 19.9), draws)
def test_delay_stays_within_the_doubled_cap(failures: int, ran_for: float, u: float) -> None:
    decision = restart(failures, ran_for=ran_for, u=u, limits=LIMITS)
    assert decision.failures == failures + 1
    assert decision.reason is Reason.BACKING_OFF
    assert 0 <= decision.delay <= min(LIMITS.longest, LIMITS.first * 2.0 ** min(failures, 40))


@given(st.integers(0, 10_000), st.floats(20.0, 1e9), draws)
def test_a_stable_run_forgives_everything(failures: int, ran_for: float, u: float) -> None:
    decision = restart(failures, ran_for=ran_for, u=u, limits=LIMITS)
    assert decision.failures == 1
    assert decision.reason is Reason.AFTER_STABLE_RUN
    assert decision.delay <= LIMITS.first


def test_the_cap_doubles_and_the_jitter_is_full() -> None:
    caps = [restart(n, ran_for=0, u=0.999999, limits=LIMITS).delay for n in range(6)]
    assert [round(cap, 2) for cap in caps] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert restart(5, ran_for=0, u=0.0, limits=LIMITS).delay == 0.0
