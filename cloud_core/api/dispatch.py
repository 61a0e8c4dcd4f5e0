"""What every route has in common, in one place: who calls, may they, what they sent, the transaction, the audit, the answer.

Invariants:

* nothing runs before the caller is known and allowed, on every route that is not `Open`;
* a write, its events, its audit row and its kept answer are one transaction;
* a POST that is sent again with its `Idempotency-Key` gets the first answer and does nothing; the key with another request is
  refused. Kept answers are encrypted, because some hold a secret that is shown once.
"""

import hashlib
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from prometheus_client import Counter, Histogram

from cloud_core.api.answers import Answers
from cloud_core.api.routes import Api, Call, Needs, Reply, Route, Scope, conflict, etag
from cloud_core.decide.access import Denied, Principal, Target, may
from cloud_core.store import audit, idempotency
from cloud_core.store.database import Connection, read, write
from cloud_core.store.idempotency import Given
from shared.io import web as http
from shared.protocol.errors import Refusal, Refused

IDEMPOTENCY_KEY = "Idempotency-Key"
_LONGEST_KEY = 128
_NO_BODY = 4096


class Dispatcher:
    """Makes an aiohttp handler of a route."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._answers = Answers(api.keys.access)
        self._requests = Counter(
            "tideline_api_requests", "Requests of the admin and device API", ["route", "status"], registry=api.registry
        )
        self._seconds = Histogram(
            "tideline_api_request_seconds", "How long they took", ["route"], registry=api.registry
        )

    def handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """What aiohttp calls for `route`."""
        label = f"{route.method} {route.path}"

        async def handle(request: web.Request) -> web.StreamResponse:
            started, status = self._api.clock.monotonic(), 500
            try:
                response = await self._handle(route, request)
                status = response.status
            except Exception as error:
                status = http.failure_of(error).status
                raise
            finally:
                self._requests.labels(label, str(status)).inc()
                self._seconds.labels(label).observe(self._api.clock.monotonic() - started)
            return response

        return handle

    async def _handle(self, route: Route, request: web.Request) -> web.StreamResponse:
        principal = await self._allowed(route, request)
        for name in request.query:
            if name not in route.query:
                raise Refused(
                    "unknown parameter", field=name, value=request.query[name], allowed=", ".join(route.query) or "none"
                )
        body, raw = await self._body(route, request)
        call = Call(self._api, request, principal=principal, body=body, now=self._api.clock.wall())
        if route.before is not None:
            call.prepared = await route.before(call)
        if route.scope is Scope.WRITE:
            return await self._written(route, call, raw)
        if route.scope is Scope.READ:
            async with read(self._api.engine) as connection:
                reply = await route.run(call.enter(connection))
        else:
            reply = await route.run(call)
        return reply if isinstance(reply, web.StreamResponse) else self._response(reply)

    async def _allowed(self, route: Route, request: web.Request) -> Principal | None:
        if not isinstance(route.access, Needs):
            return None
        authenticator = self._api.remembering if route.remembers else self._api.authenticator
        principal = await authenticator.principal(request)
        verdict = may(principal, route.access.verb, Target(principal.tenant, route.access.resource))
        if isinstance(verdict, Denied):
            raise Refused(
                f"role {principal.role} may not {route.access.verb} {route.access.resource}",
                kind=Refusal.FORBIDDEN,
                field="role",
                value=principal.role.value,
            )
        return principal

    async def _body(self, route: Route, request: web.Request) -> tuple[object, bytes]:
        if route.scope is Scope.NONE and route.body is None:
            return None, b""
        raw = await http.read_body(request, route.max_body if route.body is not None else _NO_BODY)
        if route.body is None:
            if raw:
                raise Refused("this takes no body", field="body", value=len(raw))
            return None, raw
        if hdrs.CONTENT_TYPE in request.headers:
            http.check_media_type(request.content_type, *route.media)
        return (raw if route.body is bytes else http.json_of(raw, route.body)), raw

    async def _written(self, route: Route, call: Call, raw: bytes) -> web.StreamResponse:
        key = self._key(route, call)
        request_hash = hashlib.sha256(
            b"\0".join((call.principal.label.encode(), call.request.method.encode(), call.request.path.encode(), raw))
        ).hexdigest()
        async with write(self._api.engine) as connection:
            if key is not None:
                given = await idempotency.claim(connection, call.tenant, key, request_hash=request_hash, now=call.now)
                if given is not None:
                    return self._again(given, request_hash, key)
            reply = await route.run(call.enter(connection))
            if not isinstance(reply, Reply):
                raise TypeError("a write answers a Reply")
            response = self._response(reply)
            await self._audited(route, call, reply, connection)
            if key is not None:
                kept = self._answers.seal(response)
                await idempotency.keep(connection, call.tenant, key, status=response.status, answer=kept)
        return response

    async def _audited(self, route: Route, call: Call, reply: Reply, connection: Connection) -> None:
        if not isinstance(route.access, Needs):
            raise TypeError("a write is never open")
        name = reply.name or "/".join(call.request.match_info.values())
        await audit.append(
            connection,
            call.tenant,
            principal=call.principal.label,
            verb=route.access.verb,
            resource=route.access.resource,
            name=name[:128],
            now=call.now,
            detail=reply.detail,
        )

    def _key(self, route: Route, call: Call) -> str | None:
        key = call.request.headers.get(IDEMPOTENCY_KEY)
        if key is None or route.method != hdrs.METH_POST:
            return None
        if not 1 <= len(key) <= _LONGEST_KEY or not key.isprintable():
            raise Refused(
                "not a key", field=IDEMPOTENCY_KEY, value=key, allowed=f"1 to {_LONGEST_KEY} printable characters"
            )
        return key

    def _again(self, given: Given, request_hash: str, key: str) -> web.Response:
        if given.request_hash != request_hash:
            raise conflict(
                "the key was used for another request", field=IDEMPOTENCY_KEY, value=key, code="idempotency-conflict"
            )
        return self._answers.open(given.answer, status=given.status)

    @staticmethod
    def _response(reply: Reply) -> web.Response:
        headers: dict[str, str] = {hdrs.CACHE_CONTROL: "no-store"}
        if reply.revision is not None:
            headers[hdrs.ETAG] = etag(reply.revision)
        if reply.location is not None:
            headers[hdrs.LOCATION] = reply.location
        if reply.value is None:
            return web.Response(status=204 if reply.status == 200 else reply.status, headers=headers)
        return http.json_response(reply.value, status=reply.status, headers=headers)
