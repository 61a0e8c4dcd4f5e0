import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.decide.steps import (
    CRASHES,
    FAILURES,
    FETCHES,
    Collect,
    Done,
    Failure,
    Fetch,
    GiveUp,
    Install,
    Load,
    Loaded,
    Observed,
    Swap,
    Unload,
    Why,
    active_versions,
    next_step,
    subject,
)
from edge_agent.decide.variants import Device, choose_variants
from shared.bundle.chunks import missing
from shared.protocol.policy import Override, Policy
from shared.protocol.reported import ModelState
from tests.edge_agent.control.generations import generation, ref
from tests.shared.bundle.bundles import bundle

BUNDLES = {}
for model, release in (
    ("sentiment-zh", "1.0.0"),
    ("sentiment-zh", "1.1.0"),
    ("ner-zh", "1.0.0"),
    ("embed-zh", "1.0.0"),
):
    manifest, _, digest, _ = bundle(model, release)
    BUNDLES[digest] = manifest
again, _, other_bytes, _ = bundle("ner-zh", "1.0.0", seed="same version, other bytes")
BUNDLES[other_bytes] = again
DEVICE = Device(preferred="cpu-int8")


def ref_of(digest, variant=None):
    manifest = BUNDLES[digest]
    return ref(digest, manifest.name, manifest.version, variant)


def everything(generation, **changes):
    """Observed when all is staged and loaded for `generation`."""
    variants = choose_variants(generation.models, BUNDLES, DEVICE)
    chunks = {chunk.digest for m in generation.models for f in BUNDLES[m.digest].files for chunk in f.chunks}
    return msgspec.structs.replace(
        Observed(
            device=DEVICE,
            manifests={m.digest: BUNDLES[m.digest] for m in generation.models},
            chunks=frozenset(chunks | {m.digest for m in generation.models}),
            installed=frozenset((m.digest, variants[m.digest]) for m in generation.models),
            loaded={
                (m.name, m.version): Loaded(digest=m.digest, variant=variants[m.digest], state=ModelState.READY)
                for m in generation.models
            },
        ),
        **changes,
    )


ONE = generation(1, *(ref_of(digest) for digest in list(BUNDLES)[:3]))


def test_all_is_fetched_then_installed_then_loaded_then_swapped():
    assert [type(step).__name__ for step in World(Observed(device=DEVICE)).run(ONE)] == [
        *["Fetch"] * 6,
        *["Install"] * 3,
        *["Load"] * 3,
        "Swap",
        "Done",
    ]


def test_a_generation_of_policy_alone_is_swapped_at_once():
    two = msgspec.structs.replace(ONE, number=2, policy=Policy(deadline_ms=5.0))
    step = next_step(two, everything(ONE, current=ONE))
    assert isinstance(step, Swap)
    assert step.generation == two
    assert isinstance(next_step(two, everything(ONE, current=two)), Done)


def test_nothing_is_unloaded_before_the_swap_and_what_is_kept_stays_on_disk():
    two = generation(2, ONE.models[0])
    assert isinstance(next_step(two, everything(ONE, current=ONE)), Swap)
    kept = frozenset(model.digest for model in ONE.models)
    world = World(everything(ONE, current=two, kept=kept))
    steps = world.run(two)
    assert [type(step) for step in steps] == [Unload, Unload, Done]
    assert steps[0].reason is Why.NOT_WANTED
    assert isinstance(next_step(two, msgspec.structs.replace(world.seen, kept=frozenset())), Collect)


def test_the_shared_file_of_a_kept_model_is_not_collected():
    two = generation(2, ONE.models[0])
    step = next_step(
        two,
        everything(
            ONE, current=two, loaded={("sentiment-zh", "1.0.0"): everything(ONE).loaded["sentiment-zh", "1.0.0"]}
        ),
    )
    assert isinstance(step, Collect)
    own = {chunk.digest for file in BUNDLES[two.models[0].digest].files for chunk in file.chunks}
    assert not step.chunks & own
    assert step.bundles == everything(ONE).installed - {(two.models[0].digest, "cpu-int8")}


def test_a_failing_version_is_given_up_and_its_traces_removed():
    key = subject(ONE.models[1].digest, "cpu-int8")
    zero = generation(0)
    for failure in (Failure(failed=FAILURES, crashed=0, error="bad"), Failure(failed=0, crashed=CRASHES, error="bad")):
        world = World(everything(ONE, current=zero, failures={key: failure}))
        steps = world.run(ONE)
        assert [type(step) for step in steps] == [Unload, Unload, Unload, Collect, GiveUp]
        assert steps[-1].reason is Why.QUARANTINED
        assert steps[-1].digest == ONE.models[1].digest
        manifests = frozenset(model.digest for model in ONE.models)
        assert (world.seen.chunks, world.seen.installed, world.seen.current) == (manifests, frozenset(), zero)


def test_one_failure_is_another_chance():
    failures = {
        subject(ONE.models[1].digest): Failure(failed=FETCHES - 1, crashed=0, error="often"),
        subject(ONE.models[1].digest, "cpu-int8"): Failure(failed=FAILURES - 1, crashed=CRASHES - 1, error="once"),
    }
    assert isinstance(World(Observed(device=DEVICE, failures=failures)).run(ONE)[-1], Done)


