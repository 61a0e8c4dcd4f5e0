import pytest

from edge_agent.serving.forward import Gateway
from shared.protocol.errors import Refused, Transient
from shared.serving.answer import Where
from shared.serving.catalog import pick
from tests.edge_agent.serving.world import MODEL, TENANT, VERSION, Device, FakeGateway, in_device


def test_models_of_the_cloud_stand_beside_those_that_are_here() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        gateway.serves = [(MODEL, VERSION), (MODEL, "2.0.0"), ("big", "1.9.0"), ("big", "1.10.0")]
        at = Gateway(gateway.url, device.tokens)
        await device.reach.refresh(at, TENANT)
        await device.reach.refresh(at, TENANT)
        assert gateway.described == 4
        models = device.router.models(TENANT)
        assert [(m.name, m.version, m.active) for m in models] == [
            (MODEL, VERSION, True),
            (MODEL, "2.0.0", False),
            ("big", "1.9.0", False),
            ("big", "1.10.0", True),
        ]
        assert pick(models, MODEL).version == VERSION
        assert [m.batch_invariant for m in models if m.name == "big"] == [True, False]
        response = await device.router.answer(device.request(model="big"))
        assert (response.where, response.why) == (Where.CLOUD, "local-absent")
        with pytest.raises(Refused):
            await device.router.answer(device.request(model="big", privacy="local-only"))
        gateway.serves = []
        await device.reach.refresh(at, TENANT)
        assert len(device.router.models(TENANT)) == 1

    in_device(test)


def test_what_it_said_last_stands_while_it_is_away() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        gateway.serves = [("big", "1.0.0")]
        await device.reach.refresh(Gateway(gateway.url, device.tokens), TENANT)
        with pytest.raises(Transient):
            await device.reach.refresh(Gateway("http://127.0.0.1:1", device.tokens), TENANT)
        assert [model.name for model in device.router.models(TENANT)] == ["big"]

    in_device(test, load=False)
