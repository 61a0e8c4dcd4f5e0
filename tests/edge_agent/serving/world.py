"""A device in one process: the real engine on a scripted session, the real router and forwarder, and a gateway that plays a part."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from edge_agent.control.applied import PolicyHolder
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.attempts import Attempts
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.early import EarlyRefusal
from edge_agent.serving.forward import Forwarder, Gateway
from edge_agent.serving.kept_answers import KeptAnswers
from edge_agent.serving.measure import Measurements
from edge_agent.serving.reach import Reach
from edge_agent.serving.router import Router
from edge_agent.serving.shadows import Shadows
from edge_agent.serving.why import WhyRing
from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import Interval
from shared.bundle.manifest import Chunk, File, Manifest, TaskKind, TensorSpec, Variant
from shared.io.clock import SystemClock
from shared.io.loop_lag import LoopLag
from shared.protocol.desired import Generation, ModelRef
from shared.protocol.policy import Policy, policy_of
from shared.protocol.topics import Header
from shared.serving.answer import Embedding, Label, Request, Response, Result, Text
from shared.serving.cache.input_key import SECRET_BYTES
from shared.serving.cache.response_cache import CacheMetrics, ResponseCache
from shared.serving.decide.cost import Cost
from shared.serving.engine import Engine
from shared.serving.metrics import EngineMetrics
from shared.serving.sessions.scripted import ScriptedSession
from shared.serving.sessions.session import Feeds, Outputs
from shared.serving.tasks.task import Prepared, Run
from tests.edge_agent.serving.fake_gateway import FakeGateway

TENANT, MODEL, VERSION = "default", "mood", "1.2.0"


class Echo:
    """A text task whose score is what the session puts out."""

    name = "text-classification"

    def __init__(self, label: str = "good") -> None:
        self.label = label

    def estimate(self, item: object, parameters: Mapping[str, object]) -> int:
        return len(str(item))

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        return Prepared(tokens=max(1, len(str(item))), data=item, parameters=parameters)

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Iterator[list[Result]]:
        outputs = run({"n": np.zeros(len(batch), dtype=np.float32)})
        yield [Label(label=self.label, score=float(s), scores={self.label: float(s)}) for s in outputs["score"]]


class Vectors(Echo):
    """A text task whose vector is what the session puts out."""

    name = "text-embedding"

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Iterator[list[Result]]:
        outputs = run({"n": np.zeros(len(batch), dtype=np.float32)})
        yield [Embedding(embedding=np.full(3, s, dtype=np.float32), tokens=1) for s in outputs["score"]]


class Words(Echo):
    """A text task whose words say nothing of the session, but wait for it."""

    name = "text-generation"

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Iterator[list[Result]]:
        run({"n": np.zeros(len(batch), dtype=np.float32)})
        yield [Text(text="word", tokens=1, prompt_tokens=1, finish="stop") for _ in batch]


OTHERS = {TaskKind.TEXT_EMBEDDING: Vectors(), TaskKind.TEXT_GENERATION: Words()}


def manifest(version: str = VERSION, *, name: str = MODEL, task: TaskKind = TaskKind.TEXT_CLASSIFICATION) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        task=task,
        variants=(Variant(name="v", runtime="onnx", precision="fp32", files=("m.onnx",)),),
        files=(File(path="m.onnx", size=0, sha256="0" * 64, chunks=(Chunk("0" * 64, 0),)),),
        labels=("good",),
    )


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
        self.others: dict[str, ScriptedSession] = {}
        """Sessions of versions that do not use the device's own, by version."""
        self.labels: dict[str, str] = {}
        self.engine = Engine(
            clock=self.clock,
            log=structlog.get_logger(),
            metrics=EngineMetrics(self.registry),
            sessions=lambda path, variant, arrangement: self.others.get(path.parent.name, self.session),
            tasks=lambda manifest, folder: OTHERS.get(manifest.task) or Echo(self.labels.get(manifest.version, "good")),
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
        metrics = AgentMetrics(self.registry, breaker=lambda: self.cloud.breaker)
        accounts = Accounts(self.engine.metrics, metrics, interval=self.interval, ring=self.ring, clock=self.clock)
        self.cache = ResponseCache(secret=b"s" * SECRET_BYTES, metrics=CacheMetrics(self.registry))
        self.shadows = Shadows(self.engine, metrics=metrics, interval=self.interval, clock=self.clock)
        self.router = Router(
            self.engine,
            Attempts(self.engine, self.forwarder, self.cloud, accounts, clock=self.clock),
            self.cloud,
            self.holder,
            kept=KeptAnswers(self.cache, clock=self.clock),
            shadows=self.shadows,
            reach=self.reach,
            measurements=Measurements(self.engine, clock=self.clock),
            accounts=accounts,
            clock=self.clock,
        )

        self.lag = LoopLag(self.clock)
        self.early = EarlyRefusal(self.engine, self.cloud, self.holder, accounts, lag=self.lag, clock=self.clock)

    def _script(self, feeds: Feeds) -> Outputs:
        if self.failing is not None:
            raise self.failing
        return {"score": np.full(len(feeds["n"]), self.score, dtype=np.float32)}

    async def load(self, version: str = VERSION, *, digest: str = "d" * 64, activate: bool = True) -> None:
        await self.engine.load(TENANT, manifest(version), digest, Path("/nowhere") / version, "v")
        if activate:
            self.engine.activate(TENANT, {MODEL: version})

    def other(self, version: str, *, score: float = 0.5, gate: threading.Event | None = None) -> ScriptedSession:
        """Another session for `version`, to be loaded next."""
        self.others[version] = ScriptedSession(
            lambda feeds: {"score": np.full(len(feeds["n"]), score, dtype=np.float32)},
            inputs=self.session.inputs,
            gate=gate,
        )
        return self.others[version]

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
        self.engine._models[TENANT, MODEL, VERSION].cost = Cost(per_token=seconds / 128, observations=50, mean=seconds)

    async def saturate(self, count: int = 100) -> list["asyncio.Task[Response]"]:
        """Fill the engine's queue behind a closed gate, then let it learn that a request takes time."""
        self.gate.clear()
        waiting = [
            asyncio.create_task(self.engine.answer(self.request(f"w{i}", texts=("x" * 500,)))) for i in range(count)
        ]
        while self.engine.load_of(TENANT, MODEL).queued < count - 20:  # type: ignore[union-attr]
            await asyncio.sleep(0.001)
        self.costs(1.0)
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
                await device.shadows.close()
                await device.engine.close()

    asyncio.run(main())


def header(request: dict[str, Any], name: str = Header.REQUEST_ID) -> str:
    return str({key.lower(): value for key, value in request["headers"].items()}[name.lower()])


async def shut(device: Device, waiting: list["asyncio.Task[Response]"]) -> None:
    device.gate.set()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
