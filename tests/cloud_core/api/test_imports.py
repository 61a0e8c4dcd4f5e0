"""Imports over REST: files uploaded apart from what devices read, a task that is asked for once, watched and cancelled."""

import asyncio
import hashlib
import time
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.api.import_request import NewImport, checked
from cloud_core.store import audit, commands, imports
from cloud_core.store.database import read, write
from cloud_core.store.imports import SourceFile
from shared.bundle.manifest import Chunk
from shared.protocol.errors import Refused
from tests.cloud_core.api.bundles import publish
from tests.cloud_core.api.server import Client, Running, running

PATH = "/api/v1/imports"


def file(path: str, data: bytes) -> dict[str, Any]:
    """How an import names an uploaded file of one chunk."""
    digest = hashlib.sha256(data).hexdigest()
    return {"path": path, "size": len(data), "sha256": digest, "chunks": [{"digest": digest, "size": len(data)}]}


async def upload(client: Client, *contents: bytes) -> None:
    for data in contents:
        answer = await client("PUT", f"{PATH}/chunks/{hashlib.sha256(data).hexdigest()}", data)
        assert answer.status == 201, answer.body


def body(**changes: Any) -> dict[str, Any]:
    """A good request whose files are uploaded by `asked`."""
    files = [file("config.json", b"{}"), file("weights/model.bin", b"pickled")]
    return {"model": "tiny", "version": "1.0.0", "source": "folder", "files": files} | changes


async def asked(client: Client, **changes: Any) -> dict[str, Any]:
    await upload(client, b"{}", b"pickled")
    answer = await client("POST", PATH, body(**changes))
    assert answer.status == 202, answer.body
    told: dict[str, Any] = answer.json
    return told


async def completed(api: Running, id_: str, digest: str) -> None:
    """What the loops would write."""
    async with write(api.engine) as connection:
        one = await imports.claim(connection, now=time.time())
        assert one is not None
        assert one.id == id_
        assert await imports.complete(connection, one, digest=digest, now=time.time())


