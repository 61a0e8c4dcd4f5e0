"""How versions are loaded on a device: as its user, its fleet or its own measurement says, and plainly where that does not run."""

import msgspec

from edge_agent.control.link import digest_of
from edge_agent.control.loading import Version
from edge_agent.decide.arranging import Fixed, Source, Wishes
from shared.bundle.install import folder_name
from shared.bundle.manifest import parse_manifest
from shared.protocol.desired import Limits
from shared.serving.arrangement import Arrangement
from shared.serving.decide.tuned import Record, Row
from shared.serving.decide.tuning import Why
from shared.serving.decide.ways import Program, Space, Stage, Way
from tests.edge_agent.control.device import MACHINE, on_device
from tests.edge_agent.control.generations import generation, ref, signed
from tests.edge_agent.control.scene import BYTES, OLD, applied

KEY = ("sentiment-zh", "1.0.0")
MEASURED, TOLD = Arrangement(lanes=1, threads=3), Arrangement(lanes=2, threads=2, rows=8)


ROW = Row(
    stage=Stage.BATCH, way=Way(variant="cpu-int8"), rounds=9, seconds={1: 0.001, 8: 0.004}, score=-6.0, chosen=True
)


def record(arrangement=MEASURED, *, variant="cpu-int8", variants=("cpu-int8",), machine=MACHINE, **space):
    asked = Space(
        **({"programs": tuple(Program(variant=name) for name in variants), "cores": 4, "batched": True} | space)
    )
    return Record(
        digest=OLD, name=KEY[0], version=KEY[1], machine=machine, space=asked,
        way=Way(variant=variant, arrangement=arrangement), reason=Why.MEASURED, rows=(ROW,), at=1.0, spent=1.0,
    )  # fmt: skip


def told(number=1, arrangement=TOLD, **more):
    model = msgspec.structs.replace(ref(OLD, **more.pop("ref", {})), arrangement=arrangement)
    return generation(number, model, **more)


def loaded(tmp_path, of, *records, wishes=Wishes(), refused=()):  # noqa: B008
    """How the one model of generation `of` was loaded on a device that has these records, and what it says of it."""
    found = {}

    async def work(start, api):
        api.bytes = dict(BYTES)
        agent = start(wishes=wishes)
        agent.host.refused = set(refused)
        for each in records:
            agent.records.add(each)
        async with agent.running():
            await agent.converger.accept(signed(of))
            await agent.until(applied(of))
            found["host"] = agent.host.arrangements[KEY]
            found["said"] = agent.arrangements.loaded[KEY]
            found["report"] = agent.report

    on_device(tmp_path, work)
    assert found["said"].arrangement == found["host"]
    return found["host"], found["said"], found["report"]


PLAIN = generation(1, ref(OLD))


def test_what_suits_the_cores_where_nobody_said_anything(tmp_path):
    how, said, report = loaded(tmp_path, PLAIN)
    assert (how, said.source) == (Arrangement(lanes=4), Source.DEFAULT)
    assert report.tuned == ()


def test_what_was_measured_here_and_it_is_reported(tmp_path):
    how, said, report = loaded(tmp_path, PLAIN, record())
    assert (how, said.source) == (MEASURED, Source.MEASURED)
    (tuned,) = report.tuned
    assert tuned.seconds == {"1": 0.001, "8": 0.004}
    # As the link does: what cannot be put in order cannot be reported.
    assert digest_of(report) != digest_of(msgspec.structs.replace(report, tuned=()))
    assert (tuned.digest, tuned.variant, tuned.arrangement, tuned.machine) == (OLD, "cpu-int8", MEASURED, MACHINE.key)


def test_what_was_measured_elsewhere_is_not_followed(tmp_path):
    other = msgspec.structs.replace(MACHINE, cores=8)
    _, said, report = loaded(tmp_path, PLAIN, record(machine=other))
    assert (said.source, report.tuned) == (Source.DEFAULT, ())


def test_what_the_fleet_was_told_goes_before_what_was_measured_here(tmp_path):
    how, said, _ = loaded(tmp_path, told(), record())
    assert (how, said.source) == (TOLD, Source.TOLD)


