"""The gateway's faces over the balancer, on HTTP and gRPC; on HTTP also health of every replica, and why."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry

from cloud_core.gateway.access import Access
from cloud_core.gateway.catalog import GatewayCatalog
from cloud_core.gateway.explanations import Explanations
from cloud_core.gateway.fleet import Fleet
from cloud_core.gateway.watch import Watch
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.web import MAX_BODY, json_response, middlewares
from shared.serving.answer import Answer
from shared.serving.decide.readiness import Check
from shared.serving.faces import health, http
from shared.serving.faces.context import GrpcPorts
from shared.serving.faces.readiness import Readiness


class Parts(NamedTuple):
    """What the application is made of."""

    answer: Answer
    catalog: GatewayCatalog
    fleet: Fleet
    watch: Watch
    access: Access
    explanations: Explanations
    registry: CollectorRegistry
    log: Log
    clock: Clock
    max_body: int = MAX_BODY


class Faces(NamedTuple):
    """What is asked over HTTP, and over gRPC."""

    application: web.Application
    grpc: GrpcPorts


def build_gateway(parts: Parts, details: Callable[[], Mapping[str, object]] = dict) -> Faces:
    """Both; `details` is what else `/health` tells."""

    def checks() -> tuple[Check, ...]:
        live = any(parts.fleet.is_live(name) for name in parts.fleet.members)
        return (
            # Once read, a registry that went away leaves the gateway serving what it knows.
            Check(name="registry", ok=parts.watch.has_looked, detail=parts.watch.error),
            Check(name="replicas", ok=live, detail="no replica reports"),
        )

    def more() -> Mapping[str, object]:
        return {"replicas": [_told(parts.fleet, name) for name in parts.fleet.members], **details()}

    async def why(request: web.Request) -> web.Response:
        tenant = await parts.access.tenant(request)
        return json_response(parts.explanations.find(tenant, request.match_info["request_id"]))

    # No catalog: a model somebody published and nobody can load must not take the gateway out of service for the others.
    readiness = Readiness(checks=checks)
    application = web.Application(middlewares=middlewares(parts.log), client_max_size=parts.max_body)
    application.add_routes(
        health.routes(instance="cloud-core/gateway", registry=parts.registry, readiness=readiness, details=more)
    )
    application.add_routes(
        http.routes(
            parts.answer,
            parts.catalog,
            clock=parts.clock,
            principal_of=parts.access.tenant,
            readiness=readiness,
            max_body=parts.max_body,
        )
    )
    application.add_routes([web.get("/v1/why/{request_id}", why)])
    grpc = GrpcPorts(
        parts.answer, parts.catalog, parts.clock, readiness, parts.access.tenant_in, parts.log, parts.max_body
    )
    return Faces(application, grpc)


def _told(fleet: Fleet, name: str) -> dict[str, object]:
    """One replica in `/health`: its name and state, no tenant's models and no address."""
    member = fleet.members[name]
    return {
        "replica": name,
        "kind": member.row.kind,
        "live": fleet.is_live(name),
        "versions_ready": len(member.ready),
        "outstanding": member.outstanding,
        "in_flight": member.in_flight,
        "failures": member.health.failures,
        "ejections": member.health.ejections,
        "ejected": member.health.ejected_until is not None,
    }
