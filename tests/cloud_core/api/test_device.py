"""The device API: enrolment once, tokens by proof of a key, content of the own tenant only."""

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud_core.broker.passwords import check_password
from cloud_core.store import commands, devices
from cloud_core.store.database import read
from shared.bundle.manifest import digest_of
from shared.io.signing import Signer
from tests.cloud_core.api.bundles import bundle, publish
from tests.cloud_core.api.server import Client, Running, running

HARDWARE = {"hardware_class": "box", "machine": "x86_64", "cpus": 4, "memory_bytes": 1 << 30}


def _enrolment(token: str, signer: Signer) -> dict[str, Any]:
    return {"token": token, "public_key": signer.public_key, "hardware": HARDWARE, "agent_version": "0.1"}


async def _device(api: Running, name: str = "till", *, admin: Client | None = None) -> tuple[Signer, dict[str, Any]]:
    made = await (admin or api.admin)("POST", "/api/v1/devices", {"device": name})
    signer = Signer.generate()
    answer = await api.anybody("POST", "/device/v1/enrol", _enrolment(made.json["enrol_token"], signer))
    assert answer.status == 200, answer.body
    return signer, answer.json


async def _token(api: Running, signer: Signer, *, tenant: str = "default", name: str = "till", at: int = 0) -> Any:
    at = at or int(time.time())
    signature = signer.sign(f"{tenant}/{name}/{at}".encode())
    body = {"tenant": tenant, "device": name, "at": at, "signature": signature}
    return await api.anybody("POST", "/device/v1/token", body)


def test_the_same_key_may_ask_again_until_it_proved_itself(sqlite_url: str, tmp_path: Path) -> None:
    """The answer to the first request may be lost on the way; nobody else gets anything for the token."""

    async def story() -> None:
        async with running(sqlite_url, tmp_path) as api:
            token = (await api.admin("POST", "/api/v1/devices", {"device": "till"})).json["enrol_token"]
            signer = Signer.generate()
            first = await api.anybody("POST", "/device/v1/enrol", _enrolment(token, signer))
            again = await api.anybody("POST", "/device/v1/enrol", _enrolment(token, signer))
            assert (first.status, again.status) == (200, 200)
            other = await api.anybody("POST", "/device/v1/enrol", _enrolment(token, Signer.generate()))
            assert other.status == 401
            at = int(time.time())
            proof = {
                "tenant": "default",
                "device": "till",
                "at": at,
                "signature": signer.sign(f"default/till/{at}".encode()),
            }
            assert (await api.anybody("POST", "/device/v1/token", proof)).status == 200
            settled = await api.anybody("POST", "/device/v1/enrol", _enrolment(token, signer))
            assert settled.status == 401

    asyncio.run(story())


def test_enrolment_pins_everything(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path, mqtt_port=1999, public_host="cloud.example") as api:
            _, answer = await _device(api)
            assert (answer["tenant"], answer["device"]) == ("default", "till")
            assert answer["keys"] == [msgspec.to_builtins(api.keys.generation.pinned)]
            assert answer["broker"]["username"] == "default/till"
            assert (answer["broker"]["host"], answer["broker"]["port"]) == ("cloud.example", 1999)
            assert answer["gateway_url"] == "http://cloud.example:8081"
            async with read(api.engine) as connection:
                credential = await devices.credential(connection, "default", "till")
            assert credential is not None
            assert credential.mqtt_password_hash.startswith("$7$101$")
            assert check_password(answer["broker"]["password"], credential.mqtt_password_hash)
            shown = await api.admin("GET", "/api/v1/devices/till")
            assert shown.json["enrolled_at"] is not None
            assert shown.json["hardware"]["cpus"] == 4
            assert answer["broker"]["password"].encode() not in shown.body

    asyncio.run(scenario())


@pytest.mark.parametrize("claims", [2, 8])
def test_of_racing_claims_one_wins(database_url: str, tmp_path: Path, claims: int) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api:
            made = await api.admin("POST", "/api/v1/devices", {"device": "till"})
            bodies = [_enrolment(made.json["enrol_token"], Signer.generate()) for _ in range(claims)]
            answers = await asyncio.gather(*(api.anybody("POST", "/device/v1/enrol", body) for body in bodies))
            assert sorted(answer.status for answer in answers) == [200] + [401] * (claims - 1)
            winner = next(i for i, answer in enumerate(answers) if answer.status == 200)
            async with read(api.engine) as connection:
                device = await devices.get(connection, "default", "till")
            assert device is not None
            assert device.public_key == bodies[winner]["public_key"]

    asyncio.run(scenario())


