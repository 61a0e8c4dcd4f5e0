"""What the server says besides the API: description, health, metrics, dashboard."""

import asyncio
from pathlib import Path
from typing import Any

from cloud_core.api.application import table
from tests.cloud_core.api.server import running


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*(_references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(_references(value) for value in node))
    return set()


def test_the_description_has_every_route(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            document = (await api.anybody("GET", "/api/v1/openapi.json")).json
            assert document["openapi"].startswith("3.1")
            operations = {(m.upper(), p) for p, ms in document["paths"].items() for m in ms}
            assert operations == {
                (r.method, r.path) for r in table() if "openapi" not in r.path and "docs" not in r.path
            }
            ids = [o["operationId"] for ms in document["paths"].values() for o in ms.values()]
            assert len(set(ids)) == len(ids)
            for reference in _references(document):
                assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"], reference
            new_device = document["components"]["schemas"]["NewDevice"]
            assert new_device["additionalProperties"] is False
            assert new_device["required"] == ["device"]
            docs = await api.anybody("GET", "/api/docs")
            assert docs.status == 200
            assert b"/api/v1/devices" in docs.body

    asyncio.run(scenario())


def test_health_and_metrics(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            assert (await api.anybody("GET", "/live")).status == 200
            ready = await api.anybody("GET", "/ready")
            assert ready.status == 200
            assert ready.json["ready"] is True
            assert (await api.anybody("GET", "/healthz")).json == {"live": True}
            health = (await api.anybody("GET", "/health")).json
            assert (health["status"], health["instance"], health["ready"]) == ("ok", "cloud-core/api", True)
            assert b"tideline_api_requests_total" in (await api.anybody("GET", "/metrics")).body
            assert "tideline_api_requests" in (await api.anybody("GET", "/metrics/json")).json

    asyncio.run(scenario())


def test_not_ready_without_its_tables(tmp_path: Path, sqlite_url: str) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            async with api.engine.begin() as connection:
                await connection.exec_driver_sql("ALTER TABLE tenants RENAME TO gone")
            ready = await api.anybody("GET", "/ready")
            assert ready.status == 503
            assert ready.json["reasons"][0].startswith("database: ")

    asyncio.run(scenario())


def test_the_dashboard_is_served_strictly(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            page = await api.anybody("GET", "/")
            assert page.status == 200
            assert page.headers["Content-Type"].startswith("text/html")
            policy = page.headers["Content-Security-Policy"]
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert "Server" not in page.headers
            script = await api.anybody("GET", "/app.js")
            assert script.headers["Content-Type"].startswith("text/javascript")
            for path in ("/__init__.py", "/../config.py", "/%2e%2e/config.py", "/app"):
                assert (await api.anybody("GET", path)).status == 404

    asyncio.run(scenario())
