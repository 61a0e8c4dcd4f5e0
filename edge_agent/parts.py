"""The parts `app.py` built, as it hands them from one of its functions to the next."""

from typing import NamedTuple

import aiohttp
from prometheus_client import CollectorRegistry

from edge_agent.config import Settings
from edge_agent.control.applied import PolicyHolder
from edge_agent.control.arrangements import Arrangements
from edge_agent.control.identity import Identity
from edge_agent.control.loading import Loader
from edge_agent.control.state import AgentState
from edge_agent.control.trials import Trials
from edge_agent.control.trust_record import TrustRecord
from edge_agent.decide.variants import DEFAULT, Device
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.activity import Activity
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.early import EarlyRefusal
from edge_agent.serving.forward import Forwarder
from edge_agent.serving.reach import Reach
from edge_agent.serving.router import Router
from edge_agent.serving.why import WhyRing
from edge_agent.status import Standing
from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import Interval
from edge_agent.telemetry.uplink import Uplink
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.program import Program
from shared.protocol.reported import Hardware
from shared.serving.cache.response_cache import CacheMetrics
from shared.serving.engine import Engine

CPU_PROVIDER = "CPUExecutionProvider"


def device_of(settings: Settings, hardware: Hardware, *, memory_bytes: int | None = None) -> Device:
    """What variants are chosen by on a device; `memory_bytes` None is no bound."""
    features, own = frozenset(hardware.features) | {CPU_PROVIDER}, settings.variant
    return Device(preferred=own or DEFAULT, insists=own is not None, features=features, memory_bytes=memory_bytes)


class Core(NamedTuple):
    """What every agent has, with or without a cloud."""

    settings: Settings
    log: Log
    clock: Clock
    program: Program
    registry: CollectorRegistry
    http: aiohttp.ClientSession
    engine: Engine
    holder: PolicyHolder
    cloud: CloudTarget
    forwarder: Forwarder
    ring: WhyRing
    interval: Interval
    looks: CacheMetrics
    metrics: AgentMetrics
    router: Router
    accounts: Accounts
    early: EarlyRefusal
    reach: Reach
    standing: Standing
    trials: Trials
    arrangements: Arrangements
    loader: Loader
    activity: Activity
    hardware: Hardware
    version: str

    @property
    def device(self) -> Device:
        """What variants are chosen by."""
        return device_of(self.settings, self.hardware, memory_bytes=self.engine.room.own)


class Kept(NamedTuple):
    """What an agent of a fleet keeps on disk."""

    identity: Identity | None
    state: AgentState
    uplink: Uplink
    trusted: TrustRecord
