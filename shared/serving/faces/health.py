"""`/live /ready /health /healthz /metrics /metrics/json`: every process has them."""

import math
import os
import time
from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shared.io.web import json_response
from shared.serving.faces.readiness import Readiness


def routes(
    *,
    instance: str,
    registry: CollectorRegistry,
    readiness: Readiness,
    details: Callable[[], Mapping[str, object]] = dict,
) -> list[web.RouteDef]:
    """The routes of one process.

    Args:
        instance: what `/health` calls it, `edge-agent default/dev-1` say.
        registry: the program's.
        readiness: the program's.
        details: what else `/health` tells; on the gateway, every replica.

    """
    started = time.monotonic()

    async def live(_: web.Request) -> web.Response:
        return json_response({"live": True})

    async def ready(_: web.Request) -> web.Response:
        verdict = readiness.verdict()
        return json_response(verdict, status=200 if verdict.ready else 503)

    async def health(_: web.Request) -> web.Response:
        verdict = readiness.verdict()
        document: dict[str, object] = {
            "status": "ok" if verdict.ready else "not-ready",
            "instance": instance,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - started, 3),
            "ready": verdict.ready,
            "reasons": verdict.reasons,
            "models": verdict.models,
        }
        return json_response(document | dict(details()))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def metrics_json(_: web.Request) -> web.Response:
        return json_response(as_json(registry))

    return [
        web.get("/live", live),
        web.get("/healthz", live),
        web.get("/ready", ready),
        web.get("/health", health),
        web.get("/metrics", metrics),
        web.get("/metrics/json", metrics_json),
    ]


def as_json(registry: CollectorRegistry) -> dict[str, object]:
    """Every metric: `{name: {"type", "help", "samples": [{"name", "labels", "value"}]}}`; what is no number is null."""
    return {
        metric.name: {
            "type": metric.type,
            "help": metric.documentation,
            "samples": [
                {
                    "name": sample.name,
                    "labels": sample.labels,
                    "value": sample.value if math.isfinite(sample.value) else None,
                }
                for sample in metric.samples
            ],
        }
        for metric in registry.collect()
    }
