import asyncio

import pytest
import structlog

from edge_agent.control.trials import FILE, MAX_KEPT, Trials
from shared.protocol.errors import Corrupt
from shared.protocol.reported import Convergence, Isolation, ModelState
from shared.serving.arrangement import Arrangement
from shared.serving.trial.verdict import Died, Passed, TrialLimits
from tests.edge_agent.control.device import on_device
from tests.edge_agent.control.generations import signed
from tests.edge_agent.control.scene import BYTES, NEW, ONE, TWO, applied, failed

DIGEST = "a" * 64


def trials(folder, *, died=(), runtime="onnxruntime 1", done=None):
    async def trial(request):
        if done is not None:
            done.append(request)
        if request.variant in died:
            return Died(isolation=Isolation.NONE, code="too-large", message="it needs more")
        return Passed(isolation=Isolation.NONE)

    return Trials(folder, limits=TrialLimits(seconds=7.0), runtime=runtime, log=structlog.get_logger(), trial=trial)


def test_each_variant_is_tried_before_it_is_loaded_and_not_again_after_a_restart(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
            assert len(agent.tries.done) == 2
            assert agent.report.isolation is Isolation.SECCOMP
            await agent.converger.accept(signed(TWO))
            await agent.until(applied(TWO))
            assert len(agent.tries.done) == 3
        again = start()
        await again.converger.start_from_disk()
        assert again.host.active == {"sentiment-zh": "1.1.0", "ner-zh": "1.0.0"}
        assert again.tries.done == []
        again.state.close()
        newer = start(runtime="onnxruntime 2")
        await newer.converger.start_from_disk()
        assert len(newer.tries.done) == 2
        newer.state.close()

    on_device(tmp_path, work)


def test_a_version_that_dies_in_its_trial_is_never_loaded_and_the_old_one_goes_on(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE))
            agent.tries.died = {"cpu-int8"}
            await agent.converger.accept(signed(TWO))
            await agent.until(failed)
            assert agent.report.convergence is Convergence.FAILED
            assert "it kills the process that loads it" in agent.report.error
            assert agent.model("sentiment-zh", "1.1.0").state is ModelState.FAILED
            assert agent.host.active == {"sentiment-zh": "1.0.0", "ner-zh": "1.0.0"}
            assert ("load", "sentiment-zh", "1.1.0", "cpu-int8", 2) not in agent.host.done
            assert agent.state.failures()[f"{NEW}-cpu-int8"].failed == 2
        # What failed is kept: the next run does not try it either.
        again = start()
        async with again.running():
            await again.until(failed)
            assert again.tries.done == []

    on_device(tmp_path, work)


def test_passes_are_bounded_and_the_newest_stay(tmp_path):
    done = []
    kept = trials(tmp_path, done=done)

    async def main():
        for i in range(MAX_KEPT + 1):
            await kept.require(f"{i:064x}", "cpu", tmp_path, arrangement=Arrangement(threads=1))
        again = trials(tmp_path, done=done)
        for digest in (f"{1:064x}", f"{MAX_KEPT:064x}"):
            await again.require(digest, "cpu", tmp_path, arrangement=Arrangement(threads=1))
        assert len(done) == MAX_KEPT + 1
        await again.require(f"{0:064x}", "cpu", tmp_path, arrangement=Arrangement(threads=3))
        assert len(done) == MAX_KEPT + 2
        assert (done[-1].variant, done[-1].threads, done[-1].limits.seconds) == ("cpu", 3, 7.0)

    asyncio.run(main())


@pytest.mark.parametrize("rot", [b"", b"{", b'{"runtime": 1}', b"\xff" * 100, b"[" * 100_000])
def test_a_rotten_memory_is_no_memory(tmp_path, rot):
    (tmp_path / FILE).write_bytes(rot)
    done = []

    async def main():
        await trials(tmp_path, done=done).require(DIGEST, "cpu", tmp_path, arrangement=Arrangement(threads=1))
        await trials(tmp_path, done=done).require(DIGEST, "cpu", tmp_path, arrangement=Arrangement(threads=1))

    asyncio.run(main())
    assert len(done) == 1


def test_what_died_is_not_remembered_and_a_full_disk_costs_only_the_memory(tmp_path):
    async def main():
        with pytest.raises(Corrupt) as caught:
            await trials(tmp_path, died={"cpu"}).require(DIGEST, "cpu", tmp_path, arrangement=Arrangement(threads=1))
        assert (caught.value.code, caught.value.message) == ("too-large", "it needs more")
        assert not (tmp_path / FILE).exists()
        done = []
        kept = trials(tmp_path / "a-file" / "below", done=done)
        (tmp_path / "a-file").write_bytes(b"")
        await kept.require(DIGEST, "cpu", tmp_path, arrangement=Arrangement(threads=1))
        await kept.require(DIGEST, "cpu", tmp_path, arrangement=Arrangement(threads=1))
        assert len(done) == 1

    asyncio.run(main())
