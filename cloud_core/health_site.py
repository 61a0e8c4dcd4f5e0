"""Health and metrics on a free loopback port, for processes whose work is not HTTP."""

from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry

from shared.io.logs import Log
from shared.io.program import Program
from shared.io.web import Site, middlewares
from shared.serving.decide.readiness import Check
from shared.serving.faces import health
from shared.serving.faces.readiness import Readiness

LOOPBACK = "127.0.0.1"


async def health_site(
    name: str, checks: Callable[[], Sequence[Check]], *, program: Program, registry: CollectorRegistry, log: Log
) -> int:
    """Answer until `program` ends; the port."""
    site, readiness = Site(), Readiness(checks=checks)
    application = web.Application(middlewares=middlewares(log))
    application.add_routes(health.routes(instance=f"cloud-core/{name}", registry=registry, readiness=readiness))
    port = await site.start(application, host=LOOPBACK, port=0)
    program.on_stop("health", site.close)
    return port
