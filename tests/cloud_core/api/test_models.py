"""Models, chunks and versions: verified, immutable, deleted softly."""

import asyncio
import hashlib
from pathlib import Path

import msgspec

from shared.bundle.manifest import canonical, digest_of
from tests.cloud_core.api.bundles import bundle, publish
from tests.cloud_core.api.server import running

JSON = {"Content_Type": "application/json"}


def test_publishing(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            manifest, pieces = bundle()
            data = canonical(manifest)
            path = "/api/v1/models/tiny/versions"
            digests = [hashlib.sha256(piece).hexdigest() for piece in pieces]
            asked = await api.admin("POST", "/api/v1/chunks:missing", {"digests": digests})
            assert asked.json == {"missing": digests}
            early = await api.admin("POST", path, data, **JSON)
            assert early.status == 422
            assert early.json["code"] == "chunks-missing"
            assert (await api.admin("HEAD", f"/api/v1/chunks/{digests[0]}")).status == 404

            digest = await publish(api.admin)
            assert digest == digest_of(data)
            head = await api.admin("HEAD", f"/api/v1/chunks/{digests[0]}")
            assert head.status == 200
            assert head.headers["Content-Length"] == str(len(pieces[0]))
            again = await api.admin("POST", path, data, **JSON)
            assert again.status == 201
            assert again.json["digest"] == digest
            one = await api.admin("GET", f"{path}/1.0.0")
            assert one.json["manifest"] == msgspec.json.decode(data)
            assert one.json["published_by"] == "token:the-admin"
            assert one.headers["ETag"] == f'"{digest}"'
            listed = await api.admin("GET", "/api/v1/models")
            assert [(m["name"], m["versions"]) for m in listed.json["items"]] == [("tiny", ["1.0.0"])]

    asyncio.run(scenario())


def test_a_version_never_changes(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await publish(api.admin)
            other, pieces = bundle(content=b"other")
            for piece in pieces:
                await api.admin("PUT", f"/api/v1/chunks/{hashlib.sha256(piece).hexdigest()}", piece)
            path = "/api/v1/models/tiny/versions"
            changed = await api.admin("POST", path, canonical(other), **JSON)
            assert changed.status == 409
            assert changed.json["code"] == "immutable"
            assert (await api.admin("DELETE", f"{path}/1.0.0")).status == 204
            assert (await api.admin("GET", f"{path}/1.0.0")).status == 404
            assert (await api.admin("POST", path, canonical(other), **JSON)).status == 409
            assert await publish(api.admin)
            assert (await api.admin("GET", f"{path}/1.0.0")).status == 200

    asyncio.run(scenario())


def test_chunks_are_verified(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            digest = hashlib.sha256(b"right").hexdigest()
            wrong = await api.admin("PUT", f"/api/v1/chunks/{digest}", b"wrong")
            assert wrong.status == 422
            assert wrong.json["code"] == "chunk-mismatch"
            assert (await api.admin("HEAD", f"/api/v1/chunks/{digest}")).status == 404
            assert (await api.admin("PUT", "/api/v1/chunks/nothex", b"x")).status == 400
            assert (await api.admin("PUT", f"/api/v1/chunks/{'A' * 64}", b"x")).status == 400
            assert (await api.admin("PUT", f"/api/v1/chunks/{digest}", b"right")).status == 201
            assert (await api.admin("PUT", f"/api/v1/chunks/{digest}", b"right")).status == 201

    asyncio.run(scenario())


def test_bad_manifests(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            path = "/api/v1/models/tiny/versions"
            manifest, _ = bundle()
            for body, status in (
                (b"", 400),
                (b"{", 400),
                (b"\xff\xfe", 400),
                (b"[" * 100_000, 400),
                (b"{}", 400),
                (canonical(bundle("other")[0]), 400),
                (canonical(msgspec.structs.replace(manifest, version="one")), 400),
            ):
                answer = await api.admin("POST", path, body, **JSON)
                assert answer.status == status, (body[:40], answer.body)
                assert answer.headers["Content-Type"].startswith("application/problem+json")
            assert (await api.admin("POST", path, b"x", Content_Type="text/plain")).status == 415
            assert (await api.admin("GET", "/api/v1/models/tiny")).status == 404

    asyncio.run(scenario())


def test_deleting_a_model_wants_it_empty(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await publish(api.admin)
            assert (await api.admin("DELETE", "/api/v1/models/tiny")).status == 409
            await api.admin("DELETE", "/api/v1/models/tiny/versions/1.0.0")
            assert (await api.admin("DELETE", "/api/v1/models/tiny")).status == 204
            assert (await api.admin("GET", "/api/v1/models/tiny")).status == 404
            made = await api.admin("POST", "/api/v1/models", {"name": "tiny", "description": "back"})
            assert made.status == 201
            assert made.json["versions"] == []

    asyncio.run(scenario())
