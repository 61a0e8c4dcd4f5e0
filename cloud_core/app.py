"""Composition: builds the objects of every `cloud-core` process and hands them to each other. No behaviour lives here.

Every role is a process of its own and imports only its own part: half a dozen of them start at the same moment.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer
from prometheus_client import CollectorRegistry
from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core import config
from cloud_core.announced import announce, url_of
from cloud_core.children import DRAIN_S, children, replica_name, with_ports
from cloud_core.config import Settings
from cloud_core.health_site import LOOPBACK, health_site
from cloud_core.keys import load_or_create
from cloud_core.site_stop import stop_site
from cloud_core.store import commands, database
from cloud_core.supervisor import Supervisor
from shared.io import logs
from shared.io.clock import Clock, SystemClock
from shared.io.durable import FolderLock
from shared.io.logs import Log
from shared.io.process_metrics import ProcessMetrics
from shared.io.program import Program
from shared.io.web import Site
from shared.protocol.errors import Refusal, Refused
from shared.serving.decide.readiness import Check

if TYPE_CHECKING:
    from cloud_core.models.trial import Gate


class Process(NamedTuple):
    """What every process has."""

    name: str
    settings: Settings
    log: Log
    registry: CollectorRegistry
    clock: Clock
    program: Program
    database: AsyncEngine

    def announce(self, port: int, host: str = "") -> None:
        """Write `run/<name>.json`."""
        url = url_of(host or self.settings.host, port)
        announce(self.settings.data / "run", name=self.name, url=url, at=self.clock.wall())

    async def tell_health(self, checks: Callable[[], Sequence[Check]]) -> None:
        """On a free loopback port, for roles whose work is not HTTP."""
        port = await health_site(self.name, checks, program=self.program, registry=self.registry, log=self.log)
        self.announce(port, LOOPBACK)

    async def run(self) -> None:
        """Run the program to its end."""
        self.program.on_stop("database", self.database.dispose)
        await self.program.run(lifeline=config.lifeline())


async def run_everything(settings: Settings) -> None:
    """The supervisor and, below it, every role, the broker and the replicas."""
    log, clock = _log(settings, "cloud-core", own_file=False), SystemClock()
    with FolderLock(settings.data, field="data_dir"):
        fixed = with_ports(settings)
        environment = config.environment_of(fixed)
        supervisor = Supervisor(children(fixed), data=fixed.data, environment=environment, log=log, clock=clock)
        await supervisor.clear_leftovers()
        await database.migrate(fixed.database_url)
        await _first_run(fixed, clock)
        program = Program(log)
        for spec in supervisor.specs:
            program.task(f"child:{spec.name}", partial(supervisor.run_child, spec))
        program.task("state", supervisor.keep_state)
        for stage in supervisor.stop_stages:
            program.on_stop(f"stage {stage}", partial(supervisor.stop, stage), timeout=supervisor.stage_timeout(stage))
        program.on_stop("state", supervisor.write_state)
        await program.run(lifeline=config.lifeline())


async def run_api(settings: Settings) -> None:
    """The admin API, the device API and the dashboard."""
    from cloud_core.api.application import CONTENT, FEED, build_api  # noqa: PLC0415 - only its own role
    from cloud_core.api.content_link import serve_content  # noqa: PLC0415 - only its own role

    process = _process(settings, "api")
    gate, keys = await _gate(process), load_or_create(settings.secrets)
    application = build_api(settings, process.database, keys, process.log, process.registry, process.clock, gate)
    site = Site(limits=settings.http_limits)
    process.announce(await site.start(application, host=settings.host, port=settings.api_port))

    async def end_streams() -> None:
        application[FEED].close()

    serve_content(settings, keys, application[CONTENT], program=process.program, clock=process.clock)
    process.program.task("events", application[FEED].run)
    process.program.on_stop("event streams", end_streams)
    stop_site(process.program, site, drain=DRAIN_S)
    await process.run()


async def run_loops(settings: Settings) -> None:
    """The controllers and the ingest, with a small site for their health."""
    from cloud_core.loops import run as loops  # noqa: PLC0415 - only its own role

    process = _process(settings, "loops")
    link = await loops.run_loops(
        settings,
        engine=process.database,
        keys=load_or_create(settings.secrets),
        gate=await _gate(process),
        program=process.program,
        log=process.log,
        registry=process.registry,
        clock=process.clock,
    )
    await process.tell_health(lambda: (Check(name="broker", ok=link.connected, detail="not connected"),))
    await process.run()


async def run_ingest(settings: Settings) -> None:
    """One more process that takes telemetry, with a small site for its health."""
    from cloud_core.loops import run_ingest as ingest  # noqa: PLC0415 - only its own role

    process = _process(settings, f"ingest-{settings.ingest_number}")
    link = await ingest.run_ingest(
        settings, engine=process.database, keys=load_or_create(settings.secrets), program=process.program,
        log=process.log, registry=process.registry, clock=process.clock,
    )  # fmt: skip
    await process.tell_health(lambda: (Check(name="broker", ok=link.connected, detail="not connected"),))
    await process.run()


async def run_broker(settings: Settings) -> None:
    """The embedded MQTT broker, with a small site for its health."""
    from cloud_core.broker import run as broker  # noqa: PLC0415 - only its own role

    process = _process(settings, "broker")
    keys, address = load_or_create(settings.secrets), f"{settings.mqtt_host}:{settings.mqtt_port}"
    try:
        await broker.run_broker(
            settings, engine=process.database, keys=keys, program=process.program, registry=process.registry
        )
    except OSError as error:
        allowed = f"a free port ({error.strerror})"
        raise Refused(
            "cannot listen", kind=Refusal.CONFLICT, field="mqtt_port", value=address, allowed=allowed
        ) from error
    await process.tell_health(tuple)
    await process.run()


async def run_gateway(settings: Settings) -> None:
    """The gateway: inference over the replicas."""
    from cloud_core.gateway import run as gateway  # noqa: PLC0415 - only its own role

    process = _process(settings, "gateway")
    port = await gateway.run_gateway(
        settings,
        engine=process.database,
        keys=load_or_create(settings.secrets),
        program=process.program,
        log=process.log,
        registry=process.registry,
        clock=process.clock,
        drain=DRAIN_S,
    )
    process.announce(port)
    await process.run()


async def run_replica(settings: Settings, index: int) -> None:
    """Replica `index`: serves what the registry wants served."""
    from cloud_core.replicas import run as replicas  # noqa: PLC0415 - only its own role

    process = _process(settings, settings.replica_name or replica_name(index))
    folder = settings.data / "replicas" / (settings.replica_name or str(index))
    with FolderLock(folder, field="index"):
        port = await replicas.run_replica(
            settings,
            name=process.name,
            ports=settings.replica_ports(index),
            folder=folder,
            database=process.database,
            program=process.program,
            log=process.log,
            registry=process.registry,
            clock=process.clock,
            drain=DRAIN_S,
        )
        process.announce(port, settings.replica_host)
        await process.run()


async def run_demo(*, tour_only: bool, folder: Path | None, console: Console) -> bool:
    """The whole platform with a tour; whether every step held."""
    from cloud_core.demo.run import run_demo  # noqa: PLC0415 - only its own command

    program, ended, held = Program(logs.build("demo", level="warning")), asyncio.Event(), False

    async def demo() -> None:
        nonlocal held
        try:
            held = await run_demo(
                program.stopping,
                tour_only=tour_only,
                folder=folder,
                console=console,
                environment=config.environment_of_parent(),
            )
        finally:
            ended.set()
            program.stopping.set()

    async def stopped() -> None:
        await ended.wait()

    program.task("demo", demo)
    program.on_stop("everything", stopped, timeout=90.0)
    await program.run(lifeline=config.lifeline())
    return held


async def migrate(settings: Settings) -> None:
    """Bring the database to this version's schema."""
    await database.migrate(settings.database_url)


