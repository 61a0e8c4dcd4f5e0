"""The registry of one tenant on a clock that is set by hand, the loops as if just started, and devices that report as agents do."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide.rollout_spec import Spec
from cloud_core.decide.rollup import Cell, Key
from cloud_core.keys import load_or_create
from cloud_core.loops.metrics import LoopMetrics
from cloud_core.loops.reconcile import Reconcile
from cloud_core.loops.rollouts import Rollouts
from cloud_core.store import (
    assignments,
    devices,
    generations,
    groups,
    history,
    models,
    rollouts,
    tenants,
    versions,
)
from cloud_core.store.assignments import Wanted
from cloud_core.store.database import open_database, read, write
from cloud_core.store.history import DEVICE, Place
from cloud_core.store.rollouts import Stored
from shared.bundle.manifest import canonical, digest_of
from shared.protocol.desired import Generation, Limits, Order
from shared.protocol.reported import Birth, Convergence, Hardware, ModelReport, ModelState, Reported
from shared.protocol.telemetry import histogram_of
from tests.cloud_core.api.bundles import bundle

HARDWARE = Hardware(hardware_class="c", machine="x86_64", cpus=2, memory_bytes=2**30)
LOG = structlog.get_logger()
START = 1_800_000_000.0


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = START

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Fleet:
    """The registry of one tenant, and devices that report as agents do."""

    def __init__(self, engine: AsyncEngine, folder: object) -> None:
        self.engine = engine
        self.clock = Hands()
        self.registry = CollectorRegistry()
        self.metrics = LoopMetrics(self.registry)
        self._keys = load_or_create(folder)  # type: ignore[arg-type]
        self._reconcile = Reconcile(
            engine,
            self._keys.generation,
            valid=1e9,
            made=lambda _: None,
            metrics=self.metrics,
            clock=self.clock,
            log=LOG,
        )
        self._seq = 0
        self.failing: set[str] = set()
        self.silent: set[str] = set()

    async def begin(self, *names: str) -> None:
        async with write(self.engine) as connection:
            await tenants.create(connection, "a", now=START)
            await groups.create(connection, "a", "g", description="", now=START)
            await models.create(connection, "a", "m", description="", now=START)
            for version in ("1.0.0", "2.0.0", "3.0.0"):
                text = canonical(bundle("m", version)[0])
                assert await versions.publish(
                    connection, "a", model="m", version=version, digest=digest_of(text), manifest=text.decode(),
                    published_by="test", now=START,
                )  # fmt: skip
            for name in names:
                token = hashlib.sha256(name.encode()).hexdigest()
                await devices.create(
                    connection, "a", name, description="", enrol_token_hash=token, enrol_expires_at=START + 9, now=START
                )
                await devices.enrol(
                    connection, token, public_key=f"k{name}", mqtt_password_hash="x", hardware=HARDWARE,
                    agent_version="1", now=START,
                )  # fmt: skip
                await groups.add(connection, "a", "g", name, now=START)
                birth = Birth(epoch=1, at=START, agent_version="1", hardware=HARDWARE, state_digest="")
                await devices.record_birth(connection, "a", name, birth, now=START)
            await assignments.put(
                connection, "a", "g", models=[Wanted(name="m", version="1.0.0")], policy=None, limits=Limits(),
                priority=3, now=START,
            )  # fmt: skip
        await self.round()

    async def start(self, version: str = "2.0.0", **changes: object) -> str:
        spec = msgspec.structs.replace(
            Spec(model="m", version=version, group="g", waves=("1", "50%", "100%"), soak_s=60.0), **changes
        )
        async with write(self.engine) as connection:
            id_ = f"r-{version}"
            assert await rollouts.create(connection, "a", id_, spec, created_by="user:me", now=self.clock.now)
        return id_

    async def rounds(self, count: int, *, seconds: float = 20.0) -> None:
        for _ in range(count):
            self.clock.now += seconds
            await self.tick()
            await self.round()

    async def tick(self) -> None:
        """The loop, as one that was just started."""
        await Rollouts(self.engine, lost_after=1e9, metrics=self.metrics, clock=self.clock, log=LOG).tick()

    async def round(self) -> None:
        """New generations, and what devices report of them."""
        await self._reconcile.reconcile("a")
        async with write(self.engine) as connection:
            for device, held in (await generations.newest_in(connection, "a")).items():
                if device in self.silent:
                    continue
                await self._report(connection, device, msgspec.json.decode(held.payload, type=Generation), held.order)

    async def _report(self, connection: object, device: str, generation: Generation, order: Order) -> None:
        self._seq += 1
        failed = device in self.failing and generation.models[0].version != "1.0.0"
        state = ModelState.FAILED if failed else ModelState.READY
        reports = [
            ModelReport(
                name=one.name,
                version=one.version,
                digest=one.digest,
                state=state,
                active=not failed,
                error="no" if failed else None,
            )
            for one in generation.models
        ]
        if failed:
            reports.append(ModelReport(name="m", version="1.0.0", digest="", state=ModelState.READY, active=True))
        report = Reported(
            epoch=1, seq=self._seq, at=self.clock.now, applied=None if failed else order, target=order,
            convergence=Convergence.FAILED if failed else Convergence.APPLIED, models=tuple(reports),
        )  # fmt: skip
        await devices.record_report(connection, "a", device, report, now=self.clock.now)  # type: ignore[arg-type]

    async def telemetry(self, device: str, version: str, *, median: float, at: float) -> None:
        cell = Cell(counts={"requests": 400}, histograms={"latency": histogram_of([median] * 400)})
        async with write(self.engine) as connection:
            for seconds in (60, 3600):
                place = Place("a", DEVICE, device, int(at // seconds) * seconds, Key("m", version, "local"))
                await history.add(connection, seconds, {place: cell})

    async def stored(self, id_: str) -> Stored:
        async with read(self.engine) as connection:
            found = await rollouts.get(connection, "a", id_)
        assert found is not None
        return found

    async def generations(self) -> dict[str, list[str]]:
        """The versions of each device's generations, newest first."""
        found = {}
        async with read(self.engine) as connection:
            for device in await devices.everywhere(connection, "a"):
                made = await generations.history(connection, "a", device.device)
                found[device.device] = [
                    msgspec.json.decode(one.payload, type=Generation).models[0].version for one in made
                ]
        return found


@asynccontextmanager
async def fleet(url: str, folder: object, *names: str) -> AsyncIterator[Fleet]:
    engine = open_database(url)
    try:
        made = Fleet(engine, folder)
        await made.begin(*names)
        yield made
    finally:
        await engine.dispose()
