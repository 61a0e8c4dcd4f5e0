"""Composition: builds the objects of an edge agent and hands them to each other. No behaviour lives here.

Shutdown order: stop accepting, drain, say goodbye to the control plane, close what computes, give back the folder.
"""

import asyncio
import importlib.metadata
import random
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
from prometheus_client import CollectorRegistry

from edge_agent.config import Settings, Transport
from edge_agent.control.applied import PolicyHolder
from edge_agent.control.converge import Converger
from edge_agent.control.enrol import Enrolment, How, enrol, enrol_alone, identity_or_how
from edge_agent.control.identity import AccessTokens, Identity
from edge_agent.control.link import Hooks, Link
from edge_agent.control.loading import Loader
from edge_agent.control.state import AgentState
from edge_agent.control.trials import Trials
from edge_agent.control.trust import Trust
from edge_agent.control.trust_client import TrustClient
from edge_agent.control.trust_record import TrustRecord
from edge_agent.control.tuner import details_of
from edge_agent.converging import converger_of
from edge_agent.fetching import Ways, ways_of
from edge_agent.listening import TENANT, listen
from edge_agent.parts import Core, Kept
from edge_agent.sampling import uplink_of
from edge_agent.serving import disk, why
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.activity import Activity
from edge_agent.serving.attempts import Attempts
from edge_agent.serving.busy_poll import BusyPoll
from edge_agent.serving.early import EarlyRefusal
from edge_agent.serving.forward import POOL, Forwarder, Gateway
from edge_agent.serving.kept_answers import KeptAnswers
from edge_agent.serving.measure import Measurements
from edge_agent.serving.reach import Reach
from edge_agent.serving.router import Router
from edge_agent.serving.shadows import Shadows
from edge_agent.spending import target_of
from edge_agent.status import Link as LinkState
from edge_agent.status import Standing
from edge_agent.telemetry.convergence import ConvergenceWatch
from edge_agent.telemetry.host import hardware
from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import Interval
from edge_agent.trusting import trust_of
from edge_agent.tuning import arrangements_of, tuner_of
from shared.io.clock import SystemClock
from shared.io.durable import FolderLock
from shared.io.logs import Log
from shared.io.loop_lag import LoopLag
from shared.io.memory import Heap, memory_limit
from shared.io.program import Program
from shared.protocol.enrolment import EnrolAnswer
from shared.protocol.reported import Reported
from shared.serving.cache.input_key import SECRET_BYTES
from shared.serving.cache.response_cache import CacheMetrics, ResponseCache
from shared.serving.catalog import order_of
from shared.serving.decide.admission import Limits
from shared.serving.decide.footprint import allowance
from shared.serving.decide.residency import Keep
from shared.serving.engine import Engine
from shared.serving.memory.recycler import Recycler
from shared.serving.memory.room import Room
from shared.serving.metrics import EngineMetrics
from shared.serving.trial.replay import runtime

CLOSE_S = 10.0


async def build_agent(settings: Settings, log: Log) -> Program:
    """The agent of a fleet: what it holds is served at once, while enrolment and link go on in the background.

    Raises:
        Refused: another agent uses the folder, the port is taken, or there is neither an identity nor where to get one.
        Corrupt: the identity cannot be read.

    """
    async with AsyncExitStack() as undo:
        undo.enter_context(FolderLock(settings.state, field="state_dir"))
        identity, wanted = identity_or_how(settings.state, _how(settings))
        core = await _core(settings, log, undo, kept=settings.state)
        state = AgentState(settings.state, first=int(core.clock.wall()))
        undo.callback(state.close)
        if state.recovered is not None:
            log.error("the record was damaged and put aside", path=str(state.recovered))
        uplink, trusted = uplink_of(core, state, undo), TrustRecord(settings.state)
        undo.callback(trusted.close)
        await listen(core, undo, announced=True)
        _control(core, Kept(identity, state, uplink, trusted), wanted)
        core.program.on_stop("free", undo.pop_all().aclose, timeout=CLOSE_S)
    return core.program


