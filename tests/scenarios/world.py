"""A device in virtual time: the real router, policy, breaker, budgets and forwarder, between a device and a cloud that do as they are told."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from edge_agent.control.applied import PolicyHolder
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.attempts import Attempts
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.forward import Forwarder, Gateway, _Answer
from edge_agent.serving.kept_answers import KeptAnswers
from edge_agent.serving.measure import Measurements
from edge_agent.serving.reach import Reach
from edge_agent.serving.router import Router
from edge_agent.serving.shadows import Shadows
from edge_agent.serving.why import WhyRing
from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import Interval
from shared.bundle.manifest import TaskKind
from shared.protocol.desired import Generation, ModelRef
from shared.protocol.errors import Corrupt, Overloaded, Transient, Unavailable
from shared.protocol.policy import policy_of
from shared.protocol.reported import ModelState
from shared.serving.admission.model_load import ModelLoad
from shared.serving.answer import Label, Request, Response, Where
from shared.serving.cache.input_key import SECRET_BYTES
from shared.serving.cache.response_cache import CacheMetrics, ResponseCache
from shared.serving.catalog import Listed
from shared.serving.decide.cost import Cost
from shared.serving.metrics import EngineMetrics
from shared.serving.oip.http import encode_response
from tests.edge_agent.serving.world import MODEL, TENANT, VERSION, Tokens
from tests.scenarios.virtual_time import VirtualClock

SMALL = "small"
"""Another model of the same task, absent unless a script says what it does."""


class Here(msgspec.Struct, kw_only=True):
    """What the device predicts and does: milliseconds. `takes` is what it really takes, where it is not what it predicts."""

    wait: float = 0.0
    service: float = 10.0
    takes: float | None = None
    full: bool = False
    absent: bool = False
    fails: bool = False
    score: float = 0.95


class There(msgspec.Struct, kw_only=True):
    """What the gateway does: milliseconds until it answers, and with which status. `silent`: it accepts and never answers."""

    takes: float = 40.0
    status: int = 200
    down: bool = False
    silent: bool = False


class Desk:
    """The device's engine, as far as a router knows it."""

    def __init__(self, metrics: EngineMetrics) -> None:
        self.metrics = metrics
        self.here = Here()
        self.small = Here(absent=True)

    def _of(self, name: str) -> Here:
        return self.small if name == SMALL else self.here

    def load_of(self, tenant: str, name: str, version: str | None = None) -> ModelLoad | None:
        here = self._of(name)
        if here.absent:
            return None
        return ModelLoad(
            name=name,
            version=VERSION,
            variant="v",
            digest="d" * 64,
            state=ModelState.READY,
            queued=0,
            running=0,
            expected_wait=here.wait / 1e3,
            full=here.full,
            cost=Cost(fixed=here.service / 1e3, observations=50, mean=here.service / 1e3),
        )

    def estimate(self, request: Request) -> int:
        return 1

    def active(self, tenant: str) -> Mapping[str, str]:
        return {name: VERSION for name in (MODEL, SMALL) if not self._of(name).absent}

    def models(self, tenant: str | None = None) -> tuple[Listed, ...]:
        task, state = TaskKind.TEXT_CLASSIFICATION, ModelState.READY
        return tuple(
            Listed(tenant=TENANT, name=name, version=VERSION, task=task, state=state, active=True)
            for name in self.active(TENANT)
        )

    def wish(self, *_: object) -> None: ...

    async def measure(self, request: Request) -> None: ...

    async def answer(self, request: Request) -> Response:
        here = self._of(request.model)
        if here.full:
            raise Overloaded("the device is full", retry_after=1.0)
        takes = (here.wait + here.service if here.takes is None else here.takes) / 1e3
        try:
            async with asyncio.timeout_at(request.deadline):
                await asyncio.sleep(takes)
        except TimeoutError as error:
            raise Transient("the deadline passed here", why=Unavailable.DEADLINE) from error
        if here.fails:
            raise Corrupt("the program is broken")
        return _answer(request.id, "here", here.score, "v", Where.LOCAL, model=request.model)


class Road(Forwarder):
    """The way to the gateway, without sockets."""

    there = There()

    async def _post(self, gateway: Gateway, request: Request, token: str) -> _Answer:
        there = self.there
        if there.down:
            raise Transient("the gateway cannot be reached: ConnectionRefusedError", why=Unavailable.UNREACHABLE)
        await asyncio.sleep(86_400.0 if there.silent else there.takes / 1e3)
        if there.status != 200:
            return _Answer(there.status, {}, b'{"error": "as told"}')
        body = encode_response(_answer("x", "there", 0.99, "gpu", Where.CLOUD))
        return _Answer(200, body.headers, body.data)


def _answer(id: str, label: str, score: float, variant: str, where: Where, *, model: str = MODEL) -> Response:
    return Response(
        id=id,
        model=model,
        version=VERSION,
        variant=variant,
        digest="d" * 64,
        task="text-classification",
        results=(Label(label=label, score=score, scores={label: score}),),
        where=where,
        why="",
    )


class World:
    """Everything a script can turn."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        registry = CollectorRegistry()
        self.desk = Desk(EngineMetrics(registry))
        self.draw, self.silence = 0.5, 0.0
        self.cloud = CloudTarget(
            clock=self.clock,
            draw=lambda: self.draw,
            price=lambda: self.holder.policy.cloud_budget.price_per_request or 0.0,
        )
        self.road = Road(None, self.cloud, clock=self.clock)  # type: ignore[arg-type]
        self.holder = PolicyHolder()
        self.ring = WhyRing()
        interval = Interval()
        metrics = AgentMetrics(registry, breaker=lambda: self.cloud.breaker)
        accounts = Accounts(self.desk.metrics, metrics, interval=interval, ring=self.ring, clock=self.clock)
        engine: Any = self.desk
        cache = ResponseCache(secret=b"s" * SECRET_BYTES, metrics=CacheMetrics(registry))
        self.router = Router(
            engine,
            Attempts(engine, self.road, self.cloud, accounts, clock=self.clock),
            self.cloud,
            self.holder,
            kept=KeptAnswers(cache, clock=self.clock),
            shadows=Shadows(engine, metrics=metrics, interval=interval, clock=self.clock),
            reach=Reach(None, log=structlog.get_logger(), draw=lambda: 0.5),  # type: ignore[arg-type]
            measurements=Measurements(engine, clock=self.clock),
            accounts=accounts,
            clock=self.clock,
        )
        self.road.connect(Gateway("http://gateway", Tokens()))
        self.cloud.enrolled(silence=lambda: self.silence)

    def policy(self, rules: Mapping[str, object]) -> None:
        self.holder.set(
            Generation(
                tenant=TENANT,
                device="lamp",
                epoch=1,
                number=1,
                issued_at=0.0,
                expires_at=1.0,
                models=(ModelRef(name=MODEL, version=VERSION, digest="d" * 64),),
                policy=policy_of(rules),
                policy_name="p",
                policy_revision=1,
            )
        )

    def requests(self) -> Iterator[str]:
        """Ids nobody had before."""
        return (f"r{i}" for i in range(1_000_000))
