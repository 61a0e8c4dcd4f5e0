import asyncio

import msgspec
import pytest

from edge_agent.control.state import Slot
from edge_agent.decide.blame import FETCHES
from shared.protocol.desired import Limits
from shared.protocol.policy import Policy
from shared.protocol.reported import Convergence, ModelState
from tests.edge_agent.control.device import on_device
from tests.edge_agent.control.generations import generation, ref, signed
from tests.edge_agent.control.scene import (
    BYTES,
    NER,
    NER_CHUNKS,
    NEW,
    NEW_CHUNKS,
    NEW_MANIFEST,
    OLD,
    OLD_CHUNKS,
    ONE,
    TWO,
    applied,
    failed,
)


def test_from_nothing_to_a_generation_to_the_next(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            assert agent.report.convergence is Convergence.NONE
            assert agent.holder.policy == Policy()
            await agent.converger.accept(signed(ONE))
            assert agent.state.floor("default", "edge-1") == ONE.order
            await agent.until(applied(ONE))
            assert agent.host.active == {"sentiment-zh": "1.0.0", "ner-zh": "1.0.0"}
            assert agent.holder.policy.deadline_ms == 100.0
            model = agent.model()
            assert (model.state, model.active, model.variant) == (ModelState.READY, True, "cpu-int8")
            await agent.converger.accept(signed(TWO))
            await agent.until(applied(TWO))
            assert [done[0] for done in agent.host.done] == ["load", "load", "activate", "load", "activate", "unload"]
            assert agent.host.done[-2:] == [
                ("activate", {"sentiment-zh": "1.1.0", "ner-zh": "1.0.0"}),
                ("unload", "sentiment-zh", "1.0.0"),
            ]
            assert agent.host.done[0] == ("load", "sentiment-zh", "1.0.0", "cpu-int8", 2)
            # What is needed to go back stays on disk.
            assert {path.name[:64] for path in agent.bundles.iterdir()} == {OLD, NEW, NER}
            assert agent.state.generation(Slot.PREVIOUS) == ONE
            assert agent.report.error is None

    on_device(tmp_path, work)


def test_the_third_generation_lets_the_first_go(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            for each in (ONE, TWO, generation(3, ref(NER, "ner-zh"))):
                await agent.converger.accept(signed(each))
                await agent.until(applied(each))
            assert {path.name[:64] for path in agent.bundles.iterdir()} == {NEW, NER}
            assert not set(OLD_CHUNKS) & agent.store.held() - set(NER_CHUNKS) - set(NEW_CHUNKS)
            asked = len(api.asked)
            back = generation(4, *TWO.models, policy=Policy(deadline_ms=4.0))
            await agent.converger.accept(signed(back))
            await agent.until(applied(back))
            assert len(api.asked) == asked

    on_device(tmp_path, work)


@pytest.mark.parametrize("misdeed", ["corrupt", "cut", 503, "redirect"])
def test_a_bad_moment_of_the_network_passes(tmp_path, misdeed):
    async def work(start, api):
        api.bytes = dict(BYTES)
        api.misdeed, api.misdeeds = misdeed, 2
        async with start().running() as agent:
            await agent.converger.accept(signed(ONE))
            await agent.until(lambda report: report.error is not None)
            api.misdeeds = 0
            await agent.until(applied(ONE))
            assert agent.state.failures() == {}

    on_device(tmp_path, work)


@pytest.mark.parametrize("gone", ["manifest", "chunk"])
def test_what_the_cloud_does_not_have_is_given_up_and_a_new_generation_is_another_chance(tmp_path, gone):
    async def work(start, api):
        api.bytes = dict(BYTES)
        lost = NEW if gone == "manifest" else NEW_MANIFEST.file("cpu-int8.onnx").chunks[1].digest
        async with start().running() as agent:
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
            del api.bytes[lost]
            await agent.converger.accept(signed(TWO))
            await agent.until(failed)
            assert agent.holder.order == ONE.order
            assert agent.host.active["sentiment-zh"] == "1.0.0"
            assert agent.report.applied == ONE.order
            assert agent.report.target == TWO.order
            assert "quarantined" in agent.report.error
            assert agent.model(version="1.1.0").state is ModelState.FAILED
            assert agent.model().active
            assert api.asked.count(lost) == FETCHES
            assert not (set(NEW_CHUNKS) - set(OLD_CHUNKS)) & agent.store.held()
            api.bytes = dict(BYTES)
            three = generation(3, *TWO.models)
            await agent.converger.accept(signed(three))
            await agent.until(applied(three))

    on_device(tmp_path, work)


def test_a_program_that_does_not_load_is_quarantined_and_stays_so_after_a_restart(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            agent.host.broken = {(NEW, "cpu-int8")}
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
            await agent.converger.accept(signed(TWO))
            await agent.until(failed)
            tries = [done for done in agent.host.done if done[:3] == ("load", "sentiment-zh", "1.1.0")]
            assert len(tries) == 2
            assert agent.host.active == {"sentiment-zh": "1.0.0", "ner-zh": "1.0.0"}
            assert set(agent.host.loaded) == {("sentiment-zh", "1.0.0"), ("ner-zh", "1.0.0")}
            assert {path.name[:64] for path in agent.bundles.iterdir()} == {OLD, NER}
        async with start().running() as again:
            await again.until(failed)
            assert again.holder.order == ONE.order
            assert not any(done[:3] == ("load", "sentiment-zh", "1.1.0") for done in again.host.done)
            assert again.report.target == TWO.order

    on_device(tmp_path, work)


def test_another_variant_that_does_not_load_gives_the_running_one_back(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            agent.host.broken = {(OLD, "cpu-fp32")}
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
            await agent.converger.accept(signed(generation(2, ref(OLD, variant="cpu-fp32"))))
            await agent.until(failed)
            assert agent.holder.order == ONE.order
            assert agent.host.loaded["sentiment-zh", "1.0.0"].variant == "cpu-int8"
            assert agent.host.loaded["sentiment-zh", "1.0.0"].state is ModelState.READY

    on_device(tmp_path, work)


def test_a_newer_generation_interrupts_a_fetch(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
            api.gate.clear()
            await agent.converger.accept(signed(TWO))
            await agent.until(lambda report: report.step is not None and report.step.startswith("fetch"))
            three = generation(3, *ONE.models, policy=Policy(deadline_ms=3.0))
            await agent.converger.accept(signed(three))
            await agent.until(applied(three))
            assert agent.holder.policy.deadline_ms == 3.0

    on_device(tmp_path, work)


def test_limits_are_kept(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            small = generation(1, ref(OLD), limits=Limits(disk_bytes=1000, threads=7))
            await agent.converger.accept(signed(small))
            await agent.until(lambda report: report.error is not None and "1000 B allowed" in report.error)
            assert agent.store.held() == {OLD}
            roomy = generation(2, ref(OLD), limits=Limits(disk_bytes=10**6, threads=7, download_bytes_per_s=10**9))
            await agent.converger.accept(signed(roomy))
            await agent.until(applied(roomy))
            assert agent.host.done[0][-1] == 7

    on_device(tmp_path, work)


def test_a_disk_too_small_for_three_versions_keeps_the_live_one_and_gets_the_newest(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        live, three = generation(2, ref(NER, "ner-zh")), generation(3, ref(NEW, version="1.1.0"))
        async with start().running() as agent:
            for each in (generation(1, ref(OLD)), live):
                await agent.converger.accept(signed(each))
                await agent.until(applied(each))
            used = agent.store.total() + sum(path.stat().st_size for path in agent.bundles.rglob("*.*"))
            bounded = msgspec.structs.replace(three, limits=Limits(disk_bytes=used + 1000))
            await agent.converger.accept(signed(bounded))
            await agent.until(applied(bounded))
            assert {path.name[:64] for path in agent.bundles.iterdir()} == {NER, NEW}
            assert agent.state.generation(Slot.PREVIOUS) == live

    on_device(tmp_path, work)


def test_models_and_policy_change_hands_in_one_move(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            seen = set()

            async def watch():
                while True:
                    policy = agent.holder.policy.deadline_ms
                    seen.add((policy, agent.host.active.get("sentiment-zh")))
                    await asyncio.sleep(0)

            watcher = asyncio.create_task(watch())
            for each in (ONE, TWO):
                await agent.converger.accept(signed(each))
                await agent.until(applied(each))
            watcher.cancel()
            assert seen == {(1000.0, None), (100.0, "1.0.0"), (200.0, "1.1.0")}

    on_device(tmp_path, work)
