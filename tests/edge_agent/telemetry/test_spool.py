import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.telemetry.spool import DAMAGED, FULL, STORAGE, Spool
from shared.protocol.errors import Transient
from shared.protocol.telemetry import Ack, Host, Sample

HOST = Host(cpu=0.1, memory=0.2, disk_free_bytes=1, agent_memory_bytes=1)


def maker(weight: int = 0) -> Callable[[int, dict[str, int]], Sample]:
    def make(seq: int, dropped: dict[str, int]) -> Sample:
        return Sample(seq=seq, started_at=0.0, ended_at=1.0, host=HOST, shed={"x" * weight: 1}, dropped=dropped)

    return make


def opened(path: Path, most_bytes: int = 1_000_000, first: int = 1) -> Spool:
    return Spool(path, most_bytes=most_bytes, new_epoch=itertools.count(first).__next__)


def seqs(spool: Spool) -> list[int]:
    return [sample.seq for sample in spool.oldest(most=10_000, most_bytes=10**9)]


def test_only_an_acknowledgement_trims(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.db")
    for _ in range(5):
        spool.append(maker())
    assert seqs(spool) == seqs(spool) == [1, 2, 3, 4, 5]
    assert spool.trim(Ack(epoch=spool.epoch + 1, seq=5)) == 0
    assert spool.trim(Ack(epoch=spool.epoch, seq=3)) == 3
    assert seqs(spool) == [4, 5]
    spool.close()


def test_seq_is_never_reused(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = opened(path)
    for _ in range(3):
        spool.append(maker())
    spool.trim(Ack(epoch=spool.epoch, seq=3))
    spool.close()
    again = opened(path, first=9)
    sample, _ = again.append(maker())
    assert (again.epoch, sample.seq) == (1, 4)
    again.close()


def test_bounded_and_every_loss_counted(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = opened(path, most_bytes=200_000)
    pushed = sum(spool.append(maker(5000))[1].get(FULL, 0) for _ in range(200))
    held = seqs(spool)
    assert pushed > 0
    assert held == list(range(201 - len(held), 201))
    # What was dropped and not yet said, plus what samples still held say, is all that is missing.
    last, _ = spool.append(maker())
    said = sum(sample.dropped.get(FULL, 0) for sample in spool.oldest(most=1000, most_bytes=10**9))
    assert said == last.seq - len(seqs(spool))
    spool.close()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 400_000


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "ack", "reopen"]), st.integers(0, 40)), max_size=40))
def test_nothing_is_lost_without_being_counted(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("spool") / "spool.db"
    spool, appended, acknowledged, told = opened(path, most_bytes=100_000), 0, 0, 0
    for step, number in steps:
        if step == "append":
            spool.append(maker(number * 1000))
            appended += 1
        elif step == "ack":
            batch = spool.oldest(most=number + 1, most_bytes=10**9)
            if batch:
                told += sum(sum(sample.dropped.values()) for sample in batch)
                acknowledged += spool.trim(Ack(epoch=spool.epoch, seq=batch[-1].seq))
        else:
            spool.close()
            spool = opened(path, most_bytes=100_000)
    spool.append(maker())
    rest = spool.oldest(most=10_000, most_bytes=10**9)
    told += sum(sum(sample.dropped.values()) for sample in rest)
    unsaid = appended + 1 - acknowledged - len(rest) - told
    spool.append(maker())
    final = spool.oldest(most=10_000, most_bytes=10**9)[-1]
    assert unsaid <= sum(final.dropped.values())
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


def test_a_disk_that_takes_no_more_is_transient_and_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.db", most_bytes=100_000)
    with pytest.raises(Transient):
        spool.append(maker(5_000_000))
    sample, _ = spool.append(maker())
    assert sample.dropped == {STORAGE: 1}
    spool.close()


def test_a_batch_is_bounded_in_bytes_and_has_at_least_one(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool.db")
    for _ in range(4):
        spool.append(maker(1000))
    assert len(spool.oldest(most=10, most_bytes=10)) == 1
    assert len(spool.oldest(most=10, most_bytes=2600)) == 2
    assert len(spool.oldest(most=3, most_bytes=10**9)) == 3
    spool.close()
