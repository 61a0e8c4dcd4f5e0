"""`/api/v1/replicas`: who answers in the cloud, and with which of the caller's models."""

import msgspec

from cloud_core.api.paging import QUERY, page_within
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope
from cloud_core.decide.access import Resource, Verb
from cloud_core.store import replicas
from cloud_core.store.replicas import Replica

PATH = "/api/v1/replicas"
ALIVE_S = 30.0
"""A replica that was silent for longer is not shown."""


class ServedView(msgspec.Struct, frozen=True, kw_only=True):
    """One model version on a replica."""

    name: str
    version: str
    variant: str | None
    state: str


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """One replica; only the models of the caller's tenant are told."""

    replica: str
    url: str
    kind: str
    started_at: float
    seen_at: float
    models: tuple[ServedView, ...]


async def listed(call: Call) -> Reply:
    """The replicas that are alive."""
    found = await replicas.alive(call.connection, since=call.now - ALIVE_S)
    page = page_within(call, found, key=lambda replica: replica.replica, view=lambda each: _view(each, call.tenant))
    return Reply(value=page)


def _view(replica: Replica, tenant: str) -> ReplicaView:
    return ReplicaView(
        replica=replica.replica,
        url=replica.url,
        kind=replica.kind,
        started_at=replica.started_at,
        seen_at=replica.seen_at,
        models=tuple(
            ServedView(name=served.name, version=served.version, variant=served.variant, state=served.state)
            for served in replica.served
            if served.tenant == tenant
        ),
    )


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    return (
        Route(
            method="GET", path=PATH, access=Needs(Verb.READ, Resource.REPLICAS), scope=Scope.READ, run=listed, query=QUERY,
            summary="Replicas that are alive", answer=Page[ReplicaView],
        ),
    )  # fmt: skip
