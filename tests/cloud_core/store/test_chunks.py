"""A tenant's chunks, in a folder and in an object store that speaks S3: the same behaviour."""

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_core.store.chunk_stores import ChunksOf, open_chunks
from shared.bundle.manifest import Chunk
from shared.bundle.packing import MAGIC, is_packed
from shared.protocol.errors import Corrupt, Refused, Transient
from tests.cloud_core.store.s3_server import Bucket, bucket

NOISE = random.Random(7).randbytes(50_000)
CONTENTS = [b"", b"x", b"ab" * 40_000, NOISE, MAGIC + NOISE, MAGIC]
ABSENT = "0" * 64


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket() as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture(params=["folder", "s3"])
def chunks_of(request: pytest.FixtureRequest, tmp_path: Path) -> ChunksOf:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return open_chunks("s3://bucket/some/prefix", tmp_path)
    return open_chunks("folder", tmp_path)


def test_chunks_come_back_and_what_pays_is_packed(chunks_of: ChunksOf) -> None:
    store = chunks_of("acme")
    assert list(store.list()) == []
    for content in CONTENTS:
        digest = sha(content)
        assert not store.has(digest)
        store.put(digest, content)
        store.put(digest, content)
        assert store.get(digest) == b"".join(store.read(digest)) == content
        look = store.look(digest)
        assert look is not None
        assert (look.size, look.stored) == (len(content), len(store.kept(digest)))
        assert look.packed == is_packed(store.kept(digest)) == (content[:2] == b"ab" or content.startswith(MAGIC))
    digests = [sha(content) for content in CONTENTS]
    assert store.sizes([ABSENT, *digests]) == {sha(content): len(content) for content in CONTENTS}
    assert {blob.digest for blob in store.list()} == set(digests)
    wanted = [Chunk(digests[1], 1), Chunk(digests[2], 3), Chunk(ABSENT, 1)]
    assert store.lacking(wanted) == wanted[1:]
    store.delete([*digests[1:], ABSENT])
    assert [blob.digest for blob in store.list()] == digests[:1]
    with pytest.raises(Refused):
        store.get(digests[1])


def test_parts_of_the_kept_form(chunks_of: ChunksOf) -> None:
    store = chunks_of("acme")
    store.put(sha(NOISE), NOISE)
    assert store.kept(sha(NOISE), 10, 20) == NOISE[10:20]
    assert store.kept(sha(NOISE), 49_990) == NOISE[49_990:]


def test_wrong_bytes_are_not_kept(chunks_of: ChunksOf) -> None:
    store = chunks_of("acme")
    with pytest.raises(Corrupt):
        store.put(sha(b"a"), b"b")
    with pytest.raises(Refused):
        store.put("../" + sha(b"a")[3:], b"a")
    assert list(store.list()) == []


def test_one_tenant_never_meets_the_chunks_of_another(chunks_of: ChunksOf) -> None:
    """`acme-2` begins as `acme` does: a prefix of names is no wall."""
    theirs, mine = chunks_of("acme-2"), chunks_of("acme")
    theirs.put(sha(NOISE), NOISE)
    assert not mine.has(sha(NOISE))
    assert mine.sizes([sha(NOISE)]) == {}
    assert list(mine.list()) == []
    mine.delete([sha(NOISE)])
    with pytest.raises(Refused):
        mine.kept(sha(NOISE))
    assert theirs.get(sha(NOISE)) == NOISE


def test_a_rotten_chunk_is_removed_and_counts_as_missing(tmp_path: Path, s3: Bucket) -> None:
    folder, objects = open_chunks("folder", tmp_path)("acme"), open_chunks("s3://bucket", tmp_path)("acme")
    for content in (NOISE, b"ab" * 40_000):
        digest = sha(content)
        for store in (folder, objects):
            store.put(digest, content)
        path = next(tmp_path.rglob(digest))
        rotten = bytearray(path.read_bytes())
        rotten[-1] ^= 1
        path.write_bytes(rotten)
        s3.objects[f"acme/{digest[:2]}/{digest}"] = (bytes(rotten), 0.0)
        for store in (folder, objects):
            with pytest.raises(Corrupt):
                store.get(digest)
            assert not store.has(digest)


def test_a_packed_form_that_begins_wrongly_is_not_here(tmp_path: Path) -> None:
    store, digest = open_chunks("folder", tmp_path)("acme"), sha(b"ab" * 40_000)
    store.put(digest, b"ab" * 40_000)
    next(tmp_path.rglob(digest)).write_bytes(MAGIC)
    assert not store.has(digest)


def test_a_store_that_is_away_is_transient(s3: Bucket, tmp_path: Path) -> None:
    store = open_chunks("s3://bucket", tmp_path)("acme")
    store.put(sha(NOISE), NOISE)
    s3.broken = True
    for ask in (
        lambda: store.put(sha(b"a"), b"a"),
        lambda: store.get(sha(NOISE)),
        lambda: store.has(sha(NOISE)),
        lambda: list(store.list()),
        lambda: store.delete([sha(NOISE)]),
    ):
        with pytest.raises(Transient):
            ask()
    s3.broken = False
    assert store.get(sha(NOISE)) == NOISE


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_chunks("folder", tmp_path)("acme")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Transient):
        store.put(sha(NOISE), NOISE)
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    store.put(sha(NOISE), NOISE)
    assert store.get(sha(NOISE)) == NOISE


def test_what_a_dead_writer_left_goes_when_it_is_old(tmp_path: Path) -> None:
    store = open_chunks("folder", tmp_path)("acme")
    store.put(sha(NOISE), NOISE)
    left = next(tmp_path.rglob(sha(NOISE))).with_name(f".{sha(b'a')}.x.tmp")
    left.write_bytes(b"half")
    os.utime(left, (100.0, 100.0))
    assert [blob.digest for blob in store.list()] == [sha(NOISE)]
    store.discard_unfinished(older_than=99.0)
    assert left.exists()
    store.discard_unfinished(older_than=101.0)
    assert not left.exists()
    assert store.has(sha(NOISE))


@pytest.mark.parametrize("setting", ["", "gs://bucket", "folders", "s3://"])
def test_what_is_no_store_is_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        open_chunks(setting, tmp_path)("acme")
    assert refused.value.field == "chunk_store"
