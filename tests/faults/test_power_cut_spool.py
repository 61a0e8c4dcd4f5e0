"""Power cuts inside the telemetry ring: every write and fsync of SQLite and of the ledger can be the last, on ext4."""

import itertools
import shutil

import pytest

from edge_agent.telemetry.spool import Spool
from tests.edge_agent.telemetry.test_spool import maker, waiting
from tests.faults import ext4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ext4.why_not() is not None, reason=str(ext4.why_not())),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
LAST = 4
WRITER = """
import sys
from pathlib import Path
from edge_agent.telemetry.spool import Spool
from shared.protocol.errors import Transient
from shared.protocol.telemetry import Ack
from tests.edge_agent.telemetry.test_spool import TOO_MUCH, maker

spool = Spool(Path(sys.argv[1]) / "telemetry.db", most_bytes=100_000, new_epoch=lambda: 2)
print("open", flush=True)
for _ in range(2):
    print("appended", spool.append(maker(1000))[0].seq, flush=True)
batch = spool.oldest(most=1, most_bytes=10**9)
print("sent", flush=True)
spool.trim(Ack(epoch=batch.epoch, seq=batch.samples[-1].seq))
print("trimmed", batch.samples[-1].seq, flush=True)
try:
    spool.append(maker(TOO_MUCH))
except Transient:
    print("not taken", flush=True)
print("appended", spool.append(maker(1000))[0].seq, flush=True)
spool.close()
print("closed", flush=True)
"""
FILES = ("telemetry.db", "telemetry.db-wal", "telemetry.db-journal", "telemetry.db.lost")


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync,fsync"])
def test_every_call_can_be_the_last(quick_folder, call):
    with ext4.disk(quick_folder / "image") as disk:
        spool = Spool(disk.root / "agent" / "telemetry.db", most_bytes=100_000, new_epoch=lambda: 1)
        spool.append(maker(1000))
        spool.close()
    image, died = disk.image.read_bytes(), 0
    for n in itertools.count(1):
        assert n < 200
        done, left = ext4.killed_at(image, quick_folder, WRITER, files=FILES, call=call, n=n)
        said = done.stdout.split("\n")
        appended = [1, *(seq for seq in range(2, LAST + 1) if f"appended {seq}" in said)]
        with ext4.after(left, quick_folder) as root:
            spool = Spool(root / "agent" / "telemetry.db", most_bytes=100_000, new_epoch=lambda: 3)
            held = {sample.seq for sample in waiting(spool)}
            # What was said to be durable is there, except what the cloud has; and at most the one that was under way besides.
            gone = {1} if "sent" in said else set()
            assert set(appended) - gone <= held, n
            assert held <= set(range(1, max(appended) + 2)), n
            assert "trimmed 1" not in said or 1 not in held, n
            sample, _ = spool.append(maker(10))
            assert sample.seq not in held, n
            assert sample.seq > max(appended), n
            told = [*(each.dropped for each in waiting(spool))]
            lost = {reason: sum(each.get(reason, 0) for each in told) for each in told for reason in each}
            assert set(lost) <= {"crash", "storage"}, n
            assert "not taken" not in said or lost["storage"] == 1, n
            assert "open" not in said or "closed" in said or lost["crash"] == 1, n
            spool.close()
        if "closed" in said:
            break
        died += 1
    assert died >= 3
