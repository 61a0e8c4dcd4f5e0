import shutil

from edge_agent.control.state import Slot
from shared.bundle.install import folder_name
from shared.io.signing import Signer
from shared.protocol.reported import Convergence, ModelState
from tests.edge_agent.control.device import on_device
from tests.edge_agent.control.generations import signed
from tests.edge_agent.control.scene import BYTES, NEW, NEW_CHUNKS, OLD, ONE, TWO, applied, failed


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
