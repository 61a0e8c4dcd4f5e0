import asyncio
import shutil

import msgspec
import pytest

from edge_agent.control.state import Slot
from edge_agent.decide.steps import FETCHES
from shared.bundle.install import folder_name
from shared.io.signing import Signer
from shared.protocol.desired import Limits, Order
from shared.protocol.policy import Override, Policy
from shared.protocol.reported import Convergence, ModelState
from tests.edge_agent.control.device import on_device
from tests.edge_agent.control.generations import generation, ref, signed
from tests.shared.bundle.bundles import bundle

_, OLD_DATA, OLD, OLD_CHUNKS = bundle()
NEW_MANIFEST, NEW_DATA, NEW, NEW_CHUNKS = bundle(version="1.1.0")
_, NER_DATA, NER, NER_CHUNKS = bundle("ner-zh")
BYTES = {OLD: OLD_DATA, NEW: NEW_DATA, NER: NER_DATA, **OLD_CHUNKS, **NEW_CHUNKS, **NER_CHUNKS}
ONE = generation(1, ref(OLD), ref(NER, "ner-zh"), policy=Policy(deadline_ms=100.0))
TWO = generation(2, ref(NEW, version="1.1.0"), ref(NER, "ner-zh"), policy=Policy(deadline_ms=200.0))


def applied(of):
    return lambda report: report.applied == of.order and report.convergence is Convergence.APPLIED


def failed(report):
    return report.convergence is Convergence.FAILED


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


def test_a_restart_without_a_cloud_answers_at_once(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
        api.bytes.clear()
        again = start()
        await again.converger.start_from_disk()
        assert again.host.active == {"sentiment-zh": "1.0.0", "ner-zh": "1.0.0"}
        assert (again.holder.order, again.holder.policy.deadline_ms) == (ONE.order, 100.0)
        asked = len(api.asked)
        async with again.running():
            await again.until(applied(ONE))
        assert len(api.asked) == asked

    on_device(tmp_path, work)


def test_rot_on_disk_is_mended_from_chunks_without_a_cloud(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
        (agent.bundles / folder_name(OLD, "cpu-int8") / "cpu-int8.onnx").write_bytes(b"rot")
        api.bytes.clear()
        again = start()
        await again.converger.start_from_disk()
        assert again.holder.order == ONE.order
        assert again.host.active["sentiment-zh"] == "1.0.0"
        assert again.state.failures() == {}
        again.state.close()

    on_device(tmp_path, work)


def test_a_lost_bundle_falls_back_to_the_generation_before_until_it_is_fetched_again(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            for each in (ONE, TWO):
                await agent.converger.accept(signed(each))
                await agent.until(applied(each))
        shutil.rmtree(agent.bundles / folder_name(NEW, "cpu-int8"))
        for digest in NEW_CHUNKS:
            agent.store.discard(digest)
        again = start()
        await again.converger.start_from_disk()
        assert again.holder.order == ONE.order
        assert again.host.active == {"sentiment-zh": "1.0.0", "ner-zh": "1.0.0"}
        again.state.close()
        once_more = start()
        async with once_more.running():
            assert once_more.holder.order == ONE.order
            await once_more.until(applied(TWO))
            assert once_more.state.generation(Slot.PREVIOUS) == ONE

    on_device(tmp_path, work)


def test_what_is_left_answers_when_no_generation_is_whole(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
        api.bytes.clear()
        again = start()
        again.host.broken = {(OLD, "cpu-int8")}
        async with again.running():
            await again.until(failed)
            assert again.holder.order == ONE.order
            assert again.host.active == {"ner-zh": "1.0.0"}
            assert again.model().state is ModelState.FAILED
            assert again.model("ner-zh").active

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


def test_dying_while_loading_three_times_blocks_the_version(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
        agent = start()
        await agent.converger.accept(signed(TWO))
        for _ in range(3):
            # What a process leaves behind that is killed by the program it loads.
            agent.state.begin(TWO.order, "load", f"{NEW}-cpu-int8")
            agent.state.close()
            agent = start()
            await agent.converger._stepper.recover()
        async with agent.running():
            await agent.until(failed)
            assert agent.holder.order == ONE.order
            assert "died" in agent.report.error

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


def test_replayed_older_foreign_and_forged_generations_change_nothing(tmp_path):
    stranger = Signer.generate()
    good = signed(generation(5, ref(OLD)))
    tampered = msgspec.structs.replace(good, payload=good.payload.replace('"number":5', '"number":9'))
    bad_policy = generation(7, ref(OLD), policy=Policy(models={"absent": Override()}))

    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            await agent.converger.accept(good)
            await agent.until(applied(generation(5)))
            before = agent.report
            for message, code in (
                (signed(generation(4, ref(NEW))), "conflict"),
                (signed(generation(5, ref(NEW))), "conflict"),
                (signed(generation(99, ref(NEW), epoch=0)), "conflict"),
                (signed(generation(6), stranger), "forbidden"),
                (msgspec.structs.replace(signed(generation(6), stranger), key_id=good.key_id), "forbidden"),
                (tampered, "forbidden"),
                (signed(generation(6, device="edge-2")), "forbidden"),
                (signed(generation(6, tenant="other")), "forbidden"),
            ):
                counted = agent.converger.refused.get(code, 0)
                await agent.converger.accept(message)
                assert agent.converger.refused[code] == counted + 1
                assert agent.state.floor("default", "edge-1") == Order(1, 5)
                assert agent.report.convergence is Convergence.APPLIED
            assert agent.report.error is not None
            await agent.converger.accept(good)
            assert sum(agent.converger.refused.values()) == 8
            for broken in (
                signed(bad_policy),
                signed(generation(2**63, ref(OLD))),
                signed(generation(8, ref("../../etc/passwd"))),
                signed(generation(8, ref(OLD, "../up"))),
                signed(generation(8, ref(OLD, variant="../up"))),
            ):
                await agent.converger.accept(broken)
                assert agent.report.convergence is Convergence.REFUSED
                assert agent.report.error is not None
                assert agent.holder.order == Order(1, 5)
            ten = generation(10, ref(OLD))
            await agent.converger.accept(signed(ten))
            await agent.until(applied(ten))
            assert agent.report.error is None
            assert before.models == agent.report.models
        async with start().running() as again:
            await again.converger.accept(good)
            assert again.converger.refused == {"conflict": 1}

    on_device(tmp_path, work)


def test_an_expired_generation_runs_and_says_so(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            old = generation(1, ref(OLD), expires_at=1.0)
            await agent.converger.accept(signed(old))
            await agent.until(applied(old))
            assert "expired" in agent.report.error

    on_device(tmp_path, work)


def test_a_stored_generation_of_another_device_or_of_rotten_bytes_does_not_run(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
        agent = start()
        agent.state._db.execute("UPDATE generations SET payload = replace(payload, '100.0', '999.0')")
        await agent.converger.start_from_disk()
        assert agent.holder.order is None
        assert agent.report.convergence is Convergence.NONE
        agent.state.close()
        # The key was replaced since: what was trusted then still runs.
        rotated = start(keys=(Signer.generate().pinned,))
        await rotated.converger.start_from_disk()
        assert rotated.holder.policy.deadline_ms == 999.0
        rotated.state.close()

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
