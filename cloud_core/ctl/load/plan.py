"""What all steps of a load have in common: whom to ask, what, how long, and what counts as late."""

import math
import time
from typing import NamedTuple

from cloud_core.ctl.load.connection import Address, Connection, clock
from cloud_core.ctl.load.count import BROKEN, LATE
from cloud_core.ctl.load.cpu import Cpu
from cloud_core.ctl.load.requests import Requests

SWEEP_S = 0.1
"""How often requests are looked at whose patience may be over: one look at all is cheaper than a timer for each."""


class Plan(NamedTuple):
    """Times in seconds.

    patience_s: how long an answer is waited for.
    bound_s: the latency within which an answer counts as inside.
    send_within_s: how late a request may be sent that found no free connection; later nobody wants it any more.
    """

    address: Address
    requests: Requests
    seconds: float
    warm_up_s: float
    patience_s: float
    bound_s: float | None = None
    send_within_s: float = math.inf


class Spent:
    """Processor time of the server and of the load itself over a span."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._server, self._client, self.began = cpu.read(), time.process_time(), clock()

    def cores(self, until: float) -> tuple[float, float]:
        """Cores busy from the beginning to `until`, which is now: the server's, the load's."""
        seconds = max(until - self.began, 1e-9)
        return (self._cpu.read() - self._server) / seconds, (time.process_time() - self._client) / seconds


def overdue(connection: Connection, plan: Plan, now: float) -> bool:
    """Whether the patience of what is in flight is over; it counts from where its latency does."""
    return connection.busy and now - connection.since >= plan.patience_s


def broken(connection: Connection, plan: Plan, now: float) -> int:
    """How a request ended whose connection was lost."""
    return LATE if now - connection.since >= plan.patience_s else BROKEN
