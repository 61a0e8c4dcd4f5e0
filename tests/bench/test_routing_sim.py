"""The routing simulator: its queue is ours, its bound holds, and what it replays is what the files say."""

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.routing_sim import CLOUDS, CONTESTANTS, LOCAL, Cell, away_of, examine, jobs_of, replay
from bench.routing_sim_bound import bound
from bench.routing_sim_burst import burst
from bench.routing_sim_device import Fault
from bench.routing_sim_online import online
from bench.routing_sim_traces import FOLDER, NAMES, Arrival, ServiceTimes, at_load, made, read, service_times
from bench.routing_sim_world import Job, Place, Power, World
from shared.protocol.errors import Refused
from shared.protocol.policy import Mode
from shared.serving.decide.batching import Budget, Waiting, next_batch

TIMES = ServiceTimes("made up", {}, {8: (0.01, 0.012), 64: (0.02, 0.03), 256: (0.1, 0.12)})


def arrivals(count: int, load: float) -> list[Arrival]:
    return at_load(made("bursts", count=count), load, TIMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_traces_are_those_their_seeds_make(name: str) -> None:
    assert list(read(FOLDER / f"{name}.jsonl")) == made(name)


def test_a_trace_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for text, where in (('{"arrival": 0}', "t.jsonl:1"), ("", "t.jsonl")):
        path.write_text(text)
        with pytest.raises(Refused) as caught:
            read(path)
        assert caught.value.field == where
    path.write_text('{"arrival": 1, "tokens": 3, "deadline": -1}\n')
    with pytest.raises(Refused):
        read(path)


def test_a_load_is_work_over_what_one_lane_can_do() -> None:
    scaled = arrivals(50, 2.0)
    work = sum(TIMES.mean(each.tokens) for each in scaled)
    assert work / scaled[-1].arrival == pytest.approx(2.0)


@given(st.integers(1, 600), st.integers(1, 600), st.floats(0, 1, exclude_max=True))
def test_longer_texts_take_longer(some: int, others: int, u: float) -> None:
    less, more = sorted((some, others))
    assert TIMES.of(less, u) <= TIMES.of(more, u)
    assert service_times().mean(less) <= 1.1 * service_times().mean(more)


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 5)), min_size=1, max_size=30))
def test_first_come_first_served_is_what_batches_of_one_row_are(waiting: list[tuple[int, float]]) -> None:
    moments = sorted(at for _, at in waiting)
    left = [
        Waiting(id=i, tokens=tokens, enqueued_at=at)
        for i, ((tokens, _), at) in enumerate(zip(waiting, moments, strict=True))
    ]
    order: list[int] = []
    while left:
        batch = next_batch(left, Budget(rows=1), now=10.0)
        order += batch.ids
        left = [each for each in left if each.id not in batch.ids]
    assert order == sorted(order)


def test_a_place_computes_as_many_at_once_as_it_has_lanes_and_drops_what_is_late() -> None:
    world = World()
    place = Place(world, Power(2, 2.0), TIMES)
    ends: list[tuple[int, float, bool]] = []
    for i in range(4):
        job = Job(i, 0.0, 64, 0.2, seconds=0.1, up=0.0, down=0.0, sure=1.0)

        def ended(answered: bool, i: int = i) -> None:
            ends.append((i, round(world.now, 6), answered))

        place.offer(job, 0.06 if i == 3 else 0.2, ended, guarded=False)
    world.run()
    assert ends == [(0, 0.05, True), (1, 0.05, True), (3, 0.06, False), (2, 0.1, True)]


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("name", CONTESTANTS)
def test_every_request_ends_once_and_no_answer_is_late_or_sooner_than_can_be(name: str, fault: Fault) -> None:
    cell = Cell("bursts", 1.5, 0.04, "double", fault)
    for job in replay(name, arrivals(80, 1.5), TIMES, cell):
        if job.latency is not None:
            quickest = min(job.seconds, job.up + job.down + job.seconds / 2)
            assert quickest - 1e-9 <= job.latency <= job.deadline - job.arrival + 1e-9


def test_a_replay_is_the_same_again() -> None:
    cell = Cell("bursts", 1.5, 0.04, "double", Fault.DOWN)
    first, again = (replay("fastest", arrivals(60, 1.5), TIMES, cell) for _ in range(2))
    assert [job.latency for job in first] == [job.latency for job in again]


