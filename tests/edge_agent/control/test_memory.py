"""What a generation says of memory reaches the engine: how much, and what is held how firmly."""

from shared.protocol.desired import Limits
from shared.protocol.policy import Mode, Policy
from shared.protocol.reported import ModelState
from shared.serving.decide.residency import Keep
from tests.edge_agent.control.device import on_device
from tests.edge_agent.control.generations import generation, ref, signed
from tests.edge_agent.control.scene import BYTES, NER, NEW, OLD, applied, failed


def test_limits_and_pins_are_those_of_the_generation_that_answers(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start(pinned=("ner-zh",)).running() as agent:
            one = generation(1, ref(OLD), ref(NER, "ner-zh"), limits=Limits(memory_bytes=1 << 30))
            await agent.converger.accept(signed(one))
            await agent.until(applied(one))
            assert agent.host.memory_bytes == 1 << 30
            assert agent.host.kept == {("ner-zh", "1.0.0"): Keep.PINNED}
            two = generation(2, ref(OLD), policy=Policy(mode=Mode.LOCAL_ONLY))
            await agent.converger.accept(signed(two))
            await agent.until(applied(two))
            assert agent.host.memory_bytes is None
            assert agent.host.kept == {("sentiment-zh", "1.0.0"): Keep.LAST}

    on_device(tmp_path, work)


def test_a_generation_that_is_given_up_leaves_the_limits_of_the_one_that_answers(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            one = generation(1, ref(OLD), limits=Limits(memory_bytes=1 << 30))
            await agent.converger.accept(signed(one))
            await agent.until(applied(one))
            agent.host.broken = {(NEW, "cpu-int8"), (NEW, "cpu-fp32")}
            two = generation(2, ref(NEW, version="1.1.0"), limits=Limits(memory_bytes=1 << 31))
            await agent.converger.accept(signed(two))
            await agent.until(failed)
            assert agent.host.memory_bytes == 1 << 30

    on_device(tmp_path, work)


def test_a_version_that_fails_on_its_way_back_into_memory_is_loaded_again_from_the_beginning(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            one = generation(1, ref(OLD))
            await agent.converger.accept(signed(one))
            await agent.until(applied(one))
            (listed,) = agent.host.models()
            agent.host.put(listed, ModelState.FAILED)
            agent.converger.look_again()
            assert agent.report.models[0].state is ModelState.FAILED
            await agent.until(lambda _: len(agent.host.done) == 3)
            await agent.until(applied(one))
            assert [done[0] for done in agent.host.done] == ["load", "activate", "load"]
            assert agent.report.models[0].state is ModelState.READY

    on_device(tmp_path, work)