def test_what_the_user_set_goes_before_both(tmp_path):
    fixed = Wishes(fixed=Fixed(lanes=1, threads=1))
    how, _, _ = loaded(tmp_path, told(), wishes=fixed)
    assert how == Arrangement(rows=8)
    how, said, _ = loaded(tmp_path / "2", PLAIN, record(), wishes=fixed)
    assert (how, said.source) == (Arrangement(), Source.SETTINGS)


def test_a_limit_of_the_generation_holds_and_is_another_question(tmp_path):
    limited = generation(1, ref(OLD), limits=Limits(threads=2))
    how, said, _ = loaded(tmp_path, limited, record())
    assert (how, said.source) == (Arrangement(lanes=2, threads=2), Source.DEFAULT)
    within = Arrangement(lanes=1, threads=2)
    how, said, _ = loaded(tmp_path / "2", limited, record(within, threads=2))
    assert (how, said.source) == (within, Source.MEASURED)


def test_what_does_not_run_is_let_go_one_by_one_and_the_version_is_not_blamed(tmp_path):
    how, said, report = loaded(tmp_path, told(), record(), refused=(TOLD,))
    assert (how, said.source) == (MEASURED, Source.MEASURED)
    assert said.ignored == "told: it did not run like that"
    how, said, report = loaded(tmp_path / "2", told(), record(), refused=(TOLD, MEASURED))
    assert (how, said.source, report.error) == (Arrangement(lanes=4), Source.DEFAULT, None)


def test_a_runtime_that_is_not_here_is_not_tried(tmp_path):
    _, said, _ = loaded(tmp_path, told(arrangement=Arrangement(runtime="openvino")))
    assert said.source is Source.DEFAULT
    assert "no openvino here" in said.ignored


def test_another_variant_is_run_only_where_it_costs_nothing(tmp_path):
    best = record(variant="cpu-fp32", variants=("cpu-int8", "cpu-fp32"))

    async def work(start, api):
        api.bytes = dict(BYTES)
        agent = start()
        agent.records.add(best)
        async with agent.running():
            # It is not on the disk: nothing is fetched for it.
            await agent.converger.accept(signed(PLAIN))
            await agent.until(applied(PLAIN))
            assert agent.model().variant == "cpu-int8"
            # The cloud names it: it is fetched, and loaded in the other's place.
            named = generation(2, ref(OLD, variant="cpu-fp32"))
            await agent.converger.accept(signed(named))
            await agent.until(applied(named))
            assert agent.model().variant == "cpu-fp32"
            # The cloud names none: what runs stays.
            free = generation(3, ref(OLD))
            await agent.converger.accept(signed(free))
            await agent.until(applied(free))
            assert agent.model().variant == "cpu-fp32"
        again = start()
        async with again.running():
            # Both are on the disk: the one that was measured best is loaded.
            await again.until(applied(free))
            assert again.model().variant == "cpu-fp32"
            assert (again.bundles / folder_name(OLD, "cpu-int8")).is_dir()

    on_device(tmp_path, work)


def test_what_is_found_later_is_followed_without_loading_again(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        agent = start(wishes=Wishes())
        async with agent.running():
            await agent.converger.accept(signed(PLAIN))
            await agent.until(applied(PLAIN))
            loads, found = list(agent.host.done), agent.loader
            version = Version(
                parse_manifest(agent.store.get(OLD)), OLD, agent.bundles / folder_name(OLD, "cpu-int8"), "cpu-int8"
            )
            await found.follow("default", version)
            assert agent.host.arrangements[KEY] == Arrangement(lanes=4)
            agent.records.add(record())
            agent.host.roomy = False
            await found.follow("default", version)
            assert agent.arrangements.loaded[KEY].source is Source.DEFAULT
            agent.host.roomy = True
            await found.follow("default", version)
            assert agent.host.arrangements[KEY] == MEASURED
            assert agent.arrangements.loaded[KEY].source is Source.MEASURED
            agent.host.refused = {TOLD}
            await found.follow("default", version, told=TOLD)
            assert agent.host.arrangements[KEY] == MEASURED
            agent.host.refused = set()
            await found.follow("default", version, told=TOLD)
            assert agent.arrangements.loaded[KEY].ignored == "told: it did not run like that"
            assert agent.host.done == loads

    on_device(tmp_path, work)
