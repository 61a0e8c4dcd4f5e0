import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.decide.blame import Failure, subject
from edge_agent.decide.steps import (
    Done,
    GiveUp,
    Loaded,
    Observed,
    next_step,
)
from shared.protocol.reported import ModelState
from tests.edge_agent.control.generations import generation
from tests.edge_agent.decide.steps_world import BUNDLES, DEVICE, World, ref_of

digests = st.sampled_from(list(BUNDLES))
variants = st.sampled_from(["cpu-fp32", "cpu-int8"])


@st.composite
def generations(draw):
    chosen = draw(
        st.lists(digests, max_size=4, unique_by=lambda digest: (BUNDLES[digest].name, BUNDLES[digest].version))
    )
    refs = [ref_of(digest, draw(st.none() | variants)) for digest in chosen]
    return generation(draw(st.integers(1, 5)), *refs)


@st.composite
def observations(draw):
    """Any mixture a crash, rot or another generation can leave."""
    known = draw(st.sets(digests))
    loaded = {}
    for digest in draw(st.sets(digests)):
        manifest = BUNDLES[digest]
        state = draw(st.sampled_from([ModelState.READY, ModelState.READY, ModelState.FAILED]))
        loaded[manifest.name, manifest.version] = Loaded(digest=digest, variant=draw(variants), state=state)
    chunks = sorted({chunk.digest for digest in known for file in BUNDLES[digest].files for chunk in file.chunks})
    failed = st.builds(Failure, failed=st.integers(0, 5), crashed=st.integers(0, 3), error=st.just("failed"))
    current = draw(st.none() | generations())
    return Observed(
        device=msgspec.structs.replace(DEVICE, memory_bytes=draw(st.none() | st.integers(0, 10))),
        current=current,
        kept=frozenset(draw(st.sets(digests))) | {model.digest for model in (current.models if current else ())},
        manifests={digest: BUNDLES[digest] for digest in known},
        chunks=frozenset(draw(st.sets(st.sampled_from(chunks)) if chunks else st.just(set()))) | known,
        installed=frozenset(draw(st.sets(st.tuples(digests, variants)))),
        loaded=loaded,
        failures=draw(st.dictionaries(st.builds(subject, digests, st.none() | variants), failed, max_size=3)),
    )


@settings(max_examples=300, deadline=None)
@given(generations(), observations(), st.randoms(use_true_random=False), st.sampled_from([0.0, 0.2, 0.6]))
def test_from_anywhere_it_ends_whole_or_gives_up_and_leaves_nothing_behind(desired, seen, random, chance):
    if seen.current is not None and seen.current.order == desired.order:
        seen = msgspec.structs.replace(seen, current=desired)
    world = World(seen, chance=lambda: random.random() < chance)
    end = world.run(desired)[-1]
    after = world.seen
    if isinstance(end, Done):
        assert after.current.order == desired.order
        assert set(after.loaded) == {(model.name, model.version) for model in desired.models}
        assert all(loaded.state is ModelState.READY for loaded in after.loaded.values())
    else:
        assert after.current == seen.current or after.current.order == desired.order
    wanted = after.kept | {model.digest for model in (after.current.models if after.current else ())}
    assert {digest for digest, _ in after.installed} <= wanted
    assert isinstance(next_step(desired, after), Done | GiveUp)


@settings(max_examples=150, deadline=None)
@given(generations(), generations(), observations(), st.integers(0, 30))
def test_a_newer_generation_in_the_middle_is_reached_as_well(first, second, seen, steps):
    world = World(msgspec.structs.replace(seen, failures={}, device=DEVICE))
    for _ in range(steps):
        step = next_step(first, world.seen)
        if isinstance(step, Done | GiveUp):
            break
        world.do(step)
    second = msgspec.structs.replace(second, number=9)
    assert isinstance(world.run(second)[-1], Done)
    assert world.seen.current == second
