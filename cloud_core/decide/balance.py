"""Which replica takes a request: power of two choices on outstanding cost, outliers ejected.

Invariants:

* a replica is only chosen if it has the version ready, is not excluded, and is not ejected;
* `consecutive` transport failures in a row eject a replica, each time for twice as long, up to a cap; an answer of any kind
  (a refusal too) proves the transport and clears everything;
* when its time is over an ejected replica is half open: one request at a time may try it, and that one decides.

With one to three replicas statistical outlier rules never fire, so only consecutive failures count (cf. Envoy's
`outlier_detection.proto`, whose growing ejection time this follows).
"""

from collections.abc import Sequence, Set
from enum import StrEnum

import msgspec


class Reason(StrEnum):
    """Why this replica, or why none."""

    ONLY_ONE = "only-one"
    LESS_OUTSTANDING = "less-outstanding"
    NO_REPLICA = "no-replica"
    NOT_SERVED = "not-served"
    ALL_TRIED = "all-tried"
    ALL_EJECTED = "all-ejected"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Failures in a row that eject, and seconds of the first and of the longest ejection."""

    consecutive: int = 3
    ejection: float = 1.0
    longest: float = 30.0


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway has seen of a replica's transport. `ejected_until` is monotonic; None while it is trusted."""

    failures: int = 0
    ejections: int = 0
    ejected_until: float | None = None
    probing: bool = False


class Served(msgspec.Struct, frozen=True):
    """A model version of a tenant that a replica has ready."""

    tenant: str
    model: str
    version: str


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot: `outstanding` is the predicted cost, in tokens, of what was sent and not yet answered."""

    name: str
    served: frozenset[Served]
    outstanding: float = 0.0
    health: Health = Health()


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """Send it to `name`."""

    name: str
    reason: Reason


class NoReplica(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody can take it now; `retry_after` seconds is when that may change, where it is known."""

    reason: Reason
    retry_after: float | None = None


def choose(
    replicas: Sequence[Replica], *, wanted: Served, now: float, u1: float, u2: float, tried: Set[str] = frozenset()
) -> Chosen | NoReplica:
    """The replica for one request; `u1` and `u2` are draws from [0, 1), `now` is monotonic."""
    if not replicas:
        return NoReplica(reason=Reason.NO_REPLICA)
    serving = [replica for replica in replicas if wanted in replica.served]
    if not serving:
        return NoReplica(reason=Reason.NOT_SERVED)
    untried = [replica for replica in serving if replica.name not in tried]
    if not untried:
        return NoReplica(reason=Reason.ALL_TRIED)
    open_ = [replica for replica in untried if _may_take(replica.health, now)]
    if not open_:
        waits = [until - now for replica in untried if (until := replica.health.ejected_until) is not None]
        return NoReplica(reason=Reason.ALL_EJECTED, retry_after=max(0.0, min(waits)))
    if len(open_) == 1:
        return Chosen(name=open_[0].name, reason=Reason.ONLY_ONE)
    first = _index(u1, len(open_))
    second = _index(u2, len(open_) - 1)
    second += second >= first
    one, other = open_[first], open_[second]
    chosen = one if one.outstanding <= other.outstanding else other
    return Chosen(name=chosen.name, reason=Reason.LESS_OUTSTANDING)


def sent(health: Health, *, now: float) -> Health:
    """Health once a request was sent: the one try of a half-open replica is taken."""
    if health.ejected_until is not None and health.ejected_until <= now:
        return msgspec.structs.replace(health, probing=True)
    return health


def answered() -> Health:
    """Health after an answer of any kind: the transport works."""
    return Health()


def abandoned(health: Health) -> Health:
    """Health after a request that ended without proving anything (its client left, its deadline passed)."""
    return msgspec.structs.replace(health, probing=False)


def failed(health: Health, *, now: float, limits: Limits) -> Health:
    """Health after a transport failure."""
    failures = health.failures + 1
    half_open = health.ejected_until is not None and health.ejected_until <= now
    if not half_open and (failures < limits.consecutive or health.ejected_until is not None):
        # Requests that were under way when it was ejected must not lengthen the ejection.
        return msgspec.structs.replace(health, failures=failures, probing=False)
    ejections = health.ejections + 1
    for_how_long = min(limits.longest, limits.ejection * 2.0 ** min(health.ejections, 32))
    return Health(failures=failures, ejections=ejections, ejected_until=now + for_how_long)


def _may_take(health: Health, now: float) -> bool:
    if health.ejected_until is None:
        return True
    return health.ejected_until <= now and not health.probing


def _index(u: float, n: int) -> int:
    return min(int(u * n), n - 1)
