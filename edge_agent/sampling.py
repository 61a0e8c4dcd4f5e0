"""What an agent of a fleet samples itself with: the spool, and the uplink that fills and empties it."""

from contextlib import AsyncExitStack

from edge_agent.control.state import AgentState
from edge_agent.parts import Core
from edge_agent.telemetry.growth import Growth
from edge_agent.telemetry.host import HostSampler
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.uplink import Uplink


def uplink_of(core: Core, state: AgentState, undo: AsyncExitStack) -> Uplink:
    """The uplink over the agent's spool, which `undo` closes.

    Raises:
        Transient: the disk is full or failing.

    """
    settings = core.settings
    spool = Spool(settings.state / "telemetry.db", most_bytes=settings.spool_bytes, new_epoch=state.next_epoch)
    undo.callback(spool.close)
    return Uplink(
        spool,
        core.interval,
        Growth(core.engine.metrics, core.looks),
        HostSampler(settings.state),
        every=settings.telemetry_interval_s,
        clock=core.clock,
        log=core.log,
        dropped=core.metrics.dropped,
    )
