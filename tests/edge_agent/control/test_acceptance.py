import msgspec

from shared.io.signing import Signer
from shared.protocol.desired import Order
from shared.protocol.policy import Override, Policy
from shared.protocol.reported import Convergence
from tests.edge_agent.control.device import on_device
from tests.edge_agent.control.generations import generation, ref, signed
from tests.edge_agent.control.scene import BYTES, NEW, OLD, applied


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
