import asyncio

import pytest

from shared.protocol.errors import Corrupt, Transient
from shared.serving.answer import Label, Response, Where
from shared.serving.catalog import Duration
from tests.edge_agent.serving.world import MODEL, TENANT, VERSION, Device, FakeGateway, in_device, shut

MIB = 1 << 20


async def ask(device: Device, id: str, **fields: object) -> tuple[Where, str]:
    response = await device.router.answer(device.request(id, **fields))  # type: ignore[arg-type]
    return response.where, response.why


def kept(device: Device) -> float:
    return device.count("tideline_cache_entries")


def test_the_same_question_is_computed_once_and_says_so() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=MIB)
        first = await device.router.answer(device.request("r1"))
        runs = len(device.session.runs)
        again = await device.router.answer(device.request("r2"))
        assert (first.where, again.where, again.why, again.id) == (Where.LOCAL, Where.CACHE, "cache-hit", "r2")
        assert (again.results, again.task) == (first.results, first.task)
        assert (again.model, again.version, again.variant, again.digest) == (
            first.model,
            first.version,
            first.variant,
            first.digest,
        )
        assert (again.timing.queue, again.timing.compute) == (0.0, 0.0)
        assert len(device.session.runs) == runs
        story = device.ring.get("r2")
        assert story is not None
        assert (story.decision, story.reason, story.where, story.outcome) == ("cache", "cache-hit", "cache", "ok")
        assert [(each.where, each.reason) for each in story.attempts] == [("cache", "cache-hit")]
        assert device.count("tideline_route_total", where="cache", reason="cache-hit") == 1
        assert device.count("tideline_cache_total", result="hit") == 1
        assert device.count("tideline_cache_total", result="miss") == 1
        for where in ("local", "cache"):
            labels = {"model": MODEL, "version": VERSION, "where": where, "outcome": "ok"}
            assert device.count("tideline_requests_total", **labels) == 1
        counted = device.router.statistics(TENANT, MODEL, VERSION)
        assert (counted.success.count, counted.cache_hit.count, counted.cache_miss.count) == (2, 1, 1)
        assert counted.cache_hit.ns > 0
        assert sorted(each.where for each in device.interval.take()[0]) == ["cache", "local"]

    in_device(test)


def test_it_is_off_unless_the_policy_says_otherwise() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        def never(*_: object) -> None:
            raise AssertionError

        device.cache.place_of = never  # type: ignore[method-assign, assignment]
        for policy in ({}, {"cache_bytes": 0}, {"cache_bytes": 0, "on_overload": "cached"}):
            device.policy(**policy)
            assert [(await ask(device, f"o{i}"))[0] for i in range(2)] == [Where.LOCAL] * 2
        device.policy(cache_bytes=MIB, models={MODEL: {"cache_bytes": 0}})
        assert (await ask(device, "o3"))[0] is Where.LOCAL
        assert device.router.statistics(TENANT, MODEL, VERSION).cache_miss == Duration()

    in_device(test)


def test_on_for_one_model_alone() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(models={MODEL: {"cache_bytes": MIB}})
        assert [(await ask(device, f"o{i}"))[0] for i in range(2)] == [Where.LOCAL, Where.CACHE]

    in_device(test)


def test_inputs_parameters_and_tenants_are_told_apart() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=MIB)
        await ask(device, "r1")
        for i, fields in enumerate(
            ({"texts": ("hello ",)}, {"texts": ("hello", "hello")}, {"parameters": {"truncate": True}})
        ):
            assert (await ask(device, f"d{i}", **fields))[0] is Where.LOCAL
        # What does not change the answer does not hide it either.
        assert (await ask(device, "p1", privacy="local-only"))[0] is Where.CACHE
        assert (await ask(device, "p2", within=5, priority=9))[0] is Where.CACHE
        assert (await ask(device, "p3", version=VERSION))[0] is Where.CACHE
        assert kept(device) == 4

    in_device(test)


def test_chance_and_streams_are_never_kept() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=MIB, on_overload="cached")
        for i in range(2):
            assert (await ask(device, f"t{i}", parameters={"temperature": 0.5, "seed": 1}))[0] is Where.LOCAL
            pieces = [piece async for piece in device.router.stream(device.request(f"s{i}"))]
            assert [piece.where for piece in pieces] == [Where.LOCAL]
        assert kept(device) == 0
        assert device.count("tideline_cache_total", result="bypassed") == 2
        await ask(device, "r1")
        pieces = [piece async for piece in device.router.stream(device.request("s3"))]
        assert [piece.where for piece in pieces] == [Where.LOCAL]

    in_device(test)