async def add_user(settings: Settings, *, tenant: str, name: str, role: str, password: str) -> str:
    """Add a user; the password, made up where it was empty."""
    async with _opened(settings) as engine:
        now = SystemClock().wall()
        return await commands.add_user(engine, tenant=tenant, name=name, role=role, password=password, now=now)


async def create_token(settings: Settings, *, tenant: str, name: str, role: str, valid_s: float | None) -> str:
    """Create an API token; the only time it is seen."""
    async with _opened(settings) as engine:
        now = SystemClock().wall()
        return await commands.create_token(engine, tenant=tenant, name=name, role=role, valid_s=valid_s, now=now)


async def _first_run(settings: Settings, clock: Clock) -> None:
    """Keys, the first tenant and its admin, before any child could want them."""
    keys = load_or_create(settings.secrets)
    async with _opened(settings) as engine:
        password = await commands.ensure_first_run(engine, settings, keys, clock.wall())
    if password is not None:
        typer.echo(f"made user {commands.ADMIN} of tenant default; its password, shown only this once: {password}")


async def _gate(process: Process) -> "Gate":
    """What decides which versions may exist, for whoever publishes."""
    from cloud_core.models.trial import VersionTrials, isolation_of  # noqa: PLC0415 - only the roles that publish

    settings, log = process.settings, process.log
    isolation = await isolation_of(log)
    return VersionTrials(
        settings.trials, limits=settings.trial_limits, isolation=isolation, clock=process.clock, log=log
    )


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = database.open_database(settings.database_url)
    try:
        yield engine
    finally:
        await engine.dispose()


def _process(settings: Settings, name: str) -> Process:
    log = _log(settings, name, own_file=True)
    registry = CollectorRegistry()
    registry.register(ProcessMetrics())
    return Process(
        name=name,
        settings=settings,
        log=log,
        registry=registry,
        clock=SystemClock(),
        program=Program(log),
        database=database.open_database(settings.database_url),
    )


def _log(settings: Settings, name: str, *, own_file: bool) -> Log:
    """`own_file`: a child writes beside the supervisor's file, since two processes cannot rotate one."""
    file = Path(settings.log_file) if settings.log_file else None
    if file is not None and own_file:
        file = file.with_name(f"{file.stem}.{name}{file.suffix}")
    return logs.build(name, level=settings.log_level, file=file)
