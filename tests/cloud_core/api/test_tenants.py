"""Another tenant's things answer exactly as absent ones."""

import asyncio
import time
from pathlib import Path

from cloud_core.store import commands
from tests.cloud_core.api.bundles import publish
from tests.cloud_core.api.server import running


def test_foreign_is_absent(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api:
            await publish(api.admin)
            await api.admin("POST", "/api/v1/groups", {"name": "shops"})
            await api.admin("POST", "/api/v1/devices", {"device": "till", "groups": ["shops"]})
            await api.admin("PUT", "/api/v1/policies/fast", {})
            body = {"models": [{"name": "tiny", "version": "1.0.0"}], "policy": "fast"}
            await api.admin("PUT", "/api/v1/assignments/shops", body)
            await api.admin("POST", "/api/v1/users", {"name": "ann", "password": "long enough"})
            token = (await api.admin("POST", "/api/v1/tokens", {"name": "robot"})).json["id"]

            password = await commands.add_user(
                api.engine, tenant="other", name="boss", role="admin", password="", now=time.time()
            )
            boss = await api.login("boss", password, "other")
            things = {
                "/api/v1/models/": "tiny",
                "/api/v1/models/tiny/versions/": "1.0.0",
                "/api/v1/groups/": "shops",
                "/api/v1/devices/": "till",
                "/api/v1/policies/": "fast",
                "/api/v1/assignments/": "shops",
                "/api/v1/users/": "ann",
                "/api/v1/tokens/": token,
            }
            for path, name in things.items():
                for method in ("GET", "DELETE"):
                    foreign = await boss(method, path + name)
                    absent = await boss(method, path + "absent")
                    assert foreign.status == absent.status == 404, path
                    told, other = foreign.json, absent.json
                    assert told["detail"].replace(name, "absent") == other["detail"].replace("tiny@", "tiny@")
                    assert told["code"] == other["code"]
                assert (await api.admin("GET", path + name)).status == 200, path
            for collection in ("models", "groups", "devices", "policies", "assignments", "tokens"):
                assert (await boss("GET", f"/api/v1/{collection}")).json["items"] == []
            assert [user["name"] for user in (await boss("GET", "/api/v1/users")).json["items"]] == ["boss"]
            assert (await boss("GET", "/api/v1/tenants")).json["items"] == [{"tenant": "other"}]
            acts = (await boss("GET", "/api/v1/audit")).json["items"]
            assert {act["name"] for act in acts} == {"boss"}
            # The same names are free over there.
            assert (await boss("POST", "/api/v1/devices", {"device": "till"})).status == 201
            assert (await boss("PUT", "/api/v1/groups/shops/members/till")).status == 404

    asyncio.run(scenario())
