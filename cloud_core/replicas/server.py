"""A replica's faces over its engine, on HTTP and gRPC; on HTTP also health, and its load for the gateway.

Replicas trust who reaches them: they listen where only gateways do, and the tenant comes in a header the gateway sets.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry

from cloud_core.replicas.load import load_route
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.web import MAX_BODY, middlewares
from shared.protocol import names
from shared.protocol.topics import Header
from shared.serving.engine import Engine
from shared.serving.faces import health, http
from shared.serving.faces.context import GrpcPorts
from shared.serving.faces.readiness import Readiness
from shared.serving.input_log import with_inputs_logged

DEFAULT_TENANT = "default"


def build_replica(
    name: str,
    engine: Engine,
    *,
    folder: Path,
    registry: CollectorRegistry,
    log: Log,
    clock: Clock,
    log_inputs: bool = False,
    details: Callable[[], Mapping[str, object]] = dict,
    max_body: int = MAX_BODY,
) -> web.Application:
    """The application of replica `name`, which writes to `folder`; `details` is what else `/health` tells."""

    async def tenant_of(request: web.Request) -> str:
        return await tenant_in(request.headers)

    def told() -> Mapping[str, object]:
        return {**details(), "concurrency": engine.entrance.story()}

    readiness = Readiness(catalog=engine, folder=folder)
    application = web.Application(middlewares=middlewares(log), client_max_size=max_body)
    application.add_routes(
        health.routes(instance=f"cloud-core/{name}", registry=registry, readiness=readiness, details=told)
    )
    answer = with_inputs_logged(engine, log, on=log_inputs)
    application.add_routes(
        http.routes(
            answer,
            engine,
            clock=clock,
            principal_of=tenant_of,
            readiness=readiness,
            max_body=max_body,
            early=engine.early,
        )
    )
    application.add_routes([load_route(engine)])
    return application


def grpc_ports(
    engine: Engine, *, folder: Path, log: Log, clock: Clock, log_inputs: bool, max_body: int = MAX_BODY
) -> GrpcPorts:
    """What the gRPC face of the same replica is given."""
    answer, readiness = with_inputs_logged(engine, log, on=log_inputs), Readiness(catalog=engine, folder=folder)
    return GrpcPorts(answer, engine, clock, readiness, tenant_in, log, max_body)


async def tenant_in(headers: Mapping[str, str], _: bool = True) -> str:
    """The tenant headers or metadata name, whether they read or infer.

    Raises:
        Refused: no well-formed name.

    """
    return names.checked("slug", headers.get(Header.TENANT, DEFAULT_TENANT), field=Header.TENANT)
