"""The parts `app.py` built, as it hands them from one of its functions to the next."""

from typing import NamedTuple

import aiohttp
from prometheus_client import CollectorRegistry

from edge_agent.config import Settings
from edge_agent.control.applied import PolicyHolder
from edge_agent.control.identity import Identity
from edge_agent.control.state import AgentState
from edge_agent.control.trials import Trials
from edge_agent.decide.variants import Device
from edge_agent.serving.cloud import CloudTarget
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
from shared.serving.engine import Engine

CPU_PROVIDER = "CPUExecutionProvider"


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
    metrics: AgentMetrics
    router: Router
    reach: Reach
    standing: Standing
    trials: Trials
    hardware: Hardware
    version: str

    @property
    def device(self) -> Device:
        """What variants are chosen by."""
        features = frozenset(self.hardware.features) | {CPU_PROVIDER}
        return Device(preferred=self.settings.variant, features=features)


class Kept(NamedTuple):
    """What an agent of a fleet keeps on disk."""

    identity: Identity | None
    state: AgentState
    uplink: Uplink