@settings(max_examples=12)
@given(st.sampled_from(sorted(CLOUDS)), st.floats(0.3, 3.0), st.floats(0.005, 0.3), st.sampled_from(Fault))
def test_nobody_does_better_than_the_bound(cloud: str, load: float, rtt: float, fault: Fault) -> None:
    cell = Cell("bursts", load, rtt, cloud, fault)
    given_ = arrivals(40, load)
    # Prices may rise towards any goal, also one that nobody reached: the bound holds whatever they are.
    jobs = jobs_of(given_, TIMES, rtt)
    patience = sum(job.deadline - job.arrival for job in jobs)
    least = bound(jobs, LOCAL, CLOUDS[cloud], away_of(jobs, cell), cost=patience, missed=len(jobs))
    for name in CONTESTANTS:
        done = replay(name, given_, TIMES, cell)
        cost = sum(job.deadline - job.arrival if job.latency is None else job.latency for job in done)
        assert cost >= least.cost - 1e-6
        assert sum(job.latency is None for job in done) >= least.missed - 1e-6


@pytest.mark.parametrize("load", [0.6, 3.0])
@pytest.mark.parametrize("fault", [Fault.NONE, Fault.DOWN])
def test_what_is_had_without_the_future_is_no_better_than_the_bound(load: float, fault: Fault) -> None:
    cell = Cell("made up", load, 0.04, "double", fault)
    jobs = jobs_of(arrivals(60, load), TIMES, cell.rtt)
    away = away_of(jobs, cell)
    patience = sum(job.deadline - job.arrival for job in jobs)
    found = online(jobs, LOCAL, CLOUDS["double"], away)
    least = bound(jobs, LOCAL, CLOUDS["double"], away, cost=patience, missed=len(jobs))
    assert least.cost <= found.cost + 1e-6
    assert least.missed <= found.missed + 1e-6
    assert found.cost < patience


def test_without_the_future_one_request_goes_where_it_is_answered_first() -> None:
    job = Job(0, 1.0, 64, 1.0, seconds=0.4, up=0.05, down=0.05, sure=1.0)
    assert online([job], Power(), Power(1, 2.0), (0.0, 0.0)).cost == pytest.approx(0.3)
    assert online([job], Power(), Power(1, 2.0), (0.9, 1.2)).cost == pytest.approx(0.4)
    neither = online([job], Power(1, 0.3), Power(1, 2.0), (0.9, 1.2))
    assert neither.cost == pytest.approx(1.0)
    assert neither.missed == 1


def test_the_bound_on_the_mean_is_tight_where_one_lane_answers_one_after_the_other() -> None:
    # Alike, all here at once, and a cloud that is out of reach: 1 + 2 + 3 + 4 times 0.1 s, and the fifth is given up. A request that
    # may be split needs no more than half of one to be given up.
    jobs = [Job(i, 0.0, 64, 0.45, seconds=0.1, up=9.0, down=9.0, sure=1.0) for i in range(5)]
    least = bound(jobs, Power(), Power(), (0.0, 0.0), cost=1.45, missed=1)
    assert least.cost == pytest.approx(1.45, rel=0.03)
    assert 0.1 < least.missed <= 0.5 + 1e-6


def test_a_cell_has_every_contestant_beside_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_QUICK", "1")
    found = examine(Cell("steady", 0.6, 0.04, "double", Fault.NONE))
    assert set(found.scores) == set(CONTESTANTS)
    for score in found.scores.values():
        assert score.attainment <= found.bound.attainment + 1e-9
        assert score.mean >= found.bound.mean - 1e-9


def test_a_burst_of_many_devices_stays_within_what_the_cloud_admits() -> None:
    seen = burst(TIMES, Mode.FASTEST, devices=30)
    assert seen.asked > 0
    assert seen.entries < 1.0
    assert seen.shed <= 0.02 * seen.asked


def test_the_trace_of_bursts_has_them() -> None:
    gaps = [after.arrival - before.arrival for before, after in pairwise(made("bursts"))]
    source = random.Random(0)
    shuffled = source.sample(gaps, len(gaps))

    def most_in_a_second(steps: list[float]) -> int:
        moments, total = [], 0.0
        for step in steps:
            total += step
            moments.append(total)
        return max(sum(1 for other in moments if moment <= other < moment + 1.0) for moment in moments)

    assert most_in_a_second(gaps) > 1.3 * most_in_a_second(shuffled)
