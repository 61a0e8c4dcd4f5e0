"""`edge-agent tune`, and an agent that is measured while it serves: the real process, a real engine, the shipped models."""

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

import psutil
import pytest
import structlog

import cloud_core.models
from edge_agent.config import Settings
from edge_agent.control.arrangements import Arrangements
from edge_agent.control.loading import Loader, Version
from edge_agent.control.subjects import installed_here, measured, subject_of
from edge_agent.control.trials import Trials
from edge_agent.control.tuner import State, Surroundings, Tuner
from edge_agent.decide.arranging import Source, Wishes
from edge_agent.decide.variants import Device
from edge_agent.serving.activity import Activity, seen
from shared.bundle.install import folder_name
from shared.bundle.manifest import MANIFEST_FILE, digest_of, parse_manifest
from shared.io.clock import SystemClock
from shared.serving.answer import Request
from shared.serving.trial.replay import runtime
from shared.serving.tuning.machine import machine_here
from shared.serving.tuning.records import FILE, Records
from tests.contract.test_command_lines import line_of, run
from tests.shared.serving.bundles import TENANT, adder, engine

SHIPPED = Path(cloud_core.models.__file__).parent / "shipped"
LOG = structlog.wrap_logger(structlog.PrintLogger())
TEXT = "快递很快，包装完好，用起来很流畅。"


