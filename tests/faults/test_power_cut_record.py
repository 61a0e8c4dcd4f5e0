"""Power cuts inside the agent's record: SQLite's own writes and fsyncs, which no hook in Python sees, cut by strace on ext4."""

import shutil

import pytest

from edge_agent.control.state import AgentState, Slot
from tests.edge_agent.control.generations import generation, signed
from tests.faults import ext4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(ext4.why_not() is not None, reason=str(ext4.why_not())),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
LAST = 2
WRITER = f"""
import sys
from pathlib import Path
from edge_agent.control.state import AgentState
from tests.edge_agent.control.generations import generation, signed

state = AgentState(Path(sys.argv[1]))
print("open", flush=True)
for number in range(2, {LAST} + 1):
    state.accept(signed(generation(number)))
    print("accepted", number, flush=True)
    state.begin(generation(number).order, "load", "subject")
    state.apply(signed(generation(number)))
    print("applied", number, flush=True)
state.close()
print("closed", flush=True)
"""


FILES = ("", "agent.db", "agent.db-wal", "agent.db-journal")
"""The folder itself too: names come and go in it."""


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync,fsync", "ftruncate,unlink"])
def test_every_call_of_the_database_can_be_the_last(quick_folder, call):
    with ext4.disk(quick_folder / "image") as disk:
        state = AgentState(disk.root / "agent")
        state.accept(signed(generation(1)))
        state.apply(signed(generation(1)))
        state.close()
    image, died = disk.image.read_bytes(), 0
    for n in range(1, 200):
        done, left = ext4.killed_at(image, quick_folder, WRITER, files=FILES, call=call, n=n)
        said = done.stdout.split("\n")
        accepted = max((number for number in range(2, LAST + 1) if f"accepted {number}" in said), default=1)
        applied = max((number for number in range(2, LAST + 1) if f"applied {number}" in said), default=1)
        with ext4.after(left, quick_folder) as root:
            state = AgentState(root / "agent")
            assert state.recovered is None, n
            assert accepted <= state.floor("default", "edge-1").number <= accepted + 1, n
            assert state.generation(Slot.ACCEPTED).number == state.floor("default", "edge-1").number
            assert applied <= state.generation(Slot.APPLIED).number <= applied + 1, n
            state.close()
        if "closed" in said:
            break
        died += 1
    assert died >= 1  # `ftruncate` only comes with the end
