import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.decide.retention import Reason
from edge_agent.telemetry.spool import Spool, _sample_in
from shared.protocol.errors import Transient
from shared.protocol.telemetry import Ack, Event, Host, Sample

HOST = Host(cpu=0.1, memory=0.2, disk_free_bytes=1, agent_memory_bytes=1)
FULL, DAMAGED, STORAGE, CRASH = Reason.FULL, Reason.DAMAGED, Reason.STORAGE, Reason.CRASH
TOO_MUCH = 5_000_000
"""Bytes no ring of these tests takes: a disk that is full."""


def maker(weight: int = 0, events: tuple[Event, ...] = ()) -> Callable[[int, dict[str, int]], Sample]:
    def make(seq: int, dropped: dict[str, int]) -> Sample:
        # What cannot be compressed, so that it weighs what it says.
        shed = {os.urandom(weight // 2).hex(): 1}
        return Sample(seq=seq, started_at=0.0, ended_at=1.0, host=HOST, shed=shed, dropped=dropped, events=events)

    return make


def opened(path: Path, most_bytes: int = 1_000_000, first: int = 1) -> Spool:
    return Spool(path, most_bytes=most_bytes, new_epoch=itertools.count(first).__next__)


def waiting(spool: Spool) -> tuple[Sample, ...]:
    """Everything, acknowledging nothing; looks past the spool, which would hold it to be sent."""
    rows = spool._db.execute("SELECT body FROM samples ORDER BY seq").fetchall()
    return tuple(_sample_in(row[0]) for row in rows)


def seqs(spool: Spool) -> list[int]:
    return [sample.seq for sample in waiting(spool)]


def test_only_an_acknowledgement_trims(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.db")
    for _ in range(5):
        spool.append(maker())
    assert seqs(spool) == [1, 2, 3, 4, 5]
    assert spool.trim(Ack(epoch=spool.epoch + 1, seq=5)) == 0
    assert spool.trim(Ack(epoch=spool.epoch, seq=3)) == 3
    assert seqs(spool) == [4, 5]
    spool.close()


def test_no_pair_of_epoch_and_seq_is_used_twice(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = opened(path)
    for _ in range(3):
        spool.append(maker())
    spool.trim(Ack(epoch=spool.epoch, seq=3))
    spool.close()
    again = opened(path, first=9)
    sample, _ = again.append(maker())
    assert (again.epoch, sample.seq) == (9, 4)
    again.close()


def test_what_waited_keeps_its_epoch_and_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = opened(path)
    spool.append(maker())
    spool.append(maker())
    spool.close()
    again = opened(path, first=9)
    again.append(maker())
    batch = again.oldest(most=10, most_bytes=10**9)
    assert batch is not None
    assert (batch.epoch, [sample.seq for sample in batch.samples]) == (1, [1, 2])
    assert again.trim(Ack(epoch=9, seq=2)) == 0
    assert again.trim(Ack(epoch=1, seq=2)) == 2
    batch = again.oldest(most=10, most_bytes=10**9)
    assert batch is not None
    assert (batch.epoch, [sample.seq for sample in batch.samples]) == (9, [3])
    again.close()


def test_a_disk_put_back_writes_nothing_under_a_number_that_was_used(tmp_path: Path) -> None:
    spool = opened(tmp_path / "a" / "spool.db")
    spool.append(maker())
    spool.close()
    shutil.copytree(tmp_path / "a", tmp_path / "backup")
    spool = opened(tmp_path / "a" / "spool.db", first=2)
    used = {(spool.epoch, spool.append(maker())[0].seq) for _ in range(3)}
    spool.close()
    # The agent's record was put back as well; its epochs still rise, since they are no less than the clock.
    spool = opened(tmp_path / "backup" / "spool.db", first=3)
    assert (spool.epoch, spool.append(maker())[0].seq) not in used
    spool.close()


def test_bounded_and_every_loss_counted(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = opened(path, most_bytes=200_000)
    pushed = sum(spool.append(maker(5000))[1].get(FULL, 0) for _ in range(200))
    held = seqs(spool)
    assert pushed > 0
    assert held == list(range(201 - len(held), 201))
    # What was dropped and not yet said, plus what samples still held say, is all that is missing.
    last, _ = spool.append(maker())
    said = sum(sample.dropped.get(FULL, 0) for sample in waiting(spool))
    assert said == last.seq - len(seqs(spool))
    spool.close()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 400_000


def test_measurements_go_before_events(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.db", most_bytes=100_000)
    told = [spool.append(maker(1000, (Event(at=float(i), kind="converged"),)))[0].seq for i in range(20)]
    for _ in range(60):
        spool.append(maker(3000))
    assert set(told) <= set(seqs(spool))
    for _ in range(60):
        spool.append(maker(3000, (Event(at=1.0, kind="failed"),)))
    kept = waiting(spool)
    assert all(sample.events for sample in kept)
    assert sum(sample.dropped.get(Reason.FULL_EVENTS, 0) for sample in kept) > 0
    spool.close()


def test_what_may_have_been_received_is_not_dropped(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.db", most_bytes=100_000)
    for _ in range(30):
        spool.append(maker(1000))
    sent = spool.oldest(most=5, most_bytes=10**9)
    assert sent is not None
    for _ in range(120):
        spool.append(maker(1000))
    assert {sample.seq for sample in sent.samples} <= set(seqs(spool))
    assert len(seqs(spool)) < 150
    assert spool.trim(Ack(epoch=sent.epoch, seq=sent.samples[-1].seq)) == len(sent.samples)
    spool.close()


def test_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    code = f"""
import os, signal
from tests.edge_agent.telemetry.test_spool import maker, opened
from pathlib import Path
spool = opened(Path({str(path)!r}))
for _ in range(7):
    spool.append(maker())
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == -9
    spool = opened(path)
    assert seqs(spool) == [1, 2, 3, 4, 5, 6, 7]
    # The interval that ran then is lost, and counted.
    assert spool.append(maker())[0].dropped == {CRASH: 1}
    assert spool.append(maker())[0].dropped == {}
    spool.close()


def test_a_damaged_file_is_put_aside_and_said(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    opened(path).close()
    path.write_bytes(b"not a database at all, and long enough to be looked at" * 100)
    spool = opened(path, first=7)
    sample, _ = spool.append(maker())
    assert spool.epoch == 7
    assert sample.dropped == {DAMAGED: 1}
    assert (tmp_path / "spool.db.damaged").exists()
    spool.close()


def test_a_damaged_sample_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = opened(path)
    for _ in range(3):
        spool.append(maker())
    spool.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE samples SET body = x'787878' WHERE seq = 1")
    db.close()
    spool = opened(path)
    batch = spool.oldest(most=10, most_bytes=10**9)
    assert batch is not None
    assert [sample.seq for sample in batch.samples] == [2, 3]
    assert spool.append(maker())[0].dropped == {DAMAGED: 1}
    spool.close()


@pytest.mark.parametrize("content", [b"", b"x" * 32, b"\xff" * 32])
def test_a_damaged_ledger_begins_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spool.db"
    spool = opened(path, most_bytes=100_000)
    with pytest.raises(Transient):
        spool.append(maker(TOO_MUCH))
    spool.append(maker())
    spool.close()
    (tmp_path / "spool.db.lost").write_bytes(content)
    spool = opened(path, most_bytes=100_000)
    assert spool.append(maker())[0].dropped == {}
    with pytest.raises(Transient):
        spool.append(maker(TOO_MUCH))
    assert spool.append(maker())[0].dropped == {STORAGE: 1}
    spool.close()


def test_a_disk_that_takes_no_more_is_transient_and_counted_also_after_a_crash(tmp_path: Path) -> None:
    spool = opened(tmp_path / "a" / "spool.db", most_bytes=100_000)
    with pytest.raises(Transient):
        spool.append(maker(TOO_MUCH))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    spool.close()
    spool = opened(tmp_path / "b" / "spool.db", most_bytes=100_000)
    assert spool.append(maker())[0].dropped == {STORAGE: 1, CRASH: 1}
    spool.close()


def test_a_disk_that_lets_nothing_be_made_is_transient_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = opened(path)
    spool.append(maker())
    spool.close()
    (tmp_path / "spool.db.lost").unlink()
    (tmp_path / "spool.db.lost").mkdir()
    with pytest.raises(Transient):
        opened(path)
    (tmp_path / "spool.db.lost").rmdir()
    spool = opened(path)
    assert seqs(spool) == [1]
    spool.close()


def test_a_spool_of_the_first_form_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    body = b'{"seq":4,"started_at":0.0,"ended_at":1.0,"host":{"cpu":0,"memory":0,"disk_free_bytes":1,"agent_memory_bytes":1}}'
    with sqlite3.connect(path) as db:
        db.executescript(
            """CREATE TABLE samples (seq INTEGER PRIMARY KEY AUTOINCREMENT, size INTEGER NOT NULL, body BLOB NOT NULL);
            CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
            CREATE TABLE dropped (reason TEXT PRIMARY KEY, count INTEGER NOT NULL);
            INSERT INTO facts VALUES ('epoch', 3); INSERT INTO dropped VALUES ('spool-full', 2);"""
        )
        db.execute("INSERT INTO samples VALUES (4, ?, ?)", (len(body), body))
    db.close()
    spool = opened(path, first=8)
    sample, _ = spool.append(maker())
    assert (spool.epoch, sample.seq, sample.dropped) == (8, 5, {FULL: 2})
    batch = spool.oldest(most=10, most_bytes=10**9)
    assert batch is not None
    assert (batch.epoch, [each.seq for each in batch.samples]) == (3, [4])
    spool.close()


def test_a_batch_is_bounded_in_bytes_and_has_at_least_one(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.db")
    for _ in range(4):
        spool.append(maker(1000))

    def taken(most: int, most_bytes: int) -> int:
        batch = spool.oldest(most=most, most_bytes=most_bytes)
        return 0 if batch is None else len(batch.samples)

    assert taken(10, 10) == 1
    assert taken(10, 2600) == 2
    assert taken(3, 10**9) == 3
    spool.close()
