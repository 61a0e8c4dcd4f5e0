from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.balance import (
    Chosen,
    Health,
    Limits,
    NoReplica,
    Reason,
    Replica,
    Served,
    abandoned,
    answered,
    choose,
    failed,
    sent,
)

NER = Served("default", "ner-zh", "1.0.0")
OTHER = Served("default", "other", "1.0.0")
LIMITS = Limits(consecutive=3, ejection=1.0, longest=8.0)
draws = st.floats(0, 1, exclude_max=True)
healths = st.builds(
    Health,
    failures=st.integers(0, 9),
    ejections=st.integers(0, 9),
    ejected_until=st.none() | st.floats(0, 100),
    probing=st.booleans(),
)
fleets = st.lists(
    st.builds(
        Replica,
        name=st.sampled_from("abcdefgh"),
        served=st.sampled_from([frozenset({NER}), frozenset({OTHER}), frozenset({NER, OTHER}), frozenset()]),
        outstanding=st.floats(0, 1e6),
        health=healths,
    ),
    unique_by=lambda replica: replica.name,
    max_size=8,
)


def may_take(replica: Replica, now: float) -> bool:
    until = replica.health.ejected_until
    return until is None or (until <= now and not replica.health.probing)


@given(fleets, draws, draws, st.floats(0, 100), st.sets(st.sampled_from("abcdefgh")))
def test_only_an_eligible_replica_is_chosen_and_one_is_whenever_there_is_one(
    fleet: list[Replica], u1: float, u2: float, now: float, tried: set[str]
) -> None:
    eligible = {r.name: r for r in fleet if NER in r.served and r.name not in tried and may_take(r, now)}
    verdict = choose(fleet, wanted=NER, now=now, u1=u1, u2=u2, tried=tried)
    match verdict:
        case Chosen():
            assert verdict.name in eligible
        case NoReplica():
            assert not eligible
            assert verdict.retry_after is None or verdict.retry_after >= 0


@given(fleets, draws, draws)
def test_the_most_loaded_of_several_is_never_chosen(fleet: list[Replica], u1: float, u2: float) -> None:
    eligible = [r for r in fleet if NER in r.served and may_take(r, 50.0)]
    verdict = choose(fleet, wanted=NER, now=50.0, u1=u1, u2=u2)
    if len({r.outstanding for r in eligible}) == len(eligible) > 1:
        assert isinstance(verdict, Chosen)
        assert verdict.name != max(eligible, key=lambda r: r.outstanding).name


@given(st.integers(2, 8), st.integers(0, 10_000))
def test_every_pair_of_idle_replicas_can_be_drawn(n: int, seed: int) -> None:
    fleet = [Replica(name=str(i), served=frozenset({NER})) for i in range(n)]
    grid = [(i + 0.5) / (n * (n - 1)) for i in range(n * (n - 1))]
    chosen = {choose(fleet, wanted=NER, now=0, u1=u1, u2=u2).name for u1 in grid for u2 in grid}  # type: ignore[union-attr]
    assert chosen == {str(i) for i in range(n)}


@given(st.lists(st.sampled_from(["fail", "answer", "wait", "leave"]), max_size=60))
def test_ejection_grows_is_bounded_and_always_ends(events: list[str]) -> None:
    health, now = Health(), 0.0
    for event in events:
        match event:
            case "wait":
                now += 0.7
            case "fail":
                health = failed(sent(health, now=now), now=now, limits=LIMITS)
            case "leave":
                health = abandoned(sent(health, now=now))
            case _:
                health = answered()
        if health.ejected_until is not None:
            assert health.ejected_until <= now + LIMITS.longest
            assert health.failures >= LIMITS.consecutive
    later = Replica(name="a", served=frozenset({NER}), health=health)
    assert isinstance(choose([later], wanted=NER, now=now + LIMITS.longest, u1=0, u2=0), Chosen)


def test_consecutive_failures_eject_and_each_failed_probe_doubles_the_time() -> None:
    health = Health()
    for _ in range(3):
        assert health.ejected_until is None
        health = failed(health, now=10.0, limits=LIMITS)
    assert health.ejected_until == 11.0
    # A request that was under way when it was ejected changes nothing but the count.
    assert failed(health, now=10.5, limits=LIMITS).ejected_until == 11.0
    until = []
    for _ in range(5):
        now = health.ejected_until or 0.0
        health = sent(health, now=now)
        assert health.probing
        health = failed(health, now=now, limits=LIMITS)
        until.append((health.ejected_until or 0.0) - now)
    assert until == [2.0, 4.0, 8.0, 8.0, 8.0]


def test_half_open_lets_one_request_try_and_its_answer_readmits() -> None:
    health = Health(failures=3, ejections=1, ejected_until=5.0)
    replica = Replica(name="a", served=frozenset({NER}), health=health)
    closed = choose([replica], wanted=NER, now=4.0, u1=0, u2=0)
    assert closed == NoReplica(reason=Reason.ALL_EJECTED, retry_after=1.0)
    assert choose([replica], wanted=NER, now=5.0, u1=0, u2=0) == Chosen(name="a", reason=Reason.ONLY_ONE)
    probing = Replica(name="a", served=frozenset({NER}), health=sent(health, now=5.0))
    assert isinstance(choose([probing], wanted=NER, now=5.0, u1=0, u2=0), NoReplica)
    assert answered() == Health()


def test_reasons_say_what_is_missing() -> None:
    idle = Replica(name="a", served=frozenset({OTHER}))
    assert choose([], wanted=NER, now=0, u1=0, u2=0) == NoReplica(reason=Reason.NO_REPLICA)
    assert choose([idle], wanted=NER, now=0, u1=0, u2=0) == NoReplica(reason=Reason.NOT_SERVED)
    assert choose([idle], wanted=OTHER, now=0, u1=0, u2=0, tried={"a"}) == NoReplica(reason=Reason.ALL_TRIED)
