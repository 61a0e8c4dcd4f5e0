"""Rollouts over the API: what is refused and by which field, what may be done in which state, and what is kept."""

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud_core.store import devices, tables
from cloud_core.store.database import write
from shared.protocol.reported import Hardware
from tests.cloud_core.api.bundles import publish
from tests.cloud_core.api.server import Running, running

PATH = "/api/v1/rollouts"


async def fleet(api: Running, *names: str) -> None:
    """Devices of a group that is assigned 1.0.0 of a model; 1.1.0 and 1.2.0 are published."""
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        await publish(api.admin, version=version)
    assert (await api.admin("POST", "/api/v1/groups", {"name": "shops"})).status == 201
    for name in names:
        made = await api.admin("POST", "/api/v1/devices", {"device": name, "groups": ["shops"]})
        async with write(api.engine) as connection:
            hardware = Hardware(hardware_class="c", machine="x86_64", cpus=2, memory_bytes=2**30)
            token = hashlib.sha256(made.json["enrol_token"].encode()).hexdigest()
            enrolled = await devices.enrol(
                connection,
                token,
                public_key=f"key-{name}",
                mqtt_password_hash="x",
                hardware=hardware,
                agent_version="1",
                now=time.time(),
            )
            assert enrolled is not None
    body = {"models": [{"name": "tiny", "version": "1.0.0"}]}
    assert (await api.admin("PUT", "/api/v1/assignments/shops", body)).status == 201


def _rollout(**changes: Any) -> dict[str, Any]:
    return {"model": "tiny", "version": "1.1.0", "group": "shops", **changes}


def test_a_rollout_is_begun_shown_and_ended(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api:
            await fleet(api, "till-1", "till-2")
            made = await api.admin("POST", PATH, _rollout(), Idempotency_Key="k")
            assert made.status == 201, made.body
            id_ = made.json["id"]
            assert made.headers["Location"] == f"{PATH}/{id_}"
            assert (made.json["state"], made.json["why"], made.json["waves"]) == (
                "running",
                "started",
                ["1", "5%", "25%", "100%"],
            )
            assert (await api.admin("POST", PATH, _rollout(), Idempotency_Key="k")).json["id"] == id_

            again = await api.admin("POST", PATH, _rollout(version="1.2.0"))
            assert (again.status, again.json["code"], again.json["field"]) == (409, "in-progress", "model")
            for used in ("/api/v1/models/tiny/versions/1.1.0", "/api/v1/groups/shops"):
                answer = await api.admin("DELETE", used)
                assert (answer.status, answer.json["code"]) == (409, "in-use"), used
            other = {"models": [{"name": "tiny", "version": "1.2.0"}]}
            answer = await api.admin("PUT", "/api/v1/assignments/shops", other)
            assert (answer.status, answer.json["field"]) == (409, "models")
            same = {"models": [{"name": "tiny", "version": "1.0.0"}], "priority": 5}
            assert (await api.admin("PUT", "/api/v1/assignments/shops", same)).status == 200

            wrong = await api.admin("POST", f"{PATH}/{id_}/approve")
            assert (wrong.status, wrong.json["code"], wrong.json["field"]) == (409, "wrong-state", "state")
            stale = await api.admin("POST", f"{PATH}/{id_}/pause", If_Match='"99"')
            assert stale.status == 412
            for action, state in (("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
                answer = await api.admin("POST", f"{PATH}/{id_}/{action}")
                assert (answer.status, answer.json["state"], answer.json["why"]) == (200, state, "person"), action
            shown = await api.admin("GET", f"{PATH}/{id_}")
            assert shown.json["finished_at"] is not None
            assert shown.json["verdicts"] == []
            assert (await api.admin("GET", f"{PATH}/{id_}/devices")).json == {"items": [], "next": None}

            second = await api.admin("POST", PATH, _rollout(version="1.2.0"))
            assert second.status == 201
            answer = await api.admin("POST", f"{PATH}/{id_}/rollback")
            assert (answer.status, answer.json["field"]) == (409, "model")
            page = await api.admin("GET", f"{PATH}?limit=1")
            assert [one["id"] for one in page.json["items"]] == [second.json["id"]]
            rest = await api.admin("GET", f"{PATH}?limit=1&cursor={page.json['next']}")
            assert [one["id"] for one in rest.json["items"]] == [id_]
            audit = (await api.admin("GET", "/api/v1/audit")).json["items"]
            ours = [entry["verb"] for entry in audit if entry["resource"] == "rollouts"]
            assert ours == ["create", "update", "update", "update", "create"]

    asyncio.run(scenario())


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"version": "9.0.0"}, 422, "version"),
    ({"version": "1.0.0"}, 409, "version"),
    ({"variant": "none"}, 422, "variant"),
    ({"group": "nobody"}, 422, "group"),
    ({"waves": ["5%"]}, 422, "waves"),
    ({"waves": ["10%", "5%", "100%"]}, 422, "waves"),
    ({"waves": ["5%", "7", "100%"]}, 422, "waves"),
    ({"waves": []}, 422, "waves"),
    ({"window": "always"}, 422, "window"),
    ({"timeout_s": 0}, 422, "timeout_s"),
    ({"retries": 11}, 422, "retries"),
    ({"rate": {"base_per_minute": 0}}, 422, "rate.base_per_minute"),
    ({"gates": {"max_error_share": 1.5}}, 422, "gates.max_error_share"),
    ({"limits": {"p99_ratio": 0.5}}, 422, "limits.p99_ratio"),
]


