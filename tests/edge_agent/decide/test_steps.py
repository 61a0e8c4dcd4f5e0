import msgspec

from edge_agent.decide.answering import active_versions
from edge_agent.decide.blame import COLLECTING, CRASHES, FAILURES, FETCHES, Failure, removal, subject, trial
from edge_agent.decide.steps import (
    Collect,
    Done,
    Fetch,
    GiveUp,
    Load,
    Observed,
    Swap,
    Unload,
    Why,
    next_step,
)
from shared.bundle.chunks import missing, space_for
from shared.protocol.policy import Override, Policy
from tests.edge_agent.control.generations import generation, ref
from tests.edge_agent.decide.steps_world import BUNDLES, DEVICE, ONE, World, everything, ref_of


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


def test_where_the_disk_is_too_small_what_was_before_the_live_version_goes_and_the_live_one_never():
    old, live, new = (generation(n, ONE.models[at]) for n, at in ((1, 2), (2, 1), (3, 0)))
    of_new = BUNDLES[new.models[0].digest]
    held = {chunk.digest for m in (old, live) for f in BUNDLES[m.models[0].digest].files for chunk in f.chunks}
    own = {chunk.digest for file in BUNDLES[live.models[0].digest].files for chunk in file.chunks}
    seen = everything(
        generation(0, *old.models, *live.models),
        current=live,
        kept=frozenset({old.models[0].digest, live.models[0].digest}),
        manifests={m.digest: BUNDLES[m.digest] for m in ONE.models},
        chunks=frozenset(held | {m.digest for m in ONE.models}),
        room=0,
    )
    step = next_step(new, seen)
    assert (type(step), step.reason) == (Collect, Why.SHORT)
    assert step.bundles == {(old.models[0].digest, "cpu-int8")}
    assert step.chunks
    assert not step.chunks & {*own, live.models[0].digest, new.models[0].digest}
    world = World(seen)
    world.do(step)
    after = next_step(new, world.seen)
    assert (type(after), after.model.digest) == (Fetch, new.models[0].digest)
    files = of_new.files_of("cpu-int8")
    need = space_for(files, missing(files, seen.chunks))
    assert isinstance(next_step(new, msgspec.structs.replace(seen, room=need)), Fetch)
    assert isinstance(next_step(new, msgspec.structs.replace(seen, room=need - 1)), Collect)
    # What was before may still be gone back to: it stays, and the fetch says what it lacks.
    assert isinstance(next_step(new, msgspec.structs.replace(seen, unproved=True)), Fetch)


def test_a_generation_that_was_rolled_back_is_given_up_and_one_that_is_being_judged_is_not():
    failures = {trial(ONE.order): Failure(failed=1, crashed=0, error="it answers nonsense")}
    steps = World(everything(ONE, current=generation(0), failures=failures)).run(ONE)
    assert (type(steps[-1]), steps[-1].reason, steps[-1].error) == (GiveUp, Why.ROLLED_BACK, "it answers nonsense")
    for crashed, end in ((CRASHES - 1, Swap), (CRASHES, GiveUp)):
        failures = {trial(ONE.order): Failure(failed=0, crashed=crashed, error="died")}
        step = World(everything(ONE, current=generation(0), failures=failures)).run(ONE)
        assert end in {type(each) for each in step}
        assert isinstance(next_step(ONE, everything(ONE, current=ONE, failures=failures)), Done)


def test_what_cannot_be_unloaded_or_collected_is_left_at_last():
    two = generation(2, ONE.models[0])
    seen = everything(ONE, current=two)
    assert isinstance(next_step(two, seen), Unload)
    bad = Failure(failed=FAILURES, crashed=0, error="it hangs")
    names = {removal(model.name, model.version): bad for model in ONE.models[1:]}
    assert isinstance(next_step(two, msgspec.structs.replace(seen, failures=names)), Collect)
    assert isinstance(next_step(two, msgspec.structs.replace(seen, failures=names | {COLLECTING: bad})), Done)


def test_nothing_is_collected_while_what_was_before_may_be_gone_back_to():
    two = generation(2, ONE.models[0])
    seen = everything(ONE, current=two, loaded=everything(two).loaded)
    assert isinstance(next_step(two, seen), Collect)
    assert isinstance(next_step(two, msgspec.structs.replace(seen, unproved=True)), Done)
