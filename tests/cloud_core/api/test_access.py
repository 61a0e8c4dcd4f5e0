"""Every route says who may use it, and nobody else gets in."""

import asyncio
from pathlib import Path

import pytest

from cloud_core.api.application import table
from cloud_core.api.routes import Needs, Open, Route, Scope
from cloud_core.decide.access import Denied, Principal, Resource, Role, Target, Verb, may
from tests.cloud_core.api.server import running

OPEN = {
    ("POST", "/api/v1/login"),
    ("POST", "/device/v1/enrol"),
    ("POST", "/device/v1/token"),
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/api/docs"),
}


def _path(route: Route) -> str:
    digest = "0" * 64
    parts = [digest if part == "{digest}" else "x" if part.startswith("{") else part for part in route.path.split("/")]
    return "/".join(parts)


def test_the_open_routes_are_these_and_no_others() -> None:
    assert {(route.method, route.path) for route in table() if isinstance(route.access, Open)} == OPEN
    assert all(route.access.because for route in table() if isinstance(route.access, Open))


def test_writes_need_more_than_reading() -> None:
    for route in table():
        if route.scope is Scope.WRITE:
            assert isinstance(route.access, Needs)
            assert route.access.verb is not Verb.READ
            assert route.method in ("POST", "PUT", "DELETE")


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("verb", list(Verb))
def test_nobody_reaches_another_tenant(role: Role, verb: Verb) -> None:
    principal = Principal(tenant="a", name="x", role=role)
    for resource in Resource:
        assert isinstance(may(principal, verb, Target("b", resource)), Denied)


def test_what_each_role_may_change() -> None:
    def changes(role: Role) -> set[Resource]:
        principal = Principal(tenant="a", name="x", role=role)
        return {
            resource
            for resource in Resource
            for verb in (Verb.CREATE, Verb.UPDATE, Verb.DELETE)
            if not isinstance(may(principal, verb, Target("a", resource)), Denied)
        }

    assert changes(Role.VIEWER) == changes(Role.DEVICE) == changes(Role.CLIENT) == set()
    assert changes(Role.ADMIN) - changes(Role.OPERATOR) == {Resource.USERS, Resource.TOKENS, Resource.TRUST}
    assert not changes(Role.OPERATOR) & {Resource.AUDIT, Resource.EVENTS, Resource.REPLICAS, Resource.TENANTS}


def test_every_route_by_every_role(sqlite_url: str, tmp_path: Path) -> None:
    """The server agrees with the table: 401 without a proof, 403 without the permission, something else with it."""

    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            clients = {role: await api.client(role) for role in Role if role is not Role.DEVICE}
            for route in table():
                if not isinstance(route.access, Needs) or route.path in ("/api/v1/events", "/api/v1/telemetry/live"):
                    continue
                method, path = route.method, _path(route)
                for nobody in (
                    api.anybody,
                    api.anybody.as_token("tdl_wrong"),
                    api.anybody.as_token("a.b.c"),
                    api.anybody.as_token(""),
                ):
                    assert (await nobody(method, path)).status == 401, route
                for role, client in clients.items():
                    principal = Principal(tenant="default", name="x", role=role)
                    verdict = may(principal, route.access.verb, Target("default", route.access.resource))
                    answer = await client(method, path)
                    assert (answer.status == 403) == isinstance(verdict, Denied), (role, route)
                    assert answer.status != 401

    asyncio.run(scenario())


def test_refusals_to_let_in_are_one_answer(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            bodies = []
            for body in (
                {"name": "admin", "password": "wrong password"},
                {"name": "nobody", "password": "wrong password"},
                {"name": "admin", "password": "wrong password", "tenant": "absent"},
                {"name": "admin", "password": "x" * 2000},
            ):
                answer = await api.anybody("POST", "/api/v1/login", body)
                assert answer.status == 401
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                document = answer.json
                document.pop("request_id")
                bodies.append(document)
            assert all(body == bodies[0] for body in bodies)
            assert bodies[0]["code"] == "unauthenticated"

    asyncio.run(scenario())


def test_what_is_taken_away_ends_at_once(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            made = await api.admin(
                "POST", "/api/v1/users", {"name": "eve", "password": "long enough", "role": "viewer"}
            )
            assert made.status == 201
            eve = await api.login("eve", "long enough")
            assert (await eve("GET", "/api/v1/self")).json["name"] == "eve"
            assert (await api.admin("DELETE", "/api/v1/users/eve")).status == 204
            assert (await eve("GET", "/api/v1/self")).status == 401

            token = (await api.admin("POST", "/api/v1/tokens", {"name": "robot", "role": "viewer"})).json
            robot = api.admin.as_token(token["token"])
            assert (await robot("GET", "/api/v1/self")).json["kind"] == "token"
            listed = await api.admin("GET", "/api/v1/tokens")
            assert token["token"].encode() not in listed.body
            assert (await api.admin("DELETE", f"/api/v1/tokens/{token['id']}")).status == 204
            assert (await robot("GET", "/api/v1/self")).status == 401

            short = await api.admin("POST", "/api/v1/tokens", {"name": "short", "valid_s": 1})
            assert short.json["expires_at"] is not None

            last = await api.admin("DELETE", "/api/v1/users/admin")
            assert last.status == 409
            assert last.json["code"] == "last-admin"

    asyncio.run(scenario())


def test_access_tokens_of_others_are_refused(sqlite_url: str, tmp_path: Path) -> None:
    from joserfc import jwt
    from joserfc.jwk import OctKey

    from cloud_core.api.access_tokens import AccessTokens
    from shared.io.signing import Signer

    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            admin = Principal(tenant="default", name="admin", role=Role.ADMIN)
            ours, theirs = AccessTokens(api.keys.access), AccessTokens(Signer.generate())
            import time

            now = time.time()
            good, _ = ours.mint(admin, now=now, valid_s=60)
            assert (await api.admin.as_token(good)("GET", "/api/v1/self")).status == 200
            header, body, signature = good.split(".")
            public = api.keys.access.public_key.encode()
            forged = jwt.encode({"alg": "HS256"}, {"sub": "admin"}, OctKey.import_key(public), algorithms=["HS256"])
            for bad in (
                theirs.mint(admin, now=now, valid_s=60)[0],
                ours.mint(admin, now=now - 120, valid_s=60)[0],
                f"{header}.{body}.{signature[:-4]}AAAA",
                f"{header}.{body}.",
                forged,
            ):
                assert (await api.admin.as_token(bad)("GET", "/api/v1/self")).status == 401

    asyncio.run(scenario())