def test_what_cannot_be_is_refused_by_field(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await fleet(api, "till-1")
            for changes, status, field in REFUSED:
                for path in (PATH, f"{PATH}/plan"):
                    answer = await api.admin("POST", path, _rollout(**changes))
                    assert (answer.status, answer.json.get("field")) == (status, field), (changes, answer.body)
            assert (await api.admin("POST", PATH, _rollout(surprise=1))).status in (400, 422)
            await api.admin("POST", "/api/v1/groups", {"name": "empty"})
            answer = await api.admin("POST", PATH, _rollout(group="empty"))
            assert (answer.status, answer.json["field"]) == (422, "group")

    asyncio.run(scenario())


@pytest.mark.parametrize("role", ["viewer", "client"])
def test_who_may_only_look_begins_nothing(role: str, sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await fleet(api, "till-1")
            id_ = (await api.admin("POST", PATH, _rollout())).json["id"]
            other = await api.client(role)
            assert (await other("POST", PATH, _rollout(version="1.2.0"))).status == 403
            assert (await other("POST", f"{PATH}/{id_}/abort")).status == 403
            assert (await other("GET", f"{PATH}/{id_}")).status == (200 if role == "viewer" else 403)
            stranger = await api.client("operator", tenant="b")
            assert (await stranger("GET", f"{PATH}/{id_}")).status == 404
            assert (await stranger("POST", f"{PATH}/{id_}/abort")).status == 404

    asyncio.run(scenario())


def test_a_dry_run_names_waves_and_who_is_left_out(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            names = [f"till-{i}" for i in range(20)]
            await fleet(api, *names)
            await publish(api.admin, name="tiny", version="1.3.0")
            # Another group, which comes first, decides for one device; another device has a processor without AVX.
            await api.admin("POST", "/api/v1/groups", {"name": "vip"})
            await api.admin("PUT", "/api/v1/groups/vip/members/till-3")
            body = {"models": [{"name": "tiny", "version": "1.0.0"}], "priority": 9}
            assert (await api.admin("PUT", "/api/v1/assignments/vip", body)).status == 201
            plan = (await api.admin("POST", f"{PATH}/plan", _rollout(waves=["1", "25%", "100%"]))).json
            assert plan["fleet"] == 19
            assert [len(wave["devices"]) for wave in plan["waves"]] == [1, 4, 14]
            assert sorted(name for wave in plan["waves"] for name in wave["devices"]) == sorted(set(names) - {"till-3"})
            assert plan["overruled"] == [{"device": "till-3", "why": "vip"}]
            assert plan["unfit"] == []
            assert len(plan["offline"]) == 19
            assert (await api.admin("GET", PATH)).json["items"] == []

    asyncio.run(scenario())


def test_a_device_that_fits_no_variant_is_reported_before(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await fleet(api, "till-1", "till-2")
            tiny = Hardware(hardware_class="c", machine="x86_64", cpus=1, memory_bytes=0)
            async with write(api.engine) as connection:
                await connection.execute(
                    tables.devices.update()
                    .where(tables.devices.c.device == "till-2")
                    .values(telemetry='{"host": {"disk_free_bytes": 3}}', hardware=msgspec.json.encode(tiny).decode())
                )
            plan = (await api.admin("POST", f"{PATH}/plan", _rollout())).json
            assert [one["device"] for one in plan["unfit"]] == ["till-2"]
            assert "cpu-fp32 needs" in plan["unfit"][0]["why"]
            assert plan["fleet"] == 1

    asyncio.run(scenario())
