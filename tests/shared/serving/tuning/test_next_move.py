"""A tuning run against machines that are made up: it ends, in time, with the best way there is, and goes on where it was."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.scoring import LEAST_GAIN, MOST_NOISE
from shared.serving.decide.tuned import rows_of
from shared.serving.decide.tuning import (
    ROUNDS,
    Alone,
    Finish,
    Left,
    Measure,
    Probe,
    Progress,
    Sample,
    Why,
    advanced,
    answers,
    next_move,
)
from shared.serving.decide.ways import Program, Space, Stage, Way, ways_of
from tests.shared.serving.tuning.machines import MadeUp, laned

PROGRAMS = (
    Program(variant="cpu-int8"),
    Program(variant="cpu-fp32"),
    Program(variant="cpu-fp32", runtime="openvino"),
    Program(variant="cpu-fp32", runtime="openvino", precision="bf16"),
)
SPACES = st.builds(
    Space,
    programs=st.lists(st.sampled_from(PROGRAMS), min_size=1, max_size=4, unique=True).map(tuple),
    cores=st.sampled_from((1, 2, 3, 4, 8, 16)),
    lanes=st.one_of(st.none(), st.integers(1, 2)),
    threads=st.one_of(st.none(), st.integers(1, 2)),
    spinning=st.booleans(),
    batched=st.booleans(),
    seconds=st.sampled_from((0.05, 1.0, 1000.0)),
)


def drawn(seed):
    """How long each way takes, drawn once for all: any order of ways is possible."""

    def seconds(way, n):
        draw = random.Random(f"{seed} {way}")
        return draw.uniform(1e-4, 1e-2) * n ** draw.uniform(0.5, 1.0)

    return seconds


@given(SPACES, st.integers(0, 1000), st.sets(st.sampled_from(PROGRAMS)))
def test_every_run_ends_and_never_chooses_what_is_out(space, seed, broken):
    def out(way):
        how = way.arrangement
        mine = Program(variant=way.variant, runtime=how.runtime, precision=how.precision)
        return "golden-differs" if mine in broken else None

    machine = MadeUp(drawn(seed), out=out)
    progress, finish = machine.run(space)
    tried = Counter(move.way for move in machine.moves)
    assert all(count == 1 for way, count in tried.items() if out(way) is not None)
    measured = {sample.way for sample in progress.samples}
    if finish.way is not None:
        assert (finish.reason, out(finish.way)) == (Why.MEASURED, None)
        assert finish.way in measured
        assert [row.way for row in rows_of(progress, finish) if row.chosen] == [finish.way]
    else:
        assert finish.reason in (Why.ALL_OUT, Why.OUT_OF_TIME)
    if set(space.programs) <= broken:
        assert finish.reason is not Why.MEASURED


@given(SPACES, st.integers(0, 1000))
def test_each_stage_is_interleaved_and_bounded(space, seed):
    progress, _ = MadeUp(drawn(seed)).run(space)
    for stage in Stage:
        counts = Counter()
        for sample in progress.samples:
            if sample.stage is stage:
                counts[sample.way] += 1
                assert counts[sample.way] == max(counts.values())
        assert max(counts.values(), default=0) <= ROUNDS


@given(SPACES, st.integers(0, 1000), st.data())
def test_a_run_that_was_interrupted_goes_on_where_it_was(space, seed, data):
    whole, finish = MadeUp(drawn(seed)).run(space)
    cut = data.draw(st.integers(0, len(whole.samples)))
    part = Progress(alone=whole.alone, samples=whole.samples[:cut])
    assert MadeUp(drawn(seed)).run(space, part) == (whole, finish)


@given(SPACES, st.integers(0, 1000), st.floats(min_value=0.01, max_value=0.2))
def test_a_run_ends_in_time(space, seed, took):
    progress, _ = MadeUp(drawn(seed), took=took).run(space)
    assert progress.spent <= space.seconds + took


@given(st.integers(0, 1000), st.sampled_from((1, 2, 4)))
def test_without_noise_every_stage_chooses_the_best_it_compares(seed, cores):
    space = Space(programs=PROGRAMS, cores=cores, seconds=1e6)
    machine = MadeUp(drawn(seed))
    progress, finish = machine.run(space)
    chosen = None
    for stage in Stage:
        ways = ways_of(space, stage, chosen, progress.bursts)
        scores = {way: machine.score(way, progress.bursts) for way in ways}
        best = min(scores.values())
        if chosen is None or len(ways) > 1:
            chosen = next(way for way in ways if not scores[way] - best > LEAST_GAIN)
    assert finish.way == chosen


@given(st.integers(0, 200))
def test_with_noise_the_choice_is_near_the_best_of_its_stage(seed):
    space = Space(programs=PROGRAMS, cores=4, seconds=1e6)
    draw = random.Random(seed)
    machine = MadeUp(drawn(seed), noise=lambda _: math.exp(draw.gauss(0, 0.03)))
    progress, finish = machine.run(space)
    last = next(row for row in rows_of(progress, finish) if row.chosen)
    rivals = [sample.way for sample in progress.samples if sample.stage is last.stage]
    best = min(machine.score(way, progress.bursts) for way in rivals)
    assert machine.score(finish.way, progress.bursts) - best <= MOST_NOISE + 4 * 0.03


def test_lanes_win_where_they_share_well_and_threads_where_they_do():
    space = Space(programs=PROGRAMS[:1], cores=4, seconds=1e6)
    _, lanes = MadeUp(laned(0.002, share=0.3)).run(space)
    assert (lanes.way.arrangement.lanes, lanes.way.arrangement.threads) == (4, 1)
    _, threads = MadeUp(laned(0.002, share=1.2)).run(space)
    assert (threads.way.arrangement.lanes, threads.way.arrangement.threads) == (1, 4)


def test_where_nothing_makes_a_difference_one_core_and_the_preferred_variant_are_used():
    space = Space(programs=PROGRAMS, cores=8, spinning=True, seconds=1e6)
    _, finish = MadeUp(lambda way, n: 0.001 * n).run(space)
    assert finish.way == Way(variant="cpu-int8")


def test_another_variant_wins_that_is_faster_and_right():
    faster = laned(0.002, twice=lambda way: way.variant == "cpu-fp32" and way.arrangement.precision == "bf16")
    space = Space(programs=PROGRAMS, cores=2, seconds=1e6)
    _, finish = MadeUp(faster).run(space)
    assert (finish.way.variant, finish.way.arrangement.precision) == ("cpu-fp32", "bf16")
    _, finish = MadeUp(faster, out=lambda way: "golden-differs" if way.arrangement.precision == "bf16" else None).run(
        space
    )
    assert finish.way.variant == "cpu-int8"


def test_nothing_to_choose_from_and_nothing_left():
    assert next_move(Space(programs=()), Progress()) == Finish(way=None, reason=Why.NOTHING_FITS)
    _, finish = MadeUp(laned(0.001), out=lambda way: "crashed").run(Space(programs=PROGRAMS, cores=2))
    assert finish == Finish(way=None, reason=Why.ALL_OUT)


def test_a_model_that_takes_longer_than_there_is_time_is_not_judged():
    _, finish = MadeUp(lambda way, n: 30.0 * n, took=30.0).run(Space(programs=PROGRAMS, cores=2, seconds=10.0))
    assert finish == Finish(way=None, reason=Why.OUT_OF_TIME)


def test_only_what_was_asked_is_an_answer():
    way, other = Way(variant="cpu-int8"), Way(variant="cpu-fp32")
    probe, measure = Probe(way=way), Measure(stage=Stage.SHARE, way=way, bursts=(1, 8), repeats=(8, 1))
    assert answers(Alone(way=way, seconds=0.1), probe)
    assert answers(Sample(stage=Stage.SHARE, way=way, seconds=(0.1, 0.2)), measure)
    assert answers(Left(way=way, code="crashed"), measure)
    for said, move in (
        (Alone(way=way, seconds=0.1), measure),
        (Alone(way=other, seconds=0.1), probe),
        (Alone(way=way, seconds=0.0), probe),
        (Alone(way=way, seconds=math.nan), probe),
        (Alone(way=way, seconds=0.1, took=-1.0), probe),
        (Sample(stage=Stage.SHARE, way=way, seconds=(0.1,)), measure),
        (Sample(stage=Stage.BATCH, way=way, seconds=(0.1, 0.2)), measure),
        (Sample(stage=Stage.SHARE, way=way, seconds=(0.1, math.inf)), measure),
        (Left(way=other, code="crashed"), measure),
        (Left(way=way, code="crashed"), Finish(way=way, reason=Why.MEASURED)),
    ):
        assert not answers(said, move), (said, move)


@pytest.mark.parametrize(
    "said", [Alone(way=Way(variant="v"), seconds=1.0, took=2.0), Left(way=Way(variant="v"), code="x", took=3.0)]
)
def test_all_time_counts(said):
    assert advanced(Progress(), said).spent == said.took
