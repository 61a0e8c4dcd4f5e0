"""The ways that may be tried: within the cores, what somebody fixed stays fixed, the frugal ones first."""

from hypothesis import assume, given
from hypothesis import strategies as st

from shared.serving.decide.ways import (
    FEW,
    MOST_BURST_S,
    SLICE_S,
    Program,
    Space,
    Stage,
    Way,
    bounds,
    bursts_of,
    first_share,
    repeats_of,
    shares,
    varied,
    ways_of,
)

PROGRAMS = (Program(variant="cpu-int8"), Program(variant="cpu-fp32"), Program(variant="cpu-fp32", runtime="openvino"))


@given(st.integers(1, 256))
def test_shares_are_within_the_cores_and_the_frugal_come_first(cores):
    found = shares(Space(programs=PROGRAMS, cores=cores))
    assert all(1 <= lanes * threads <= cores for lanes, threads in found)
    assert len(set(found)) == len(found) <= 40
    assert found[0] == (1, 1)
    assert [lanes * threads for lanes, threads in found] == sorted(lanes * threads for lanes, threads in found)
    assert {(cores, 1), (1, cores)} <= set(found)


@given(st.integers(1, 64), st.one_of(st.none(), st.integers(1, 128)), st.one_of(st.none(), st.integers(1, 128)))
def test_what_is_fixed_stays_fixed(cores, lanes, threads):
    space = Space(programs=PROGRAMS, cores=cores, lanes=lanes, threads=threads)
    found = shares(space)
    assert found
    assert all(lanes in (None, a) and threads in (None, b) for a, b in found)
    first = first_share(space)
    assert (lanes in (None, first.lanes), threads in (None, first.threads)) == (True, True)
    # What starts a run is among what it may end with.
    assume(first.lanes * first.threads <= cores)
    assert (first.lanes, first.threads) in found


def test_two_cores():
    assert shares(Space(programs=PROGRAMS, cores=2)) == ((1, 1), (2, 1), (1, 2))


def test_programs_keep_their_order_and_run_on_all_cores():
    space = Space(programs=PROGRAMS, cores=4)
    ways = ways_of(space, Stage.PROGRAM, None, ())
    assert [(way.variant, way.arrangement.runtime) for way in ways] == [
        ("cpu-int8", "onnxruntime"),
        ("cpu-fp32", "onnxruntime"),
        ("cpu-fp32", "openvino"),
    ]
    assert {(way.arrangement.lanes, way.arrangement.threads) for way in ways} == {(4, 1)}


@given(st.integers(1, 64), st.booleans(), st.sampled_from(Stage))
def test_nothing_spins_unless_the_device_is_dedicated(cores, dedicated, stage):
    space = Space(programs=PROGRAMS, cores=cores, spinning=dedicated)
    ways = ways_of(space, stage, Way(variant="cpu-int8", arrangement=first_share(space)), (1, 8, 64))
    spinning = [way for way in ways if way.arrangement.spinning]
    assert all(way.arrangement.threads > 1 for way in spinning)
    assert bool(spinning) == (dedicated and stage is Stage.SHARE and cores > 1)


@given(st.integers(1, 64), st.integers(1, 16))
def test_bounds_of_a_batch_make_a_difference(most, lanes):
    found = bounds(most, lanes)
    share = -(-most // lanes)
    sizes = [min(32 if rows is None else rows, share) for rows in found]
    assert found[0] is None
    assert len(set(sizes)) == len(sizes)


def test_what_shares_no_batch_has_no_bounds():
    assert bounds(64, None) == (None,)
    space = Space(programs=PROGRAMS, cores=2, batched=False)
    assert len(ways_of(space, Stage.BATCH, Way(variant="cpu-int8"), (1, 8, 64))) == 1


@given(st.floats(min_value=1e-6, max_value=100))
def test_bursts_are_as_large_as_there_is_time_for(alone):
    found = bursts_of(alone)
    assert found[0] == 1
    assert list(found) == sorted(set(found))
    assert all(n * alone <= MOST_BURST_S for n in found[1:])
    assert (FEW in found) == (FEW * alone <= MOST_BURST_S)


@given(st.floats(min_value=1e-6, max_value=100), st.integers(1, 64), st.integers(0, 100))
def test_rounds_differ_a_little_and_are_the_same_for_every_way(alone, n, number):
    assert 1 <= repeats_of(alone, n) <= 8
    assert repeats_of(alone, n) * n * alone <= SLICE_S or repeats_of(alone, n) == 1
    assert n * 3 // 4 <= varied(n, number) <= n
    assert varied(n, 0) == n
    assert varied(1, number) == 1
