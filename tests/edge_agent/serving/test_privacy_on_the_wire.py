"""What is tagged local-only never leaves the device: seen on the wire to the gateway, through every face, in every mode and state."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from edge_agent.decide.breaker import State as Breaker
from shared.protocol.errors import Corrupt
from shared.protocol.policy import Mode
from shared.serving.answer import Embedding, Response, Text, Where, float32
from shared.serving.decide.cost import Cost
from shared.serving.oip.http import encode_response
from tests.edge_agent.integrator import open_broker
from tests.edge_agent.serving.faces import VECTORS, WORDS, Faces, Wire, faces_of, load_others
from tests.edge_agent.serving.fake_gateway import FakeGateway
from tests.edge_agent.serving.world import MODEL, TENANT, VERSION, Device

STATES = ("idle", "saturated", "failing", "unsure", "hanging", "absent")
TAGS = {
    "the tag every policy honours": {"X-Tideline-Privacy": "local-only"},
    "one of several, in any case": {"X-Tideline-Privacy": "misc, LOCAL-Only"},
    "the policy's own": {"X-Tideline-Privacy": "medical"},
}
LONG, SHORT = "2000", "50"
"""Milliseconds; the short one where a hanging device is all there is to wait for."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with open_broker(Path(tmp_path_factory.mktemp("broker"))) as own:
        yield own.port


def policy(device: Device, mode: Mode, **rules: object) -> None:
    device.policy(
        mode=mode.value,
        privacy_tags=["local-only", "medical"],
        confidence_below=0.9 if mode is Mode.CASCADE else None,
        **{"hedge_after_ms": 1.0, **rules},
    )


async def bring_into(state: str, device: Device) -> None:
    """Put the device into `state`. The gateway stays good: it would answer all it is asked."""
    device.score = 0.99
    match state:
        case "saturated":
            for loaded in device.engine._models.values():
                loaded.cost = Cost(per_token=1000.0 / 128, observations=50, mean=1000.0)
        case "failing":
            device.failing = Corrupt("the program is broken")
        case "unsure":
            device.score = 0.5
        case "hanging":
            device.gate.clear()
        case "absent":
            await device.engine.unload(TENANT, MODEL, VERSION)
            await device.engine.unload(TENANT, VECTORS, VERSION)
            await device.engine.unload(TENANT, WORDS, VERSION)
        case _:
            assert state == "idle"


async def all_kinds(gateway: FakeGateway, request: web.Request) -> web.StreamResponse:
    model = request.match_info["model"]
    if model == MODEL:
        return await gateway.good(request)
    result: Embedding | Text = Text(text="words", tokens=1, finish="stop")
    if model == VECTORS:
        result = Embedding(embedding=float32([1.0, 2.0, 3.0]), tokens=1)
    response = Response(
        id="x",
        model=model,
        version=VERSION,
        variant="gpu",
        digest="d",
        task="text-embedding" if model == VECTORS else "text-generation",
        results=(result,),
        where=Where.CLOUD,
        why="served-here",
    )
    body = encode_response(response)
    return web.Response(body=body.data, headers=body.headers)


async def scene(
    broker: int, mode: Mode, state: str, tags: dict[str, str], within: str = LONG, **rules: object
) -> tuple[bytes, set[str]]:
    """One request through each face; what the wire saw, and the faces whose text was in it."""
    gateway = FakeGateway()
    gateway.play = lambda request: all_kinds(gateway, request)
    async with gateway.running(), aiohttp.ClientSession() as session:
        wire = Wire(int(urlsplit(gateway.url).port or 0))
        async with wire.running():
            device = Device(session)
            await device.load()
            await load_others(device)
            device.enrol(wire.url)
            policy(device, mode, **rules)
            try:
                async with faces_of(device, broker) as faces:
                    await bring_into(state, device)
                    fields = tags | {"X-Tideline-Deadline-Ms": within}
                    await each_asked(device, faces, state, fields)
                    # The gateway has to be reachable for its silence to mean anything.
                    assert device.cloud.breaker is Breaker.CLOSED
            finally:
                device.gate.set()
                await device.shadows.close()
                await device.engine.close()
        seen = bytes(wire.seen)
    return seen, {name for name in faces.all if f"secret-{name}-".encode() in seen}


async def each_asked(device: Device, faces: Faces, state: str, fields: dict[str, str]) -> None:
    # One after the other: how much may be under way to the cloud at once is not what this is about.
    for name, ask in faces.all.items():
        if state == "hanging":
            # Whoever was given up opened it.
            device.gate.clear()
        await ask(f"secret-{name}-text", f"id-{name}", fields)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", Mode)
def test_what_is_tagged_never_leaves(broker: int, mode: Mode, state: str) -> None:
    async def main() -> None:
        for tags in TAGS.values():
            seen, _ = await scene(broker, mode, state, tags, SHORT if state == "hanging" else LONG)
            assert seen == b""

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.LOCAL_ONLY])
def test_a_model_that_is_local_only_never_leaves_whatever_the_others_do(broker: int, mode: Mode, state: str) -> None:
    async def main() -> None:
        only = {"mode": "local-only"}
        within = SHORT if state == "hanging" else LONG
        seen, _ = await scene(broker, mode, state, {}, within, models={MODEL: only, VECTORS: only, WORDS: only})
        assert seen == b""

    asyncio.run(asyncio.wait_for(main(), 60))


UNSURE = {"oip", "predict", "batch_predict", "grpc", "mqtt"}
EVERY = UNSURE | {"embeddings", "completions", "streamed"}
OVERFLOWS = (Mode.LOCAL_FIRST, Mode.FASTEST, Mode.CASCADE)


@pytest.mark.parametrize(
    ("mode", "state", "expected"),
    [
        *((Mode.CLOUD_ONLY, state, EVERY) for state in ("idle", "saturated", "failing", "unsure")),
        *((mode, state, EVERY) for mode in OVERFLOWS for state in ("saturated", "failing")),
        # Vectors and words are neither sure nor unsure of themselves.
        (Mode.CASCADE, "unsure", UNSURE),
        # `fastest` may go either way.
        *((mode, "idle", set()) for mode in OVERFLOWS if mode is not Mode.FASTEST),
        # The cloud is asked beside the device; streams are not hedged.
        (Mode.LOCAL_FIRST, "hanging", EVERY - {"streamed"}),
        *((Mode.LOCAL_ONLY, state, set()) for state in STATES),
    ],
)
@pytest.mark.parametrize("tags", [{}, {"X-Tideline-Privacy": "harmless"}], ids=["untagged", "of no meaning"])
def test_what_is_not_tagged_is_seen_where_the_policy_sends_it(
    broker: int, mode: Mode, state: str, expected: set[str], tags: dict[str, str]
) -> None:
    async def main() -> None:
        # What a hedge does to a device that is quick is a matter of milliseconds.
        hedge = 1.0 if state == "hanging" else None
        within = SHORT if mode is Mode.LOCAL_ONLY else LONG
        seen, found = await scene(broker, mode, state, tags, within, hedge_after_ms=hedge)
        assert found == expected
        assert bool(seen) == bool(expected)

    asyncio.run(asyncio.wait_for(main(), 60))
