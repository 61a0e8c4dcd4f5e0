"""Every exchange with the gateway has a timeout, and it is shorter than what is left of the deadline."""

import asyncio
from types import SimpleNamespace

import pytest

from edge_agent.decide import timeouts
from edge_agent.serving import forward
from shared.protocol.errors import Transient, Unavailable
from shared.protocol.topics import Header
from tests.edge_agent.serving.test_hedges import Mute
from tests.edge_agent.serving.world import Device, FakeGateway, header, in_device


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Every timeout the forwarder sets."""
    given: list[float | None] = []
    real = asyncio.timeout

    def timeout(delay: float | None) -> asyncio.Timeout:
        given.append(delay)
        return real(delay)

    monkeypatch.setattr(forward, "asyncio", SimpleNamespace(timeout=timeout))
    return given


@pytest.mark.parametrize("within", [None, 0.5, 5.0, 3600.0])
def test_always_set_and_shorter_than_the_deadline_left(within: float | None, seconds: list[float | None]) -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await device.forwarder.answer(device.request("r1", within=within))
        (delay,) = seconds
        assert delay is not None
        assert 0 < delay <= timeouts.LONGEST_S
        assert within is None or delay < within
        (sent,) = gateway.requests
        if within is not None:
            assert 0 < float(header(sent, Header.DEADLINE_MS)) < within * 1e3

    in_device(test)


@pytest.mark.parametrize("mode", ["cloud-only", "local-first", "fastest", "cascade"])
def test_a_mute_gateway_ends_by_the_timeout(mode: str) -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        async with Mute().listening() as mute:
            device.enrol(mute.url)
            device.policy(mode=mode)
            device.costs(50.0)
            with pytest.raises(Transient) as caught:
                await device.router.answer(device.request("r1", within=0.3))
            assert caught.value.why is Unavailable.DEADLINE
            assert "cloud" in caught.value.message
            assert mute.accepted == 1

    in_device(test)
