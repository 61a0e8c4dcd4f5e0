"""What the gateway knows of its replicas: who serves what, what each was sent and has not answered, how its transport does.

The one owner of that state; the balancer takes snapshots of it and tells it what became of requests. A replica that stopped
reporting is dropped by this process's own clock and only while the database can be read: neither a clock that is off nor a
database that is away takes replicas out of service.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from cloud_core.decide import balance
from cloud_core.store.replicas import Replica, Served
from shared.protocol.reported import ModelState


class End(StrEnum):
    """What a request that was sent to a replica proves about its transport."""

    ANSWERED = "answered"
    FAILED = "failed"
    ABANDONED = "abandoned"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """`stale` is seconds without a report, `glance` the longest gap between two readings that counts as seen."""

    stale: float = 6.0
    glance: float = 2.0
    ejection: balance.Limits = balance.Limits()


class Member(msgspec.Struct, kw_only=True):
    """One replica as the gateway sees it. `unchanged` counts seconds its report stood still while we looked."""

    row: Replica
    served: tuple[Served, ...]
    ready: frozenset[balance.Served]
    unchanged: float = 0.0
    in_flight: int = 0
    outstanding: float = 0.0
    health: balance.Health = balance.Health()

    def snapshot(self) -> balance.Replica:
        """The value decisions take."""
        return balance.Replica(
            name=self.row.replica, served=self.ready, outstanding=self.outstanding, health=self.health
        )


class Fleet:
    """Every live replica, by name."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self._limits = limits
        self._members: dict[str, Member] = {}
        self._looked_at: float | None = None

    @property
    def members(self) -> Mapping[str, Member]:
        """The live replicas."""
        return self._members

    def observe(self, rows: Sequence[Replica], *, now: float) -> tuple[str, ...]:
        """Take in what the table says at monotonic `now`; the names of replicas that were dropped as stale."""
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, self._limits.glance)
        self._looked_at = now
        stale = []
        for row in rows:
            member = self._members.get(row.replica)
            if member is None or member.row.started_at != row.started_at or member.row.url != row.url:
                # A process that started anew owes nothing to what its predecessor did.
                self._members[row.replica] = Member(row=row, served=row.served, ready=_ready(row))
            elif member.row.seen_at != row.seen_at:
                member.unchanged = 0.0
                if member.row.models != row.models:
                    member.served, member.ready = row.served, _ready(row)
                member.row = row
            elif row.kind == "local":
                was_alive = self._is_live(member)
                member.unchanged += passed
                if was_alive and not self._is_live(member):
                    stale.append(row.replica)
        for name in set(self._members) - {row.replica for row in rows}:
            del self._members[name]
        return tuple(stale)

    def snapshot(self) -> tuple[balance.Replica, ...]:
        """What `decide.balance.choose` wants."""
        return tuple(member.snapshot() for member in self._members.values() if self._is_live(member))

    def is_live(self, name: str) -> bool:
        """Whether the replica reports."""
        member = self._members.get(name)
        return member is not None and self._is_live(member)

    def sent(self, name: str, cost: float, *, now: float) -> Member:
        """A request of `cost` tokens goes to `name`; give the member back to `ended`."""
        member = self._members[name]
        member.in_flight += 1
        member.outstanding += cost
        member.health = balance.sent(member.health, now=now)
        return member

    def ended(self, member: Member, cost: float, how: End, *, now: float) -> None:
        """The request is over; harmless for a member that was dropped or replaced meanwhile."""
        member.in_flight -= 1
        member.outstanding = member.outstanding - cost if member.in_flight else 0.0
        match how:
            case End.ANSWERED:
                member.health = balance.answered()
            case End.FAILED:
                member.health = balance.failed(member.health, now=now, limits=self._limits.ejection)
            case End.ABANDONED:
                member.health = balance.abandoned(member.health)

    def _is_live(self, member: Member) -> bool:
        return member.unchanged < self._limits.stale


def _ready(row: Replica) -> frozenset[balance.Served]:
    return frozenset(
        balance.Served(model.tenant, model.name, model.version)
        for model in row.served
        if model.state == ModelState.READY
    )
