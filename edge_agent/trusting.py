"""Builds what decides which versions this device may install."""

import random
from collections.abc import Callable

from edge_agent.control.fetch import Fetcher
from edge_agent.control.identity import Identity
from edge_agent.control.trust_client import TrustClient
from edge_agent.control.trust_pin import Pin
from edge_agent.control.trust_record import TrustRecord
from edge_agent.parts import Core
from edge_agent.telemetry.trust import TrustWatch
from shared.protocol.trust import TrustReport


def trust_of(
    core: Core, identity: Identity, record: TrustRecord, fetcher: Fetcher, changed: Callable[[], None]
) -> TrustClient:
    """The client of an enrolled device; `changed` hears when its state becomes another."""
    state = core.settings.state
    pin = Pin(state, identity, fetcher.small, clock=core.clock)
    client = TrustClient(state, record, pin, fetcher.small, clock=core.clock, log=core.log, draw=random.random)
    watch = TrustWatch(core.registry, core.interval, core.clock)

    def tell(report: TrustReport) -> None:
        if watch.changed(report):
            changed()

    client.changed = tell
    core.standing.trust = client.report
    return client