async def build_standalone(settings: Settings, log: Log, paths: Sequence[Path]) -> Program:
    """An agent that serves what lies on its disk, with no cloud and no broker; nothing is written.

    Raises:
        Refused: a path holds nothing that can be served, or the port is taken.
        Corrupt: a model did not pass its trial, or cannot be loaded.

    """
    async with AsyncExitStack() as undo:
        core = await _core(settings, log, undo)
        active: dict[str, str] = {}
        for path in paths:
            found = await disk.find(path, core.device, core.trials, core.arrangements.advised())
            name, version = found.manifest.name, found.manifest.version
            await core.loader.load(TENANT, found)
            active[name] = max(active.get(name, version), version, key=order_of)
        core.engine.activate(TENANT, active)
        core.engine.hold(TENANT, {each: Keep.PINNED for each in active.items() if each[0] in settings.pinned_models})
        await listen(core, undo, announced=False)
        core.program.on_stop("free", undo.pop_all().aclose, timeout=CLOSE_S)
    return core.program


async def _core(settings: Settings, log: Log, undo: AsyncExitStack, *, kept: Path | None = None) -> Core:
    """`kept`: the folder in which it is remembered what passed its trial."""
    clock, registry, holder = SystemClock(), CollectorRegistry(), PolicyHolder()
    session = await undo.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=POOL)))
    computing, heap, program = EngineMetrics(registry), Heap(), Program(log)
    allowed = allowance(
        memory_limit(), heap.resident(), budget=settings.memory_bytes, slack=settings.memory_growth_bytes
    )
    room = Room(clock=clock, log=log, metrics=computing.residency, budget=allowed.budget, heap=heap)
    engine = Engine(clock=clock, log=log, metrics=computing, limits=Limits(tokens=settings.queue_tokens), room=room)
    undo.push_async_callback(engine.close)
    program.task("recycle", Recycler(room, slack=allowed.slack, clock=clock, log=log).tend_forever)
    cloud = target_of(settings, holder, program, undo, clock=clock, kept=kept)
    forwarder = Forwarder(session, cloud, clock=clock)
    ring, interval = why.WhyRing(), Interval()
    metrics = AgentMetrics(registry, breaker=lambda: cloud.breaker)
    reach = Reach(session, log=log, draw=random.random)
    accounts = Accounts(engine.metrics, metrics, interval=interval, ring=ring, clock=clock)
    looks = CacheMetrics(registry)
    cache = ResponseCache(secret=secrets.token_bytes(SECRET_BYTES), metrics=looks)
    shadows = Shadows(engine, metrics=metrics, interval=interval, clock=clock)
    undo.push_async_callback(shadows.close)
    router = Router(
        engine,
        Attempts(engine, forwarder, cloud, accounts, clock=clock),
        cloud,
        holder,
        kept=KeptAnswers(cache, clock=clock),
        shadows=shadows,
        reach=reach,
        measurements=Measurements(engine, clock=clock),
        accounts=accounts,
        clock=clock,
    )
    trials = Trials(kept, limits=settings.trial_limits, runtime=runtime(), log=log)
    arrangements = await arrangements_of(settings, log)
    standing = Standing(lambda: cloud.breaker.value)
    standing.running = lambda: details_of(arrangements, None)
    known, standing.isolation = await asyncio.gather(asyncio.to_thread(hardware), trials.isolation())
    return Core(
        settings=settings,
        log=log,
        clock=clock,
        program=program,
        registry=registry,
        http=session,
        engine=engine,
        holder=holder,
        cloud=cloud,
        forwarder=forwarder,
        ring=ring,
        interval=interval,
        looks=looks,
        metrics=metrics,
        router=router,
        accounts=accounts,
        early=EarlyRefusal(engine, cloud, holder, accounts, lag=LoopLag(clock), clock=clock),
        reach=reach,
        standing=standing,
        trials=trials,
        arrangements=arrangements,
        loader=Loader(engine, trials, arrangements, log),
        activity=Activity(clock, BusyPoll(clock, horizon=settings.busy_poll_us / 1e6)),
        hardware=known,
        version=_version(),
    )


