"""`/live /ready /health /healthz /metrics /metrics/json` of the API process."""

import asyncio
import os

from aiohttp import hdrs, web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cloud_core.api.routes import Api
from cloud_core.store.database import ping
from shared.io.web import json_response
from shared.protocol.errors import Transient
from shared.serving.decide.readiness import Check, Verdict
from shared.serving.faces.health import as_json
from shared.serving.faces.readiness import Readiness

PATIENCE_S = 2.0


class Health:
    """Answers for the process as every other does."""

    def __init__(self, api: Api, *, version: str) -> None:
        self._api = api
        self._version = version
        self._began = api.clock.monotonic()

    async def live(self, _request: web.Request) -> web.Response:
        """The process answers."""
        return json_response({"live": True})

    async def ready(self, _request: web.Request) -> web.Response:
        """May traffic come: the database answers and the event stream runs."""
        verdict = await self._verdict()
        return json_response(verdict, status=200 if verdict.ready else 503)

    async def health(self, _request: web.Request) -> web.Response:
        """Who this is and how it is."""
        verdict = await self._verdict()
        value = {
            "status": "ok" if verdict.ready else "not-ready",
            "instance": "cloud-core/api",
            "version": self._version,
            "pid": os.getpid(),
            "uptime_s": round(self._api.clock.monotonic() - self._began, 3),
            "ready": verdict.ready,
            "reasons": verdict.reasons,
            "models": verdict.models,
            "isolation": self._api.gate.isolation,
        }
        return json_response(value)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus' text."""
        return web.Response(body=generate_latest(self._api.registry), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST})

    async def metrics_json(self, _request: web.Request) -> web.Response:
        """The same as JSON."""
        return json_response(as_json(self._api.registry))

    async def _verdict(self) -> Verdict:
        database = ""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await ping(self._api.engine)
        except TimeoutError:
            database = "no answer"
        except Transient as error:
            database = error.message
        checks = (
            Check(name="database", ok=not database, detail=database),
            Check(name="events", ok=self._api.feed.running, detail="the event stream is not running"),
        )
        return Readiness(checks=lambda: checks, folder=self._api.settings.data).verdict()
