"""`/api/v1/openapi.json`: OpenAPI 3.1, made from the route table and the very types the routes decode and encode."""

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import hdrs, web

from cloud_core.api.routes import Call, Needs, Open, Reply, Route, Scope

PATH = "/api/v1/openapi.json"
DOCS = "/api/docs"
_REF = "#/components/schemas/{name}"
_PARAMETERS = {
    "metric": "What is measured: latency (default), requests, errors, cpu, …; a part of it behind a slash",
    "model": "Of this model alone",
    "version": "Of this version alone",
    "where": "Of requests computed there alone: local, cloud or cache",
    "device": "Of this device alone",
    "from": "Unix seconds; an hour before `to` by default",
    "to": "Unix seconds; now by default",
    "step": "Length of windows in seconds: 10, 60 or 3600",
    "q": "Quantiles, 0 to 1, with commas between",
    "by": "Told apart by model, version, where, group or device, with commas between",
    "k": "How many, 1 to 100",
    "rank": "What the largest is of: count, sum, mean, most, or q0.99",
    "base": "The version that is compared against",
    "candidate": "The version that is compared",
    "limit": "How many items at most, 1 to 1000",
    "cursor": "`next` of the page before",
    "group": "Only devices of this group",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457: what is wrong; `code` is stable."""

    type: str
    code: str
    title: str
    status: int
    detail: str
    field: str | None = None
    allowed: str | None = None
    request_id: str | None = None


def document(routes: Sequence[Route], *, version: str) -> dict[str, Any]:
    """The whole description."""
    typed = [kind for route in routes for kind in (route.body, route.answer) if kind not in (None, bytes)]
    _, components = msgspec.json.schema_components([*typed, Problem], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tideline", "version": version, "description": "Administration and device API."},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "an access token or an API token"}
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()} {route.path}".translate(str.maketrans("/{}:. ", "______")),
        "summary": route.summary,
        "tags": [route.path.split("/")[3].partition(":")[0]],
        "security": [] if isinstance(route.access, Open) else [{"bearer": []}],
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if isinstance(route.access, Needs):
        operation["x-permission"] = f"{route.access.verb} {route.access.resource}"
    if route.body is not None:
        schema = {} if route.body is bytes else _schema(route.body)
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": schema} for kind in route.media}}
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    text = {"type": "string"}
    found: list[dict[str, Any]] = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": text}
        for part in route.path.replace(":", "/").split("/")
        if part.startswith("{")
    ]
    for name in route.query:
        schema = {"type": "integer", "minimum": 1, "maximum": 1000} if name == "limit" else text
        found.append({"name": name, "in": "query", "schema": schema, "description": _PARAMETERS[name]})
    if route.scope is Scope.WRITE:
        name = "Idempotency-Key" if route.method == hdrs.METH_POST else "If-Match"
        found.append({"name": name, "in": "header", "schema": text})
    return found


def _responses(route: Route) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}}
    done: dict[str, Any] = {"description": "done"}
    if route.answer is not None:
        media = route.media[0] if route.body is None else "application/json"
        done["content"] = {media: {"schema": _schema(route.answer)}}
    statuses = {str(route.status): done}
    if route.method == hdrs.METH_PUT and route.scope is Scope.WRITE and route.status == 200:
        statuses["201"] = {**done, "description": "made"}
    return {**statuses, "default": {"description": "a problem (RFC 9457)", "content": problem}}


def _schema(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schema


def routes(described: Sequence[Route], *, version: str) -> tuple[Route, ...]:
    """The rows that describe `described`; open, since they say nothing of any tenant."""
    encoded = msgspec.json.encode(document(described, version=version))
    page = _page(described)

    async def shown(_call: Call) -> Reply:
        """The description."""
        return Reply(value=msgspec.Raw(encoded))

    async def docs(_call: Call) -> web.StreamResponse:
        """The same for people."""
        return web.Response(text=page, content_type="text/html")

    because = Open("it describes the API, which is no secret")
    return (
        Route(method="GET", path=PATH, access=because, scope=Scope.NONE, run=shown, summary="This description"),
        Route(method="GET", path=DOCS, access=because, scope=Scope.NONE, run=docs, summary="This API, for people"),
    )


def _page(described: Sequence[Route]) -> str:
    rows = "\n".join(
        f"<tr><td>{route.method}</td><td><code>{route.path}</code></td><td>{route.summary}</td>"
        f"<td>{_who(route)}</td></tr>"
        for route in described
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tideline API</title></head><body>'
        f'<h1>Tideline API</h1><p>Machine-readable: <a href="{PATH}">{PATH}</a></p>'
        f"<table><thead><tr><th>Method</th><th>Path</th><th>What</th><th>Needs</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></body></html>"
    )


def _who(route: Route) -> str:
    if isinstance(route.access, Open):
        return "nothing"
    return f"{route.access.verb} {route.access.resource}"