def test_another_variant_of_a_running_version_takes_its_place_and_gives_it_back_when_it_fails():
    two = generation(2, msgspec.structs.replace(ONE.models[0], variant="cpu-fp32"))
    one = generation(1, ONE.models[0])
    kept = frozenset({ONE.models[0].digest})
    world = World(everything(one, current=one, kept=kept), fails={subject(ONE.models[0].digest, "cpu-fp32")})
    steps = world.run(two)
    assert isinstance(steps[-1], GiveUp)
    assert [step.variant for step in steps if isinstance(step, Load)] == ["cpu-fp32", "cpu-fp32", "cpu-int8"]
    assert world.seen.current == one
    assert world.seen.loaded == everything(one).loaded


def test_a_manifest_of_another_model_is_given_up():
    bad = generation(1, ref(ONE.models[0].digest, "ner-zh", "1.0.0"))
    step = next_step(bad, everything(ONE, loaded={}, installed=frozenset(), chunks=frozenset()))
    assert (type(step), step.reason) == (GiveUp, Why.MISMATCH)


def test_a_variant_nobody_has_is_given_up():
    bad = generation(1, ref_of(ONE.models[0].digest, "npu"))
    step = next_step(bad, everything(ONE, loaded={}, installed=frozenset(), chunks=frozenset()))
    assert (type(step), step.reason) == (GiveUp, Why.UNFIT)
    assert "cpu-int8" in step.error


def test_the_active_version_is_the_largest_share_and_never_the_shadow():
    old, new = (digest for digest in BUNDLES if BUNDLES[digest].name == "sentiment-zh")
    both = (ref_of(old), ref_of(new))

    def active(**override):
        policy = Policy(models={"sentiment-zh": Override(**override)}) if override else Policy()
        return active_versions(generation(1, *both, policy=policy))["sentiment-zh"]

    assert active() == "1.0.0"
    assert active(split={"1.0.0": 20, "1.1.0": 80}) == "1.1.0"
    assert active(shadow="1.0.0") == "1.1.0"


class World:
    """Does steps to an observation, as the agent does to itself; loading what is in `fails` fails every time."""

    def __init__(self, seen, fails=(), chance=lambda: False):
        self.seen = seen
        self.fails = fails
        self.chance = chance

    def run(self, desired, most=300):
        done = []
        while not done or not isinstance(done[-1], Done | GiveUp):
            assert len(done) < most, "does not end"
            step = next_step(desired, self.seen)
            done.append(step)
            self.check(step)
            if isinstance(step, Fetch | Install | Load) and self.breaks(step):
                key = subject(step.model.digest, None if isinstance(step, Fetch) else step.variant)
                failed = self.seen.failures.get(key, Failure(failed=0, crashed=0, error=""))
                self.change(
                    failures={**self.seen.failures, key: msgspec.structs.replace(failed, failed=failed.failed + 1)}
                )
                if isinstance(step, Load):
                    self.put(step, ModelState.FAILED)
            else:
                self.do(step)
        return done

    def breaks(self, step):
        return (isinstance(step, Load) and subject(step.model.digest, step.variant) in self.fails) or self.chance()

    def check(self, step):
        """What must hold of every step, wherever it starts from."""
        match step:
            case Swap():
                for model in step.generation.models:
                    loaded = self.seen.loaded[model.name, model.version]
                    assert loaded.state is ModelState.READY
                    assert (loaded.digest, loaded.variant) == (model.digest, step.variants[model.digest])
            case Install():
                files = BUNDLES[step.model.digest].files_of(step.variant)
                assert not missing(files, self.seen.chunks)
            case Load():
                assert (step.model.digest, step.variant) in self.seen.installed
            case Collect():
                assert step.bundles or step.chunks
                assert not {digest for digest, _ in step.bundles} & self.seen.kept
                assert not step.chunks & self.seen.kept

    def do(self, step):
        seen = self.seen
        match step:
            case Fetch(variant=None):
                digest = step.model.digest
                self.change(manifests={**seen.manifests, digest: BUNDLES[digest]}, chunks=seen.chunks | {digest})
            case Fetch():
                files = BUNDLES[step.model.digest].files_of(step.variant)
                self.change(chunks=seen.chunks | {chunk.digest for chunk in missing(files, seen.chunks)})
            case Install():
                self.change(installed=seen.installed | {(step.model.digest, step.variant)})
            case Load():
                self.put(step, ModelState.READY)
            case Swap():
                self.change(current=step.generation)
            case Unload():
                self.change(loaded={key: one for key, one in seen.loaded.items() if key != (step.name, step.version)})
            case Collect():
                chunks = seen.chunks - step.chunks
                self.change(
                    chunks=chunks,
                    installed=seen.installed - step.bundles,
                    manifests={digest: one for digest, one in seen.manifests.items() if digest in chunks},
                )

    def put(self, step, state):
        loaded = Loaded(digest=step.model.digest, variant=step.variant, state=state)
        self.change(loaded={**self.seen.loaded, (step.model.name, step.model.version): loaded})

    def change(self, **changes):
        self.seen = msgspec.structs.replace(self.seen, **changes)


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