def test_asking_watching_cancelling(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api:
            early = await api.admin("POST", PATH, body())
            assert (early.status, early.json["code"]) == (422, "chunks-missing")
            digests = [hashlib.sha256(data).hexdigest() for data in (b"{}", b"pickled")]
            lacking = await api.admin("POST", f"{PATH}/chunks:missing", {"digests": digests})
            assert lacking.json == {"missing": digests}
            await upload(api.admin, b"{}", b"pickled")
            made = await api.admin("POST", PATH, body(description="what it is"))
            assert made.status == 202
            told = made.json
            assert made.headers["Location"] == f"{PATH}/{told['id']}"
            assert (told["state"], told["done"], told["result"], told["error"]) == ("queued", 0.0, None, None)
            assert told["requested_by"] == "token:the-admin"
            assert told["variants"] == ["cpu-fp32", "cpu-int8"]
            assert (await api.admin("GET", made.headers["Location"])).json == told
            assert [one["id"] for one in (await api.admin("GET", PATH)).json["items"]] == [told["id"]]

            ended = await api.admin("POST", f"{PATH}/{told['id']}/cancel")
            assert (ended.status, ended.json["state"]) == (200, "cancelled")
            assert (await api.admin("POST", f"{PATH}/{told['id']}/cancel")).json["state"] == "cancelled"
            assert (await api.admin("GET", f"{PATH}/absent")).status == 404
            assert (await api.admin("POST", f"{PATH}/absent/cancel")).status == 404
            async with read(api.engine) as connection:
                acts = [(act.verb, act.resource) for act in await audit.page(connection, "default")]
            assert acts.count(("create", "imports")) == 1
            assert ("update", "imports") in acts

    asyncio.run(scenario())


def test_what_is_uploaded_to_be_imported_is_nothing_a_device_could_read(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await upload(api.admin, b"pickled")
            digest = hashlib.sha256(b"pickled").hexdigest()
            assert (await api.admin("HEAD", f"{PATH}/chunks/{digest}")).status == 200
            assert (await api.admin("HEAD", f"/api/v1/chunks/{digest}")).status == 404
            missing = await api.admin("POST", "/api/v1/chunks:missing", {"digests": [digest]})
            assert missing.json == {"missing": [digest]}
            assert (tmp_path / "data" / "imports" / "default" / "chunks").is_dir()
            wrong = await api.admin("PUT", f"{PATH}/chunks/{digest}", b"other")
            assert (wrong.status, wrong.json["code"]) == (422, "chunk-mismatch")

    asyncio.run(scenario())


def test_the_same_is_done_once(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api:
            first = await asked(api.admin)
            assert (await asked(api.admin))["id"] == first["id"]
            twins = await asyncio.gather(*(api.admin("POST", PATH, body(), Idempotency_Key="k") for _ in range(4)))
            assert {twin.json["id"] for twin in twins} == {first["id"]}
            other = await api.admin("POST", PATH, body(prune_heads=0.5))
            assert (other.status, other.json["code"]) == (409, "in-progress")
            # Another version is another import.
            assert (await asked(api.admin, version="1.0.1"))["id"] != first["id"]

            digest = await publish(api.admin)
            await completed(api, first["id"], digest)
            again = await api.admin("POST", PATH, body())
            assert (again.status, again.json["id"], again.json["state"]) == (200, first["id"], "completed")
            assert again.json["result"] == {"model": "tiny", "version": "1.0.0", "digest": digest}
            changed = await api.admin("POST", PATH, body(prune_heads=0.5))
            assert (changed.status, changed.json["code"]) == (409, "immutable")
            late = await api.admin("POST", f"{PATH}/{first['id']}/cancel")
            assert (late.status, late.json["code"]) == (409, "ended")

            # A version that was deleted may come back by the import that made it, and by no other.
            await api.admin("DELETE", "/api/v1/models/tiny/versions/1.0.0")
            assert (await api.admin("POST", PATH, body(prune_heads=0.5))).json["code"] == "immutable"
            back = await api.admin("POST", PATH, body())
            assert (back.status, back.json["state"]) == (202, "queued")

    asyncio.run(scenario())


def test_a_version_somebody_published_is_refused_early(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await publish(api.admin)
            await upload(api.admin, b"{}", b"pickled")
            answer = await api.admin("POST", PATH, body())
            assert (answer.status, answer.json["code"]) == (409, "immutable")
            assert (await api.admin("GET", PATH)).json["items"] == []

    asyncio.run(scenario())


def test_pages_are_newest_first(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api:
            made = [(await asked(api.admin, version=f"1.0.{i}"))["id"] for i in range(5)]
            found, cursor = [], ""
            while True:
                page = (await api.admin("GET", f"{PATH}?limit=2{cursor}")).json
                found += [one["id"] for one in page["items"]]
                if page["next"] is None:
                    break
                cursor = f"&cursor={page['next']}"
            assert found == made[::-1]
            assert (await api.admin("GET", f"{PATH}?cursor=bm9uZQ==")).status == 400

    asyncio.run(scenario())


def test_another_tenants_imports_are_absent(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            told = await asked(api.admin)
            password = await commands.add_user(
                api.engine, tenant="other", name="boss", role="admin", password="", now=time.time()
            )
            boss = await api.login("boss", password, "other")
            assert (await boss("GET", PATH)).json["items"] == []
            for method, end in (("GET", ""), ("POST", "/cancel")):
                assert (await boss(method, f"{PATH}/{told['id']}{end}")).status == 404
            # Their chunks are not ours: what they never uploaded, they cannot import.
            assert (await boss("POST", PATH, body())).json["code"] == "chunks-missing"
            assert (await api.admin("GET", f"{PATH}/{told['id']}")).json["state"] == "queued"
            viewer = await api.client("viewer")
            assert (await viewer("GET", f"{PATH}/{told['id']}")).status == 200
            assert (await viewer("POST", f"{PATH}/{told['id']}/cancel")).status == 403
            assert (await viewer("PUT", f"{PATH}/chunks/{'0' * 64}", b"")).status == 403

    asyncio.run(scenario())


BAD = [
    ({"model": "Tiny"}, "model", 400),
    ({"version": "one"}, "version", 400),
    ({"source": ""}, "source", 400),
    ({"source": "a\nb"}, "source", 400),
    ({"files": []}, "source", 400),
    ({"source": "modelscope:no-owner", "files": []}, "source", 400),
    ({"source": "modelscope:a/..", "files": []}, "source", 400),
    ({"source": "modelscope:a/b@-x", "files": []}, "source", 400),
    ({"source": "modelscope:a/b"}, "files", 400),
    ({"variants": []}, "variants", 400),
    ({"variants": ["cpu-fp32", "cpu-fp32"]}, "variants", 400),
    ({"variants": ["gpu"]}, "variants[0]", 400),
    ({"accept_drift": {"cuda-fp16": 0.9}}, "accept_drift", 400),
    ({"prune_heads": 1.0}, "prune_heads", 400),
    ({"schema": "[1]"}, "schema", 400),
    ({"schema": "{"}, "schema", 400),
    ({"description": "x" * 5000}, "description", 413),
    ({"files": [file("a", b"1"), file("a", b"1")]}, "files", 400),
    ({"files": [file("a", b"1"), file("a/b", b"2")]}, "files[0].path", 400),
    ({"files": [file("a", b"1") | {"size": 2}]}, "files[0].size", 400),
    ({"files": [file("a", b"1") | {"sha256": "x"}]}, "files[0].sha256", 400),
    ({"golden": file("g/a", b"1")}, "golden.path", 400),
    ({"signature": file("../s", b"1")}, "signature.path", 400),
    ({"colour": "blue"}, "colour", 400),
    *(
        ({"files": [file(path, b"1")]}, "files[0].path", 400)
        for path in ("", ".", "..", "../a", "a/../b", "/a", "a//b", ".git", "a/.b", "a/b/c", "a\\b", "a\0", "ü", "a/")
    ),
]


def test_every_field_is_held_to_what_is_allowed(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path, import_disk_bytes=1 << 20) as api:
            await upload(api.admin, b"{}", b"pickled")
            for changes, field, status in BAD:
                answer = await api.admin("POST", PATH, body(**changes))
                assert (answer.status, answer.json.get("field")) == (status, field), (changes, answer.body)
            huge = file("a", b"1") | {"size": 2 << 20, "chunks": [{"digest": "0" * 64, "size": 2 << 20}]}
            answer = await api.admin("POST", PATH, body(files=[huge]))
            assert (answer.status, answer.json["field"]) == (413, "files")
            assert (await api.admin("GET", PATH)).json["items"] == []
            hub = await api.admin("POST", PATH, body(source="modelscope:damo/nlp_x@v1.0", files=[]))
            assert hub.status == 202

    asyncio.run(scenario())


@given(st.lists(st.text(st.sampled_from("ab./\\~ -_:\0é"), max_size=8), min_size=1, max_size=4))
def test_no_accepted_path_leaves_its_folder(paths: list[str]) -> None:
    chunk = Chunk("0" * 64, 1)
    files = tuple(SourceFile(path=path, size=1, sha256="0" * 64, chunks=(chunk,)) for path in paths)
    try:
        taken = checked(NewImport(model="m", version="1.0.0", source="s", files=files), most_bytes=100)
    except Refused:
        return
    for one in taken.files:
        path = PurePosixPath(one.path)
        assert not path.is_absolute()
        assert 1 <= len(path.parts) <= 2
        assert not any(part.startswith(".") for part in path.parts)
        assert str(path) == one.path


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_name_is_a_file_or_a_folder(names: tuple[str, str]) -> None:
    files = tuple(SourceFile(path=name, size=0, sha256="0" * 64, chunks=()) for name in names)
    with pytest.raises(Refused, match="a file and a folder"):
        checked(NewImport(model="m", version="1.0.0", source="s", files=files), most_bytes=1)


def test_equal_requests_have_equal_texts() -> None:
    first = checked(
        NewImport(
            model="m",
            version="1.0.0",
            source="modelscope:a/b",
            variants=("cpu-fp32", "cpu-int8"),
            accept_drift={"cpu-fp32": 0.5, "cpu-int8": 0.9},
        ),
        most_bytes=1,
    )
    second = msgspec.structs.replace(first, accept_drift={"cpu-int8": 0.9, "cpu-fp32": 0.5})
    assert imports.request_text(first) == imports.request_text(second)
