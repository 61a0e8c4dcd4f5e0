"""Chunks as devices get them: packed where they take that, ranges within the form, and nothing that tells of other tenants."""

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cloud_core.store import commands
from shared.bundle.packing import MAGIC, pack, unpack
from shared.io.signing import Signer
from tests.cloud_core.api.server import Answer, Client, Running, running
from tests.cloud_core.store.s3_server import bucket

CONTENT = b"0123456789abcdef" * 5000
ODD = MAGIC + hashlib.shake_256(b"odd").digest(5000)
"""Begins as a packed form does, and cannot be packed to less."""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def device_of(api: Running, admin: Client, tenant: str = "default") -> Client:
    """A device of the tenant, with its token; nothing is unpacked on its way."""
    made = await admin("POST", "/api/v1/devices", {"device": "till"})
    signer, at = Signer.generate(), int(time.time())
    hardware = {"hardware_class": "box", "machine": "x86_64", "cpus": 4, "memory_bytes": 1 << 30}
    body = {"token": made.json["enrol_token"], "public_key": signer.public_key, "hardware": hardware}
    assert (await api.anybody("POST", "/device/v1/enrol", body | {"agent_version": "1"})).status == 200
    proof = {"tenant": tenant, "device": "till", "at": at, "signature": signer.sign(f"{tenant}/till/{at}".encode())}
    token = (await api.anybody("POST", "/device/v1/token", proof)).json["token"]
    return Client(admin.session, admin.url, token)


async def got(device: Client, data: bytes, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["Authorization"] = f"Bearer {device.token}"
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        url = f"{device.url}/device/v1/chunks/{sha(data)}"
        async with session.get(url, headers={"Accept-Encoding": "identity", **named}) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_packed_where_it_is_taken_and_ranges_count_its_bytes(
    where: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(**settings: Any) -> None:
        async with running(sqlite_url, tmp_path, **settings) as api:
            for data in (CONTENT, ODD):
                assert (await api.admin("PUT", f"/api/v1/chunks/{sha(data)}", data)).status == 201
            head = await api.admin("HEAD", f"/api/v1/chunks/{sha(CONTENT)}")
            assert head.headers["Content-Length"] == str(len(CONTENT))
            device = await device_of(api, api.admin)

            plain = await got(device, CONTENT)
            assert (plain.status, plain.body) == (200, CONTENT)
            assert "Content-Encoding" not in plain.headers
            packed = await got(device, CONTENT, Accept_Encoding="gzip, zstd")
            assert packed.headers["Content-Encoding"] == "zstd"
            assert packed.body == pack(CONTENT)
            assert unpack(packed.body, len(CONTENT)) == CONTENT
            assert packed.headers["ETag"] != plain.headers["ETag"]
            assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
            assert (await got(device, CONTENT, Accept_Encoding="zstd;q=0, gzip")).body == CONTENT

            rest = await got(device, CONTENT, Accept_Encoding="zstd", Range="bytes=7-")
            assert (rest.status, rest.body) == (206, packed.body[7:])
            whole = len(packed.body)
            assert rest.headers["Content-Range"] == f"bytes 7-{whole - 1}/{whole}"
            part = await got(device, CONTENT, Range="bytes=7-9")
            assert (part.status, part.body) == (206, CONTENT[7:10])
            last = await got(device, CONTENT, Range="bytes=-3")
            assert (last.status, last.body) == (206, CONTENT[-3:])
            beyond = await got(device, CONTENT, Accept_Encoding="zstd", Range=f"bytes={whole}-")
            assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{whole}")
            assert (await got(device, CONTENT, Range="bytes=nonsense")).status == 200

            same, other = packed.headers["ETag"], plain.headers["ETag"]
            assert (await got(device, CONTENT, Accept_Encoding="zstd", Range="bytes=7-", If_Range=same)).status == 206
            assert (await got(device, CONTENT, Accept_Encoding="zstd", Range="bytes=7-", If_Range=other)).status == 200

            odd = await got(device, ODD, Accept_Encoding="zstd")
            assert odd.body == ODD
            assert "Content-Encoding" not in odd.headers

    if where == "folder":
        asyncio.run(story())
        return
    with bucket() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        asyncio.run(story(chunk_store="s3://bucket/models"))
        assert len(server.objects) == 2


def test_nothing_tells_whether_another_tenant_has_a_chunk(sqlite_url: str, tmp_path: Path) -> None:
    """Looking, asking for many, uploading, fetching: each answers as for a chunk nobody has."""

    async def story() -> None:
        async with running(sqlite_url, tmp_path) as api:
            assert (await api.admin("PUT", f"/api/v1/chunks/{sha(CONTENT)}", CONTENT)).status == 201
            password = await commands.add_user(
                api.engine, tenant="other", name="boss", role="admin", password="", now=time.time()
            )
            boss = await api.login("boss", password, "other")
            device = await device_of(api, boss, "other")
            nobody_has = CONTENT + b"!"
            told = []
            for data in (CONTENT, nobody_has):
                digest = sha(data)
                looked = await boss("HEAD", f"/api/v1/chunks/{digest}")
                many = await boss("POST", "/api/v1/chunks:missing", {"digests": [digest]})
                wrong = await boss("PUT", f"/api/v1/chunks/{digest}", b"wrong")
                fetched = await got(device, data, Accept_Encoding="zstd")
                sent = await boss("PUT", f"/api/v1/chunks/{digest}", data)
                assert many.json == {"missing": [digest]}
                told.append(
                    (
                        looked.status,
                        wrong.status,
                        wrong.json["code"],
                        fetched.status,
                        sent.status,
                        sent.body,
                        set(sent.headers),
                    )
                )
            assert told[0] == told[1]
            assert told[0][:5] == (404, 422, "chunk-mismatch", 404, 201)

    asyncio.run(story())
