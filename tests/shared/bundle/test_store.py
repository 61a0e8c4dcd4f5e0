import fcntl
import hashlib
import os
import threading

import pytest

from shared.bundle import store as module
from shared.bundle.store import ChunkStore
from shared.protocol.errors import Corrupt, Refused, Transient


def sha(data):
    return hashlib.sha256(data).hexdigest()


def files_below(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_chunk_comes_back_under_its_digest(tmp_path):
    store, data = ChunkStore(tmp_path), os.urandom(3 << 20)
    assert not store.has(sha(data))
    store.put(sha(data), data)
    store.put(sha(data), data)
    assert store.get(sha(data)) == data
    assert store.has(sha(data))
    assert store.size(sha(data)) == store.total() == len(data)
    assert store.held() == {sha(data)}
    assert ChunkStore(tmp_path).held() == {sha(data)}


def test_bytes_that_are_not_those_are_refused_and_leave_nothing(tmp_path):
    store = ChunkStore(tmp_path)
    with pytest.raises(Corrupt):
        store.put(sha(b"a"), b"b")
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("pieces", [[b"ab", b"cd", b"e"], [b"ab", b"c"]], ids=["too long", "too short"])
def test_a_stream_of_another_length_is_refused(tmp_path, pieces):
    store = ChunkStore(tmp_path)
    with pytest.raises(Corrupt):
        store.put_stream(sha(b"".join(pieces)), pieces, size=4)
    assert files_below(tmp_path) == []


def test_a_writer_that_is_left_without_commit_leaves_nothing(tmp_path):
    store = ChunkStore(tmp_path)
    with store.writing(sha(b"ab")) as writer:
        writer.write(b"a")
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("digest", ["", "../" + "a" * 61, "A" * 64, "a" * 63])
def test_a_name_that_is_no_digest_never_reaches_the_disk(tmp_path, digest):
    with pytest.raises(Refused):
        ChunkStore(tmp_path).put(digest, b"")
    with pytest.raises(Refused):
        ChunkStore(tmp_path).get(digest)


def test_a_chunk_that_is_not_here_is_refused(tmp_path):
    with pytest.raises(Refused) as caught:
        ChunkStore(tmp_path).get(sha(b"x"))
    assert caught.value.field == "digest"


def test_a_rotten_chunk_is_noticed_and_counts_as_missing(tmp_path):
    store = ChunkStore(tmp_path)
    store.put(sha(b"good"), b"good")
    store.path(sha(b"good")).write_bytes(b"goat")
    with pytest.raises(Corrupt):
        store.get(sha(b"good"))
    assert not store.has(sha(b"good"))


def test_a_link_is_no_chunk(tmp_path):
    store = ChunkStore(tmp_path / "store")
    (tmp_path / "secret").write_bytes(b"secret")
    path = store.path(sha(b"secret"))
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "secret")
    assert not store.has(sha(b"secret"))
    assert store.held() == frozenset()
    with pytest.raises(Transient):
        store.get(sha(b"secret"))


def test_durable_order_file_before_name_before_folder(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_rename, real_sync = os.fsync, os.rename, module.sync_folder
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (calls.append("rename"), real_rename(a, b))[1])
    monkeypatch.setattr(module, "sync_folder", lambda f: (calls.append(f"folder {f.name}"), real_sync(f))[1])
    store = ChunkStore(tmp_path)
    store.put(sha(b"x"), b"x")
    rename = calls.index("rename")
    assert "fsync" in calls[:rename]
    assert calls[rename + 1] == f"folder {sha(b'x')[:2]}"


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_a_failing_disk_is_transient_and_leaves_nothing(tmp_path, monkeypatch, name):
    store = ChunkStore(tmp_path)
    store.put(sha(b"first"), b"first")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(Transient, match="disk is full"):
        store.put(sha(b"x"), b"x")
    monkeypatch.undo()
    assert store.held() == {sha(b"first")}
    assert len(files_below(tmp_path)) == 1


def test_leftovers_go_and_work_in_progress_stays(tmp_path):
    store = ChunkStore(tmp_path)
    with store.writing(sha(b"ab")) as writer:
        writer.write(b"a")
        left = tmp_path / "incoming" / f"{sha(b'z')}.left"
        left.write_bytes(b"half")
        assert store.discard_unfinished() == 1
        assert not left.exists()
        writer.write(b"b")
        writer.commit()
    assert store.get(sha(b"ab")) == b"ab"


def test_a_writer_whose_fresh_file_was_swept_takes_another(tmp_path, monkeypatch):
    store, real, swept = ChunkStore(tmp_path), fcntl.flock, []

    def sweep_first(handle, operation):
        if not swept:
            swept.append(handle)
            for path in (tmp_path / "incoming").iterdir():
                path.unlink()
        return real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    store.put(sha(b"x"), b"x")
    assert store.get(sha(b"x")) == b"x"


def test_collection_keeps_what_is_named(tmp_path):
    store = ChunkStore(tmp_path)
    for data in (b"a", b"bb", b"ccc"):
        store.put(sha(data), data)
    assert store.collect({sha(b"a")}) == (2, 5)
    assert store.held() == {sha(b"a")}


def test_many_threads_may_put_the_same_chunk(tmp_path):
    store, data = ChunkStore(tmp_path), os.urandom(100_000)
    threads = [threading.Thread(target=store.put, args=(sha(data), data)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get(sha(data)) == data
    assert len(files_below(tmp_path)) == 1