def test_another_version_and_other_bytes_never_answer_from_it() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=MIB)
        await ask(device, "r1")
        device.labels["1.3.0"] = "better"
        device.score = 0.7
        await device.load("1.3.0")
        swapped = await device.router.answer(device.request("r2"))
        assert (swapped.where, swapped.version) == (Where.LOCAL, "1.3.0")
        assert isinstance(swapped.results[0], Label)
        assert swapped.results[0].label == "better"
        assert (await device.router.answer(device.request("r3"))).results == swapped.results
        # The old version still answers who names it, from its own shelf.
        named = await device.router.answer(device.request("r4", version=VERSION))
        assert (named.where, named.results[0].label) == (Where.CACHE, "good")  # type: ignore[union-attr]
        await device.engine.unload(TENANT, MODEL, VERSION)
        assert (await ask(device, "r5", version=VERSION)) == (Where.CLOUD, "local-absent")
        await device.load(VERSION, digest="e" * 64)
        assert (await ask(device, "r6"))[0] is Where.LOCAL

    in_device(test)


def test_a_version_that_is_draining_answers_nobody() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=MIB)
        await ask(device, "r1")
        device.gate.clear()
        waiting = asyncio.create_task(device.engine.answer(device.request("w", texts=("wait",))))
        await asyncio.to_thread(device.session.started.wait, 10)
        draining = asyncio.create_task(device.engine.unload(TENANT, MODEL, VERSION))
        await asyncio.sleep(0)
        assert (await ask(device, "r2"))[0] is Where.CLOUD
        device.gate.set()
        await asyncio.gather(waiting, draining)

    in_device(test)


def test_failures_are_not_kept() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=MIB, mode="local-only")
        device.failing = Corrupt("broken")
        with pytest.raises(Corrupt):
            await ask(device, "f1")
        device.failing = None
        assert (await ask(device, "f2"))[0] is Where.LOCAL
        assert (await ask(device, "f3"))[0] is Where.CACHE

    in_device(test)


def test_the_cloud_s_answer_is_kept_only_where_the_same_bytes_gave_it() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=MIB)
        waiting = await device.saturate()
        assert (await ask(device, "c1", within=5))[0] is Where.CLOUD
        assert (await ask(device, "c2", within=5))[0] is Where.CLOUD
        gateway.variant, gateway.digest = "v", "d" * 64
        assert (await ask(device, "c3", within=5))[0] is Where.CLOUD
        assert (await ask(device, "c4", within=5))[0] is Where.CACHE
        await shut(device, waiting)

    in_device(test)


def test_a_cascade_asks_again_about_what_it_was_unsure_of() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="cascade", confidence_below=0.8, cache_bytes=MIB)
        gateway.status(500)
        assert (await ask(device, "u1"))[0] is Where.LOCAL
        assert (await ask(device, "u2"))[0] is Where.LOCAL
        assert device.count("tideline_cache_total", result="unsure") == 1
        device.score = 0.9
        assert (await ask(device, "u3"))[0] is Where.LOCAL
        assert (await ask(device, "u4")) == (Where.CACHE, "cache-hit")

    in_device(test)


def test_the_policy_bounds_it_and_another_policy_forgets() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=4000)
        for i in range(20):
            await ask(device, f"b{i}", texts=(f"text {i}",))
        assert 0 < kept(device) < 20
        assert device.count("tideline_cache_bytes") <= 4000
        assert device.count("tideline_cache_evicted_total") == 20 - kept(device)
        assert (await ask(device, "b20", texts=("text 19",)))[0] is Where.CACHE
        device.policy(cache_bytes=2000)
        await ask(device, "b21", model="other", texts=("x",))
        assert device.count("tideline_cache_bytes") <= 2000
        device.policy()
        await ask(device, "b22")
        assert (kept(device), device.count("tideline_cache_bytes")) == (0, 0)

    in_device(test)


def test_a_generation_without_the_version_forgets_its_answers() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=MIB)
        await device.load("1.3.0", digest="e" * 64)
        await ask(device, "g1")
        assert kept(device) == 1
        device.policy(cache_bytes=MIB)
        await ask(device, "g2", version=VERSION)
        # The generation of this world names `VERSION` with its digest alone.
        assert [each.version for each in device.cache.identities] == [VERSION]

    in_device(test)


def test_an_expired_request_is_not_answered_from_it_either() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=MIB, on_overload="cached")
        await ask(device, "r1")
        with pytest.raises(Transient):
            await ask(device, "r2", within=-1)

    in_device(test)


def test_where_only_the_cloud_may_answer_nothing_is_kept() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        gateway.variant, gateway.digest = "v", "d" * 64
        device.policy(mode="cloud-only", cache_bytes=MIB, on_overload="cached")
        assert [(await ask(device, f"c{i}"))[0] for i in range(2)] == [Where.CLOUD] * 2
        assert kept(device) == 0

    in_device(test)


def test_many_at_once_are_each_answered_and_kept_once() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=MIB)

        async def one(i: int) -> Response:
            return await device.router.answer(device.request(f"m{i}", texts=(f"text {i % 3}",)))

        answers = await asyncio.gather(*(one(i) for i in range(30)))
        assert {answer.id for answer in answers} == {f"m{i}" for i in range(30)}
        assert kept(device) == 3

    in_device(test)
