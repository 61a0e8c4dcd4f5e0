"""A device in one process: the real engine on a scripted session, the real router and forwarder, and a gateway that plays a part."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from edge_agent.control.applied import PolicyHolder
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.forward import Forwarder, Gateway
from edge_agent.serving.measure import Measurements
from edge_agent.serving.reach import Reach
from edge_agent.serving.router import Router
from edge_agent.serving.why import WhyRing
from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import Interval
from shared.bundle.manifest import Chunk, File, Manifest, TaskKind, TensorSpec, Variant
from shared.io.clock import SystemClock
from shared.protocol.desired import Generation, ModelRef
from shared.protocol.policy import Policy, policy_of
from shared.protocol.topics import Header
from shared.serving.answer import Label, Request, Response, Result, Where
from shared.serving.decide.cost import Cost
from shared.serving.engine import Engine
from shared.serving.metrics import EngineMetrics
from shared.serving.oip import encode_response
from shared.serving.sessions.scripted import ScriptedSession
from shared.serving.sessions.session import Feeds, Outputs
from shared.serving.tasks.task import Prepared, Run

TENANT, MODEL, VERSION = "default", "mood", "1.2.0"


class Echo:
    """A text task whose score is what the session puts out."""

    name = "text-classification"

    def estimate(self, item: object, parameters: Mapping[str, object]) -> int:
        return len(str(item))

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        return Prepared(tokens=max(1, len(str(item))), data=item, parameters=parameters)

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Iterator[list[Result]]:
        outputs = run({"n": np.zeros(len(batch), dtype=np.float32)})
        yield [Label(label="good", score=float(s), scores={"good": float(s)}) for s in outputs["score"]]


def manifest(version: str = VERSION) -> Manifest:
    return Manifest(
        name=MODEL,
        version=version,
        task=TaskKind.TEXT_CLASSIFICATION,
        variants=(Variant(name="v", runtime="onnx", precision="fp32", files=("m.onnx",)),),
        files=(File(path="m.onnx", size=0, sha256="0" * 64, chunks=(Chunk("0" * 64, 0),)),),
        labels=("good",),
    )


class FakeGateway:
    """A real HTTP server. `play` decides what it answers; `requests` is what it saw."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.url = ""
        self.serves: list[tuple[str, str]] = []
        self.described = 0
        self.play: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.good

    async def good(self, request: web.Request) -> web.Response:
        score = 0.99
        response = Response(
            id="x",
            model=request.match_info["model"],
            version=request.match_info.get("version", "9.9.9"),
            variant="gpu",
            digest="d",
            task="text-classification",
            results=(Label(label="cloudy", score=score, scores={"cloudy": score}),),
            where=Where.CLOUD,
            why="served-here",
        )
        body = encode_response(response)
        return web.Response(body=body.data, headers=body.headers)

    def status(self, code: int, **headers: str) -> None:
        async def play(request: web.Request) -> web.Response:
            return web.json_response({"error": "as scripted"}, status=code, headers=headers)

        self.play = play

    def hang(self) -> asyncio.Event:
        release = asyncio.Event()

        async def play(request: web.Request) -> web.StreamResponse:
            await release.wait()
            return await self.good(request)

        self.play = play
        return release

    async def infer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append({"path": request.path, "headers": dict(request.headers), "body": await request.read()})
        return await self.play(request)

    async def index(self, request: web.Request) -> web.Response:
        return web.json_response([{"name": n, "version": v, "state": "READY", "reason": ""} for n, v in self.serves])

    async def metadata(self, request: web.Request) -> web.Response:
        self.described += 1
        told = {"task": "text-classification", "variant": "gpu", "digest": "d"}
        return web.json_response({"name": request.match_info["model"], "parameters": told})

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeGateway"]:
        app = web.Application()
        app.router.add_post("/v2/models/{model}/infer", self.infer)
        app.router.add_post("/v2/models/{model}/versions/{version}/infer", self.infer)
        app.router.add_post("/v2/repository/index", self.index)
        app.router.add_get("/v2/models/{model}/versions/{version}", self.metadata)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


class Tokens:
    def __init__(self) -> None:
        self.given = 0
        self.forgotten: list[str] = []

    async def token(self) -> str:
        self.given += 1
        return f"t{len(self.forgotten)}"

    def forget(self, token: str) -> None:
        self.forgotten.append(token)


