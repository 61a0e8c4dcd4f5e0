"""Devices, groups, policies and assignments: refused as a whole where anything named is absent."""

import asyncio
from pathlib import Path
from typing import Any

from tests.cloud_core.api.bundles import publish
from tests.cloud_core.api.server import Running, running

TOML = b'mode = "fastest"\ndeadline_ms = 250.0\n[models.tiny]\nmode = "cascade"\nconfidence_below = 0.7\n'


async def _fleet(api: Running) -> None:
    await publish(api.admin)
    await publish(api.admin, version="1.1.0")
    assert (await api.admin("POST", "/api/v1/groups", {"name": "shops"})).status == 201
    answer = await api.admin("POST", "/api/v1/devices", {"device": "till-1", "groups": ["shops"]})
    assert answer.status == 201
    assert len(answer.json["enrol_token"]) >= 32
    answer = await api.admin("PUT", "/api/v1/policies/fast", TOML, Content_Type="application/toml")
    assert answer.status == 201
    assert answer.json["document"]["models"]["tiny"]["confidence_below"] == 0.7


def _assignment(**changes: Any) -> dict[str, Any]:
    return {"models": [{"name": "tiny", "version": "1.0.0"}], "policy": "fast", **changes}


def test_a_fleet_is_built_and_taken_down(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await _fleet(api)
            path = "/api/v1/assignments/shops"
            made = await api.admin("PUT", path, _assignment(priority=3, limits={"threads": 2}))
            assert made.status == 201
            assert made.json["limits"]["threads"] == 2
            assert made.headers["ETag"] == '"1"'
            device = (await api.admin("GET", "/api/v1/devices/till-1")).json
            assert device["groups"] == ["shops"]
            assert device["presence"] == {"state": "never", "why": "unborn"}
            assert device["desired"] is None
            assert device["reported"] is None

            # What is used cannot go.
            for used in ("/api/v1/policies/fast", "/api/v1/models/tiny/versions/1.0.0", "/api/v1/groups/shops"):
                answer = await api.admin("DELETE", used)
                assert (answer.status, answer.json["code"]) == (409, "in-use"), used
                assert (await api.admin("GET", used)).status == 200
            assert (await api.admin("DELETE", "/api/v1/models/tiny/versions/1.1.0")).status == 204

            assert (await api.admin("DELETE", path)).status == 204
            assert (await api.admin("DELETE", "/api/v1/groups/shops/members/till-1")).status == 204
            assert (await api.admin("DELETE", "/api/v1/groups/shops/members/till-1")).status == 404
            for free in ("/api/v1/policies/fast", "/api/v1/groups/shops", "/api/v1/devices/till-1"):
                assert (await api.admin("DELETE", free)).status == 204, free
                assert (await api.admin("GET", free)).status == 404

    asyncio.run(scenario())


def test_impossible_assignments(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await _fleet(api)
            path = "/api/v1/assignments/shops"
            tiny = {"name": "tiny", "version": "1.0.0"}
            for body, status, field in (
                (_assignment(models=[]), 422, "policy.models.tiny"),
                (_assignment(models=[{"name": "tiny", "version": "9.0.0"}]), 422, "models[0]"),
                (_assignment(models=[tiny, tiny]), 422, "models"),
                (_assignment(models=[{**tiny, "variant": "gpu"}]), 422, "models[0].variant"),
                (
                    _assignment(models=[{**tiny, "tuned": {"box": {"variant": "gpu"}}}]),
                    422,
                    "models[0].tuned.box.variant",
                ),
                (
                    _assignment(
                        models=[{**tiny, "tuned": {"box": {"variant": "cpu-fp32", "arrangement": {"lanes": 0}}}}]
                    ),
                    422,
                    "models[0].tuned.box.arrangement.lanes",
                ),
                (_assignment(models=[{**tiny, "tuned": {"box": {}}}]), 400, "models[0].tuned[...].variant"),
                (_assignment(policy="absent"), 422, "policy"),
                (_assignment(limits={"threads": 0}), 422, "limits.threads"),
                (_assignment(limits={"colour": 1}), 400, "limits.colour"),
                (_assignment(priority=10**9), 422, "priority"),
                (_assignment(extra=1), 400, "extra"),
                ({"models": "tiny"}, 400, "models"),
                ({}, 400, "models"),
            ):
                answer = await api.admin("PUT", path, body)
                assert (answer.status, answer.json["field"]) == (status, field), (body, answer.json)
            assert (await api.admin("PUT", "/api/v1/assignments/absent", _assignment())).status == 404
            assert (await api.admin("GET", path)).status == 404

    asyncio.run(scenario())


def test_a_policy_in_use_must_keep_fitting(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await _fleet(api)
            await api.admin("PUT", "/api/v1/assignments/shops", _assignment())
            path = "/api/v1/policies/fast"
            broken = await api.admin("PUT", path, {"models": {"absent": {"mode": "local-only"}}})
            assert broken.status == 422
            assert broken.json["field"] == "policy.models.absent"
            broken = await api.admin("PUT", path, {"models": {"tiny": {"split": {"1.0.0": 1, "2.0.0": 1}}}})
            assert broken.status == 422
            assert (await api.admin("GET", path)).json["revision"] == 1
            same = await api.admin("PUT", path, TOML, Content_Type="application/toml")
            assert same.status == 200
            assert same.json["revision"] == 1
            for body, field in (({"mode": "psychic"}, "$.mode"), ({"modes": 1}, "$.modes"), ([], "$")):
                answer = await api.admin("PUT", path, body)
                assert answer.status == 422
                assert answer.json["field"] == field

    asyncio.run(scenario())


def test_names_and_bodies_are_checked(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            for name in ("", "A", "a/b", "a+b", "#", "..", "-a", "a" * 65, "a\0b", "名"):
                assert (await api.admin("POST", "/api/v1/devices", {"device": name})).status == 400, name
                assert (await api.admin("POST", "/api/v1/groups", {"name": name})).status == 400, name
            for body in (b"", b"null", b"[]", b"{", b'{"device": 1}', b'{"device": "a", "x": 1}', b"\xff"):
                answer = await api.admin("POST", "/api/v1/devices", body, Content_Type="application/json")
                assert answer.status == 400, body
                assert {"code", "status", "detail", "title", "type", "request_id"} <= set(answer.json)
            big = b'{"device": "' + b"a" * (2 << 20) + b'"}'
            assert (await api.admin("POST", "/api/v1/devices", big, Content_Type="application/json")).status == 413
            assert (await api.admin("GET", "/api/v1/devices?colour=red")).status == 400
            assert (await api.admin("GET", "/api/v1/devices?limit=0")).status == 400
            assert (await api.admin("GET", "/api/v1/devices?cursor=*")).status == 400
            assert (await api.admin("GET", "/api/v1/nothing")).status == 404
            assert (await api.admin("PATCH", "/api/v1/devices")).status == 405
            assert (await api.admin("GET", "/api/v1/devices/%2e%2e%2fx")).status == 404

    asyncio.run(scenario())


def test_pages(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            names = [f"d{i:02}" for i in range(7)]
            for name in names:
                await api.admin("POST", "/api/v1/devices", {"device": name})
            seen, cursor = [], ""
            while True:
                page = (await api.admin("GET", f"/api/v1/devices?limit=3{cursor}")).json
                seen += [item["device"] for item in page["items"]]
                if page["next"] is None:
                    break
                cursor = f"&cursor={page['next']}"
            assert seen == names
            audit, cursor = [], ""
            while True:
                page = (await api.admin("GET", f"/api/v1/audit?limit=2{cursor}")).json
                audit += page["items"]
                if page["next"] is None:
                    break
                cursor = f"&cursor={page['next']}"
            assert [entry["id"] for entry in audit] == sorted((e["id"] for e in audit), reverse=True)
            made = [entry["name"] for entry in audit if (entry["verb"], entry["resource"]) == ("create", "devices")]
            assert made == names[::-1]

    asyncio.run(scenario())


def test_if_match(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            path = "/api/v1/policies/p"
            assert (await api.admin("PUT", path, {}, If_Match='"1"')).status == 412
            made = await api.admin("PUT", path, {}, If_None_Match="*")
            assert made.status == 201
            assert made.headers["ETag"] == '"1"'
            assert (await api.admin("PUT", path, {}, If_None_Match="*")).status == 412
            body = {"deadline_ms": 5.0}
            first, second = await asyncio.gather(
                api.admin("PUT", path, body, If_Match='"1"'),
                api.admin("PUT", path, {"deadline_ms": 6.0}, If_Match='"1"'),
            )
            assert {first.status, second.status} == {200, 412}
            stale = await api.admin("DELETE", path, If_Match='"1"')
            assert stale.status == 412
            assert stale.json["code"] == "precondition-failed"
            assert (await api.admin("DELETE", path, If_Match='"7", "2"')).status == 204

    asyncio.run(scenario())
