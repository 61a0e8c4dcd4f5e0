"""One retry budget for every second attempt in the cloud, whatever it is made for: saturation, error, low confidence, hedges."""

import asyncio
import contextlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.decide.breaker import RETRY_BURST, RETRY_SHARE
from shared.protocol.errors import Corrupt, TidelineError
from tests.edge_agent.serving.fake_gateway import FakeGateway
from tests.edge_agent.serving.test_hedges import never_on_the_loop
from tests.edge_agent.serving.world import Device, in_device

RULES = {"mode": "cascade", "confidence_below": 0.8, "deadline_ms": 60_000}
STEPS = st.lists(st.sampled_from(["unsure", "sure", "broken", "slow", "private", "full"]), min_size=20, max_size=60)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS, st.sampled_from([200, 503, 429]))
def test_second_attempts_are_never_more_than_the_budget(steps: list[str], status: int) -> None:
    """The cloud is only ever asked second here, so what its gateway saw is what was spent."""

    async def test(device: Device, gateway: FakeGateway) -> None:
        never_on_the_loop(device)
        if status != 200:
            gateway.status(status)
        for n, step in enumerate(steps, 1):
            device.policy(**RULES, **({"hedge_after_ms": 1} if step == "slow" else {}))
            device.score = 0.9 if step == "sure" else 0.5
            device.failing = Corrupt("broken") if step == "broken" else None
            privacy = "local-only" if step == "private" else None
            seen = len(gateway.requests)
            if step in ("slow", "full"):
                device.gate.clear()
            task = asyncio.create_task(device.router.answer(device.request(f"r{n}", privacy=privacy)))
            if step in ("slow", "full"):
                await asyncio.wait({task}, timeout=0.02)
                device.gate.set()
            with contextlib.suppress(TidelineError):
                await task
            extra = len(gateway.requests)
            assert extra <= RETRY_BURST + RETRY_SHARE * n
            assert extra - seen <= 1
            if step in ("sure", "private"):
                assert extra == seen

    in_device(test)


def test_all_of_them_spend_the_same_tokens() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        never_on_the_loop(device)
        for step in ("unsure", "broken", "slow", "shed"):
            device.policy(**RULES, **({"hedge_after_ms": 1} if step == "slow" else {}))
            device.score, device.failing = 0.5, Corrupt("broken") if step == "broken" else None
            before, seen = device.cloud._retries.tokens, len(gateway.requests)
            waiting = []
            if step in ("slow", "shed"):
                device.gate.clear()
            if step == "shed":
                waiting = await device.saturate()
            task = asyncio.create_task(device.router.answer(device.request(step)))
            if step == "slow":
                while len(gateway.requests) == seen:
                    await asyncio.sleep(0.001)
            response = await task
            device.gate.set()
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert len(gateway.requests) == seen + 1
            first = response.why == "local-saturated"
            # A request that was sent there in the first place is no second attempt; each earns a tenth, up to ten.
            assert device.cloud._retries.tokens == min(RETRY_BURST, before + RETRY_SHARE) - (0 if first else 1)
            assert response.why in ("low-confidence", "local-failed", "hedged", "local-saturated")

    in_device(test)