def test_used_unknown_and_expired_tokens_are_one_answer(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            used = (await api.admin("POST", "/api/v1/devices", {"device": "a"})).json["enrol_token"]
            await api.anybody("POST", "/device/v1/enrol", _enrolment(used, Signer.generate()))
            deleted = (await api.admin("POST", "/api/v1/devices", {"device": "b"})).json["enrol_token"]
            await api.admin("DELETE", "/api/v1/devices/b")
            old = (await api.admin("POST", "/api/v1/devices", {"device": "c"})).json["enrol_token"]
            async with read(api.engine) as connection:
                assert await devices.get(connection, "default", "c") is not None
            from cloud_core.api.auth import hash_of
            from cloud_core.store.database import write

            async with write(api.engine) as connection:
                await devices.renew_enrolment(
                    connection, "default", "c", enrol_token_hash=hash_of(old), enrol_expires_at=1.0, now=1.0
                )
            answers = []
            for token in (used, deleted, old, "never", ""):
                answer = await api.anybody("POST", "/device/v1/enrol", _enrolment(token, Signer.generate()))
                document = answer.json
                document.pop("request_id")
                answers.append((answer.status, document))
            assert all(answer == answers[0] for answer in answers)
            assert answers[0][0] == 401

    asyncio.run(scenario())


def test_a_renewed_token_replaces_the_identity(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            before, _ = await _device(api)
            renewed = await api.admin("POST", "/api/v1/devices/till/enrolment", {})
            assert (await _token(api, before)).status == 200
            after = Signer.generate()
            body = _enrolment(renewed.json["enrol_token"], after)
            assert (await api.anybody("POST", "/device/v1/enrol", body)).status == 200
            assert (await _token(api, before)).status == 401
            assert (await _token(api, after)).status == 200

    asyncio.run(scenario())


def test_access_tokens_want_the_key_and_the_time(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            signer, _ = await _device(api)
            good = await _token(api, signer)
            assert good.status == 200
            assert good.json["expires_at"] > time.time()
            for bad in (
                await _token(api, Signer.generate()),
                await _token(api, signer, at=int(time.time()) - 3600),
                await _token(api, signer, at=int(time.time()) + 3600),
                await _token(api, signer, name="absent"),
                await _token(api, signer, tenant="absent"),
            ):
                assert bad.status == 401
                assert bad.json["code"] == "unauthenticated"
            device = api.anybody.as_token(good.json["token"])
            assert (await device("GET", "/api/v1/devices")).status == 403
            await api.admin("DELETE", "/api/v1/devices/till")
            assert (await device("GET", f"/device/v1/manifests/{'0' * 64}")).status == 401
            assert (await _token(api, signer)).status == 401

    asyncio.run(scenario())


def test_bad_keys_are_refused_before_the_token_is_used(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            token = (await api.admin("POST", "/api/v1/devices", {"device": "till"})).json["enrol_token"]
            good = _enrolment(token, Signer.generate())
            for change in ({"public_key": "x"}, {"public_key": ""}, {"hardware": {}}, {"extra": 1}):
                assert (await api.anybody("POST", "/device/v1/enrol", {**good, **change})).status == 400
            assert (await api.anybody("POST", "/device/v1/enrol", good)).status == 200

    asyncio.run(scenario())


def test_content_is_the_tenants_own(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            digest = await publish(api.admin)
            _, pieces = bundle()
            signer, _ = await _device(api)
            device = api.anybody.as_token((await _token(api, signer)).json["token"])

            manifest = await device("GET", f"/device/v1/manifests/{digest}")
            assert manifest.status == 200
            assert digest_of(manifest.body) == digest
            for piece in pieces:
                path = f"/device/v1/chunks/{hashlib.sha256(piece).hexdigest()}"
                assert (await device("GET", path)).body == piece
                part = await device("GET", path, Range="bytes=3-5")
                assert part.status == 206
                assert part.body == piece[3:6]
                rest = await device("GET", path, Range="bytes=4-")
                assert rest.status == 206
                assert rest.body == piece[4:]
                assert (await device("GET", path, Range=f"bytes={len(piece)}-")).status == 416
            absent = "0" * 64
            digests = [hashlib.sha256(piece).hexdigest() for piece in pieces]
            batch = await device("POST", "/device/v1/chunks:batch", {"digests": [absent, *digests]})
            expected = b"".join(
                bytes.fromhex(name) + len(piece).to_bytes(8, "big") + piece
                for name, piece in zip(digests, pieces, strict=True)
            )
            assert batch.body == expected
            # A version that was deleted may still run somewhere.
            await api.admin("DELETE", "/api/v1/models/tiny/versions/1.0.0")
            assert (await device("GET", f"/device/v1/manifests/{digest}")).status == 200

            password = await commands.add_user(
                api.engine, tenant="other", name="boss", role="admin", password="", now=time.time()
            )
            boss = await api.login("boss", password, "other")
            signer, _ = await _device(api, admin=boss)
            theirs = api.anybody.as_token((await _token(api, signer, tenant="other")).json["token"])
            for path in (f"manifests/{digest}", f"chunks/{digests[0]}"):
                foreign = await theirs("GET", f"/device/v1/{path}")
                nowhere = await theirs("GET", f"/device/v1/{path.partition('/')[0]}/{absent}")
                assert foreign.status == nowhere.status == 404
                assert foreign.json["code"] == nowhere.json["code"]
            empty = await theirs("POST", "/device/v1/chunks:batch", {"digests": digests})
            assert empty.status == 200
            assert empty.body == b""

    asyncio.run(scenario())