class Device:
    """Everything a test looks at."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.clock = SystemClock()
        self.registry = CollectorRegistry()
        self.gate = threading.Event()
        self.gate.set()
        self.score = 0.5
        self.failing: Exception | None = None
        self.session = ScriptedSession(
            self._script, inputs=(TensorSpec(name="n", datatype="FP32", shape=(-1,)),), gate=self.gate
        )
        self.engine = Engine(
            clock=self.clock,
            log=structlog.get_logger(),
            metrics=EngineMetrics(self.registry),
            sessions=lambda path, runtime, threads: self.session,
            tasks=lambda manifest, folder: Echo(),
        )
        self.draw = 0.5
        self.cloud = CloudTarget(clock=self.clock, draw=lambda: self.draw)
        self.forwarder = Forwarder(http, self.cloud, clock=self.clock)
        self.holder = PolicyHolder()
        self.ring = WhyRing()
        self.interval = Interval()
        self.tokens = Tokens()
        self.silence = 0.0
        self.reach = Reach(http, log=structlog.get_logger(), draw=lambda: 0.5)
        self.router = Router(
            self.engine,
            self.forwarder,
            self.cloud,
            self.holder,
            reach=self.reach,
            measurements=Measurements(self.engine, clock=self.clock),
            ring=self.ring,
            metrics=AgentMetrics(self.registry, breaker=lambda: self.cloud.breaker),
            interval=self.interval,
            clock=self.clock,
        )

    def _script(self, feeds: Feeds) -> Outputs:
        if self.failing is not None:
            raise self.failing
        return {"score": np.full(len(feeds["n"]), self.score, dtype=np.float32)}

    async def load(self, version: str = VERSION) -> None:
        await self.engine.load(TENANT, manifest(version), "d" * 64, Path("/nowhere"), "v")
        self.engine.activate(TENANT, {MODEL: version})

    def enrol(self, url: str) -> None:
        self.forwarder.connect(Gateway(url, self.tokens))
        self.cloud.enrolled(silence=lambda: self.silence)

    def policy(self, **rules: object) -> None:
        policy: Policy = policy_of(rules)
        self.holder.set(
            Generation(
                tenant=TENANT,
                device="lamp",
                epoch=1,
                number=2,
                issued_at=0.0,
                expires_at=1.0,
                models=(ModelRef(name=MODEL, version=VERSION, digest="d" * 64),),
                policy=policy,
                policy_name="p",
                policy_revision=3,
            )
        )

    def request(self, id: str = "r1", *, within: float | None = None, **fields: Any) -> Request:
        deadline = None if within is None else self.clock.monotonic() + within
        base = Request(id=id, tenant=TENANT, model=MODEL, texts=("hello",), deadline=deadline)
        return msgspec.structs.replace(base, **fields)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def costs(self, seconds: float) -> None:
        """The engine has learnt that every 128 tokens take `seconds`."""
        worker = self.engine._models[TENANT, MODEL, VERSION]._worker
        worker.cost = Cost(slope=seconds, observations=50, mean=seconds)

    async def saturate(self, count: int = 100) -> list["asyncio.Task[Response]"]:
        """Let the engine learn that a request takes time, then fill its queue behind a closed gate."""
        self.costs(1.0)
        self.gate.clear()
        waiting = [
            asyncio.create_task(self.engine.answer(self.request(f"w{i}", texts=("x" * 500,)))) for i in range(count)
        ]
        while self.engine.load_of(TENANT, MODEL).queued < count - 20:  # type: ignore[union-attr]
            await asyncio.sleep(0.001)
        return waiting


def in_device(test: Callable[[Device, FakeGateway], Awaitable[None]], *, load: bool = True, enrol: bool = True) -> None:
    """Run `test` on a device with a gateway."""

    async def main() -> None:
        gateway = FakeGateway()
        async with gateway.running(), aiohttp.ClientSession() as http:
            device = Device(http)
            if load:
                await device.load()
            if enrol:
                device.enrol(gateway.url)
            try:
                await asyncio.wait_for(test(device, gateway), 30)
            finally:
                device.gate.set()
                await device.engine.close()

    asyncio.run(main())


def header(request: dict[str, Any], name: str = Header.REQUEST_ID) -> str:
    return str({key.lower(): value for key, value in request["headers"].items()}[name.lower()])


async def shut(device: Device, waiting: list["asyncio.Task[Response]"]) -> None:
    device.gate.set()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
