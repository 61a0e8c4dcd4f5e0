"""`/live /ready /health /healthz /metrics /metrics/json` of the API process."""

import asyncio

from aiohttp import hdrs, web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cloud_core.api.routes import Api
from cloud_core.store.database import ping
from shared.io.web import json_response
from shared.protocol.errors import Transient

PATIENCE_S = 2.0


class Health:
    """Answers for the process; `feed` is its background task."""

    def __init__(self, api: Api, *, version: str) -> None:
        self._api = api
        self._version = version
        self._started_at = api.clock.wall()
        self.feed: asyncio.Task[None] | None = None

    async def live(self, _request: web.Request) -> web.Response:
        """The process answers."""
        return json_response({"live": True})

    async def ready(self, _request: web.Request) -> web.Response:
        """May traffic come: the database answers and the event stream runs."""
        reasons = await self._reasons()
        return json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def health(self, _request: web.Request) -> web.Response:
        """Who this is and how it is."""
        reasons = await self._reasons()
        value = {
            "status": "degraded" if reasons else "ok",
            "instance": "cloud-core/api",
            "version": self._version,
            "started_at": self._started_at,
            "reasons": reasons,
        }
        return json_response(value, status=503 if reasons else 200)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus' text."""
        return web.Response(body=generate_latest(self._api.registry), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST})

    async def metrics_json(self, _request: web.Request) -> web.Response:
        """The same as JSON: by metric, its samples."""
        value = {
            metric.name: [{"name": s.name, "labels": s.labels, "value": s.value} for s in metric.samples]
            for metric in self._api.registry.collect()
        }
        return json_response(value)

    async def _reasons(self) -> dict[str, str]:
        reasons: dict[str, str] = {}
        try:
            async with asyncio.timeout(PATIENCE_S):
                await ping(self._api.engine)
        except TimeoutError:
            reasons["database"] = "no answer"
        except Transient as error:
            reasons["database"] = error.message
        if self.feed is None or self.feed.done():
            reasons["events"] = "the event stream stopped"
        return reasons