@pytest.fixture(autouse=True)
def _a_turn_of_its_own(monkeypatch, tmp_path):
    """Tests that run beside this one have theirs: a machine has one turn for each folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def tune(state, *arguments, seconds=30):
    return run("edge-agent", "tune", "--state-dir", str(state), "--seconds", str(seconds), *map(str, arguments))


def installed(state, name):
    """The bundle as a device has it: a folder for each variant."""
    manifest = parse_manifest((SHIPPED / name / MANIFEST_FILE).read_bytes())
    digest = digest_of((SHIPPED / name / MANIFEST_FILE).read_bytes())
    for variant in manifest.variants:
        folder = state / "bundles" / folder_name(digest, variant.name)
        folder.mkdir(parents=True)
        for entry in manifest.files_of(variant.name):
            shutil.copy(SHIPPED / name / entry.path, folder / entry.path)
        shutil.copy(SHIPPED / name / MANIFEST_FILE, folder / MANIFEST_FILE)
    return manifest, digest


def test_a_path_is_measured_shown_and_remembered(tmp_path):
    ran = tune(tmp_path, SHIPPED / "embed-zh", "--lanes", 1, "--threads", 1)
    assert ran.status == 0, ran.err
    assert "embed-zh 1.0.0" in ran.out
    assert "cpu-fp32" in ran.out
    (record,) = Records(tmp_path).read()
    assert record.way.arrangement.lanes == record.way.arrangement.threads == 1
    told = run("edge-agent", "status", "--state-dir", str(tmp_path), "--json").json
    (found,) = told["tuning"]["found"]
    assert (found["name"], found["variant"]) == ("embed-zh", record.way.variant)
    assert found["milliseconds"]["1"] > 0
    lines = run("edge-agent", "status", "--state-dir", str(tmp_path)).out
    assert f"embed-zh 1.0.0: {record.way.variant}, {record.way.arrangement.runtime}" in lines


def test_json_has_every_way(tmp_path):
    ran = tune(tmp_path, SHIPPED / "embed-zh", "--json", "--variant", "cpu-int8", "--lanes", 1, "--threads", 1)
    (record,) = ran.json
    assert {row["way"]["variant"] for row in record["rows"]} == {"cpu-int8"}
    assert record["way"]["variant"] == "cpu-int8"
    assert all(row["rounds"] or row["out"] for row in record["rows"])


def test_a_plain_program(tmp_path):
    ran = tune(tmp_path / "state", adder(tmp_path / "adder.onnx"), "--json", seconds=1)
    assert ran.status == 0, ran.err
    assert ran.json[0]["name"] == "adder"


def test_what_is_installed_is_named(tmp_path):
    installed(tmp_path, "embed-zh")
    for name in ((), ("embed-zh",), ("embed-zh@1.0.0",)):
        ran = tune(tmp_path, *name, "--json", "--lanes", 1, "--threads", 1, seconds=0.5)
        assert ran.status == 0, ran.err
        (record,) = ran.json
        assert {program["variant"] for program in record["space"]["programs"]} == {"cpu-int8", "cpu-fp32"}
    assert len(Records(tmp_path).read()) == 1


@pytest.mark.parametrize("what", ["no-such-model", "/no/such/path", ""])
def test_what_is_not_there_is_said_in_one_line(tmp_path, what):
    ran = tune(tmp_path, *([what] if what else []))
    assert ran.status == 1
    assert what in line_of(ran, "edge-agent")
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(("name", "value"), [("tune", "always"), ("tune_seconds", "0"), ("tune_after_idle_s", "-1")])
def test_bad_settings(tmp_path, name, value):
    ran = run("edge-agent", "tune", "--state-dir", str(tmp_path), **{f"EDGE_AGENT_{name.upper()}": value})
    assert ran.status == 2
    assert name in line_of(ran, "edge-agent")


def test_an_agent_whose_shares_are_fixed_is_not_measured_by_itself():
    assert Settings().tunes_itself
    assert Settings(lanes=2).tunes_itself
    assert not Settings(lanes=2, threads=1).tunes_itself
    assert not Settings(tune="off").tunes_itself


@contextlib.asynccontextmanager
async def agent(folder, **wishes):
    """An engine with one model, loaded as it is by default, and a tuner beside it."""
    manifest, digest = installed(folder, "embed-zh")
    clock, here = SystemClock(), machine_here()
    async with engine() as made:
        activity = Activity(clock)
        arrangements = Arrangements(Records(folder, LOG), here, Wishes(**wishes))
        trials = Trials(None, limits=Settings().trial_limits, runtime=runtime(), log=LOG)
        loader = Loader(made, trials, arrangements, LOG)
        version = Version(manifest, digest, folder / "bundles" / folder_name(digest, "cpu-int8"), "cpu-int8")
        await loader.load(TENANT, version)
        made.activate(TENANT, {manifest.name: manifest.version})
        device = Device(preferred="cpu-int8", insists=True)

        async def served():
            found = await asyncio.to_thread(installed_here, folder / "bundles", device)
            return [subject_of(each.manifest, each.digest, each.folders, device) for each in found]

        async def follow(subject):
            await loader.follow(TENANT, version)

        async def unused():
            return 0.0

        samples = asyncio.Queue()

        def measuring(*arguments, keep, **more):
            def told(progress):
                samples.put_nowait(progress)
                keep(progress)

            return measured(*arguments, keep=told, **more)

        tuner = Tuner(
            arrangements, activity, Surroundings(served, follow, lambda: False, unused), measures=True, after_s=0.2, most_used=1.0,
            memory_bytes=2 << 30, changed=lambda: None, clock=clock, log=LOG, measure=measuring,
        )  # fmt: skip
        task = asyncio.create_task(tuner.run())
        try:
            yield tuner, arrangements, seen(made, activity), samples, made
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()


def children():
    return [each for each in psutil.Process().children() if "shared.serving.tuning.child" in each.cmdline()]


@pytest.mark.slow
def test_live_traffic_ends_a_run_which_goes_on_later_and_what_it_finds_is_followed_without_a_gap(tmp_path):
    async def work():
        async with agent(tmp_path, seconds=6.0) as (tuner, arrangements, answer, samples, made):
            while not (await samples.get()).samples:
                pass
            measuring = children()
            assert measuring
            request = Request(id="r", tenant=TENANT, model="embed-zh", texts=(TEXT,))
            assert (await answer.answer(request)).results
            _, alive = await asyncio.to_thread(psutil.wait_procs, measuring, timeout=20)
            assert alive == []
            known = samples.qsize()
            while samples.qsize() == known:
                await asyncio.sleep(0.05)
            latest = await samples.get()
            while not samples.empty():
                latest = samples.get_nowait()
            assert len(latest.samples) >= 1
            while tuner.doing.state is not State.DONE:
                assert (await made.answer(request)).results
                await asyncio.sleep(0.05)
            (record,) = arrangements.known
            assert record.way.variant == "cpu-int8"
            arranged = arrangements.loaded["embed-zh", "1.0.0"]
            assert (arranged.arrangement, arranged.source) == (record.way.arrangement, Source.MEASURED)
            assert (await answer.answer(request)).results
        assert children() == []

    asyncio.run(asyncio.wait_for(work(), 120))