def _control(core: Core, kept: Kept, wanted: Enrolment | None) -> None:
    """Add what keeps the device under control: telemetry at once, the rest as soon as it is enrolled."""
    links: list[Link] = []

    async def control() -> None:
        identity = kept.identity
        if identity is None or identity.enrolment is None:
            if wanted is None:
                return
            settings, log = core.settings, core.log
            identity = await enrol(settings.state, wanted, http=core.http, log=log, draw=random.random)
        own, tokens = identity.own, AccessTokens(identity.own, identity.signer, http=core.http, clock=core.clock)
        converger, link, trust, ways = _linked(core, kept, identity, tokens)
        links.append(link)
        await converger.start_from_disk()
        async with asyncio.TaskGroup() as group:
            group.create_task(converger.run(), name="converge")
            group.create_task(trust.run(), name="trust")
            group.create_task(link.run(), name="link")
            group.create_task(tuner_of(core, link.changed).run(), name="tune")
            group.create_task(link.report_forever(), name="report")
            group.create_task(kept.uplink.send_forever(link.telemetry), name="uplink")
            group.create_task(ways.run(), name="content")
            if core.settings.transport is not Transport.MQTT:
                group.create_task(
                    core.reach.refresh_forever(Gateway(own.gateway_url, tokens), own.tenant), name="reach"
                )

    async def goodbye() -> None:
        link = links[0] if links else None
        await kept.uplink.flush(link.telemetry if link is not None and link.connected else None)
        if link is not None:
            await link.close()

    core.program.task("sample", kept.uplink.sample_forever)
    core.program.task("control", control)
    core.program.on_stop("goodbye", goodbye)


def _linked(
    core: Core, kept: Kept, identity: Identity, tokens: AccessTokens
) -> tuple[Converger, Link, TrustClient, Ways]:
    """What an enrolled device converges, speaks and trusts by; from here on it has a cloud."""
    settings, clock, log, standing, own = core.settings, core.clock, core.log, core.standing, identity.own
    ways = ways_of(core, own.api_url, tokens, lambda: link)
    watch = ConvergenceWatch(core.metrics, core.interval, clock)

    def changed() -> None:
        link.changed()
        watch.changed(converger.report())

    def report() -> Reported:
        return msgspec.structs.replace(converger.report(), trust=trust.report())

    trust = trust_of(core, identity, kept.trusted, ways.fetcher, changed)
    converger = converger_of(core, kept, Trust(own.tenant, own.device, own.keys), ways.fetcher, changed, trust.check)
    core.engine.residency.lost = converger.look_again
    link = Link(
        own,
        Hooks(
            generation=converger.accept,
            snapshot=report,
            acknowledged=kept.uplink.acknowledged,
            pressure=core.cloud.announced,
            connected=kept.uplink.connected,
            content=ways.mqtt,
        ),
        state=kept.state,
        hardware=core.hardware,
        agent_version=core.version,
        keepalive=settings.mqtt_keepalive_s,
        clock=clock,
        log=log,
        draw=random.random,
        count=core.metrics.message,
    )
    if settings.transport is not Transport.MQTT:
        core.forwarder.connect(Gateway(own.gateway_url, tokens))
        core.cloud.enrolled(silence=lambda: link.silent_for(core.holder.issued_at))
    standing.enrolled(own.tenant, own.device, report)
    standing.link = lambda: LinkState(
        enrolled=True, connected=link.connected, control_plane_online=link.control_plane_online, epoch=link.epoch
    )
    return converger, link, trust, ways


async def enrol_device(settings: Settings) -> EnrolAnswer:
    """Enrol the device of a state folder once, and end.

    Raises:
        Refused: it is enrolled already, an agent uses the folder, or the cloud does not take the token.
        Transient: the cloud cannot be asked now.

    """
    return await enrol_alone(settings.state, _how(settings))


def _how(settings: Settings) -> How:
    return How(settings.enrol_url, settings.enrol_token, hardware(), _version())


def _version() -> str:
    return importlib.metadata.version("tideline")
