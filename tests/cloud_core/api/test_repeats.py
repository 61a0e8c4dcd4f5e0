"""A POST that is sent again does nothing twice."""

import asyncio
from pathlib import Path

import sqlalchemy as sa

from cloud_core.store import tables
from cloud_core.store.database import read
from tests.cloud_core.api.server import running


def test_the_same_request_gets_the_same_answer(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api:
            key = {"Idempotency_Key": "one"}
            body = {"device": "till"}
            first = await api.admin("POST", "/api/v1/devices", body, **key)
            again = await api.admin("POST", "/api/v1/devices", body, **key)
            assert first.status == again.status == 201
            assert first.body == again.body
            assert first.headers["ETag"] == again.headers["ETag"]
            assert first.headers["Location"] == again.headers["Location"]
            other = await api.admin("POST", "/api/v1/devices", {"device": "other"}, **key)
            assert other.status == 409
            assert other.json["code"] == "idempotency-conflict"
            elsewhere = await api.admin("POST", "/api/v1/groups", {"name": "till"}, **key)
            assert elsewhere.status == 409
            # Somebody else's key is another request.
            operator = await api.client("operator")
            assert (await operator("POST", "/api/v1/devices", body, **key)).status == 409
            async with read(api.engine) as connection:
                kept = (await connection.execute(sa.select(tables.idempotency.c.answer))).scalars().all()
            assert len(kept) == 1
            assert first.json["enrol_token"] not in kept[0]
            assert (await api.admin("POST", "/api/v1/devices", body, Idempotency_Key="x" * 129)).status == 400

    asyncio.run(scenario())


def test_twins_at_the_same_moment(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api:
            answers = await asyncio.gather(
                *(api.admin("POST", "/api/v1/devices", {"device": "d"}, Idempotency_Key="k") for _ in range(8))
            )
            assert {answer.status for answer in answers} == {201}
            assert len({answer.body for answer in answers}) == 1

    asyncio.run(scenario())


def test_a_refusal_does_not_use_the_key_up(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            key = {"Idempotency_Key": "k"}
            body = {"device": "d", "groups": ["later"]}
            assert (await api.admin("POST", "/api/v1/devices", body, **key)).status == 404
            await api.admin("POST", "/api/v1/groups", {"name": "later"})
            assert (await api.admin("POST", "/api/v1/devices", body, **key)).status == 201

    asyncio.run(scenario())
