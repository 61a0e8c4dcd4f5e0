"""A split between versions that are loaded at the same time."""

import asyncio
from collections import Counter

from shared.serving.answer import Where
from tests.edge_agent.serving.world import MODEL, TENANT, VERSION, Device, FakeGateway, in_device

NEW, NEWER = "1.3.0", "1.4.0"


async def three(device: Device) -> None:
    """Three versions side by side, the first of them active."""
    for version in (NEW, NEWER):
        device.other(version)
        await device.load(version, activate=False)


async def answered(device: Device, count: int = 300, **fields: object) -> Counter[str]:
    """How many of `count` requests, with ids as a client may count them, each version answered."""
    answers = await asyncio.gather(
        *(device.router.answer(device.request(f"req-{i:06d}", within=20, **fields)) for i in range(count))
    )
    assert {answer.where for answer in answers} == {Where.LOCAL}
    return Counter(answer.version for answer in answers)


def test_every_loaded_version_gets_its_share_and_a_request_the_same_one_again() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await three(device)
        device.policy(split={VERSION: 60, NEW: 30, NEWER: 10})
        first = await answered(device)
        assert set(first) == {VERSION, NEW, NEWER}
        for version, share in ((VERSION, 0.6), (NEW, 0.3), (NEWER, 0.1)):
            assert abs(first[version] / 300 - share) < 0.08
        assert await answered(device) == first
        for version in first:
            labels = {"model": MODEL, "version": version, "where": "local", "outcome": "ok"}
            assert device.count("tideline_requests_total", **labels) == 2 * first[version]

    in_device(test, enrol=False)


def test_who_names_a_version_gets_it_whatever_the_split() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await three(device)
        device.policy(split={VERSION: 1, NEW: 1})
        assert await answered(device, 20, version=NEWER) == {NEWER: 20}

    in_device(test, enrol=False)


def test_a_version_that_is_not_ready_here_leaves_its_share_to_the_others() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await three(device)
        device.policy(split={VERSION: 40, NEW: 40, NEWER: 20})
        before = {
            f"req-{i:06d}": (await device.router.answer(device.request(f"req-{i:06d}"))).version for i in range(60)
        }
        await device.engine.unload(TENANT, MODEL, NEW)
        for asked, version in before.items():
            after = (await device.router.answer(device.request(asked))).version
            assert after == version if version != NEW else after in (VERSION, NEWER)

    in_device(test, enrol=False)


def test_a_split_that_names_nothing_of_this_model_changes_nothing() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(split={"7.0.0": 50, "8.0.0": 50})
        assert await answered(device, 10) == {VERSION: 10}

    in_device(test, enrol=False)


def test_a_model_that_is_not_here_is_split_in_the_cloud() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(split={VERSION: 50, NEW: 50})
        for i in range(40):
            await device.router.answer(device.request(f"req-{i:06d}"))
        paths = {request["path"] for request in gateway.requests}
        assert paths == {f"/v2/models/{MODEL}/versions/{version}/infer" for version in (VERSION, NEW)}

    in_device(test, load=False)


def test_each_version_of_a_split_keeps_its_own_answers() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.labels[NEW] = "better"
        await three(device)
        device.policy(split={VERSION: 50, NEW: 50}, cache_bytes=1 << 20)
        labels = {VERSION: "good", NEW: "better"}
        for i in range(40):
            response = await device.router.answer(device.request(f"req-{i:06d}"))
            assert response.results[0].label == labels[response.version]  # type: ignore[union-attr]
        assert device.count("tideline_cache_total", result="miss") == 2
        assert device.count("tideline_cache_total", result="hit") == 38

    in_device(test, enrol=False)
