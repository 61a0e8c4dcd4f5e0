import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.control.state import AgentState, Slot
from shared.protocol.desired import Order
from shared.protocol.errors import Refused, Transient
from tests.edge_agent.control.generations import generation, ref, signed

DIGEST = "d" * 64


@pytest.fixture
def state(tmp_path):
    opened = AgentState(tmp_path)
    yield opened
    opened.close()


def reopened(state):
    state.close()
    return AgentState(state.path.parent)


def test_what_was_written_is_there_after_a_restart(state):
    one, two = signed(generation(1, ref(DIGEST))), signed(generation(2))
    state.accept(one)
    state.apply(one)
    state.accept(two)
    state.apply(two)
    state.apply(two)
    again = reopened(state)
    assert again.recovered is None
    assert again.signed(Slot.ACCEPTED) == again.signed(Slot.APPLIED) == two
    assert again.signed(Slot.PREVIOUS) == one
    assert again.generation(Slot.PREVIOUS).order == Order(1, 1)
    assert again.floor("default", "edge-1") == Order(1, 2)
    assert again.floor("default", "edge-2") is None
    again.close()


def test_it_is_written_so_that_a_power_cut_keeps_it(state):
    assert state._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert state._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_the_floor_never_falls(state):
    state.accept(signed(generation(7, epoch=2)))
    state.accept(signed(generation(9, epoch=1)))
    assert state.floor("default", "edge-1") == Order(2, 7)
    for statement in (
        "DELETE FROM floors",
        "UPDATE floors SET number = 1",
        "UPDATE floors SET epoch = 1, number = 99",
        "UPDATE floors SET device = 'other'",
        "INSERT OR REPLACE INTO floors VALUES ('default', 'edge-1', 0, 0)",
    ):
        state._db.execute("PRAGMA recursive_triggers = ON")
        with pytest.raises(sqlite3.IntegrityError):
            state._db.execute(statement)
    state._db.execute("DELETE FROM generations")
    again = reopened(state)
    assert again.floor("default", "edge-1") == Order(2, 7)
    again.close()


def test_epochs_and_sequences_only_rise(state):
    first = [state.next_epoch(), state.next_epoch(), state.next_seq("reported")]
    again = reopened(state)
    assert first == [1, 2, 1]
    assert [again.next_epoch(), again.next_seq("reported")] == [3, 2]
    again.close()


def test_a_new_record_counts_from_where_it_is_told(tmp_path):
    state = AgentState(tmp_path, first=1_700_000_000)
    assert state.next_epoch() == 1_700_000_001
    assert state.next_epoch() == 1_700_000_002
    state.close()
    later = AgentState(tmp_path, first=1_800_000_000)
    assert later.next_epoch() == 1_800_000_001
    later.close()
    back = AgentState(tmp_path, first=5)
    assert back.next_epoch() == 1_800_000_002
    back.close()


def test_attempts_count_up_through_restarts(state):
    assert state.begin(Order(1, 1), "load", DIGEST).attempts == 1
    again = reopened(state)
    assert again.intent().attempts == 1
    assert again.begin(Order(1, 1), "load", DIGEST).attempts == 2
    assert again.begin(Order(1, 2), "load", DIGEST).attempts == 1
    again.finish()
    assert again.intent() is None
    again.close()


def test_failures_are_counted_until_a_new_generation_or_success(state):
    of, other = generation(1, ref(DIGEST)), "e" * 64
    state.accept(signed(of))
    state.begin(of.order, "load", DIGEST)
    state.fail(f"{DIGEST}-cpu-int8", "broken")
    state.crash(f"{DIGEST}-cpu-int8", "died")
    state.fail(other, "gone")
    assert state.intent() is None
    failure = state.failures()[f"{DIGEST}-cpu-int8"]
    assert (failure.failed, failure.crashed, failure.error) == (1, 1, "died")
    state.forgive(of)
    assert set(state.failures()) == {other}
    state.fail(DIGEST, "broken")
    state.apply(signed(of))
    assert set(state.failures()) == {other}
    state.accept(signed(generation(2)))
    assert state.failures() == {}


@pytest.mark.parametrize("place", [0, 18, 4096, 8192])
def test_a_broken_file_is_moved_aside_and_the_agent_starts_anew(state, tmp_path, place):
    state.accept(signed(generation(5, ref(DIGEST))))
    state._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    state.close()
    data = bytearray(state.path.read_bytes())
    data[place : place + 32] = b"\xa5" * 32
    state.path.write_bytes(data)
    again = AgentState(tmp_path, first=100)
    assert again.recovered is not None
    assert again.recovered.read_bytes()[place : place + 8] == b"\xa5" * 8
    assert again.floor("default", "edge-1") is None
    assert again.signed(Slot.ACCEPTED) is None
    assert again.next_epoch() == 101
    again.accept(signed(generation(1)))
    once_more = reopened(again)
    assert once_more.recovered is None
    assert once_more.floor("default", "edge-1") == Order(1, 1)
    once_more.close()


def test_a_file_that_is_no_database_is_moved_aside_each_time_to_another_name(tmp_path):
    for number in (1, 2):
        (tmp_path / "agent.db").write_text("not a database, however you look at it" * 100)
        state = AgentState(tmp_path)
        assert state.recovered.name == f"agent.db.corrupt-{number}"
        state.close()


def test_missing_tables_are_no_crash_loop(state, tmp_path):
    state._db.execute("DROP TABLE failures")
    state.close()
    again = AgentState(tmp_path)
    assert again.recovered is not None
    assert again.failures() == {}
    again.close()


def test_a_newer_agents_record_is_refused_untouched(state):
    state._db.execute("PRAGMA user_version = 2")
    state._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    state.close()
    before = state.path.read_bytes()
    with pytest.raises(Refused) as caught:
        AgentState(state.path.parent)
    assert caught.value.field == "state_dir"
    assert state.path.read_bytes() == before


def test_a_full_disk_is_transient_and_changes_nothing(state):
    state.accept(signed(generation(1)))
    state._db.execute(f"PRAGMA max_page_count = {state._db.execute('PRAGMA page_count').fetchone()[0]}")
    big = generation(2, *(ref(f"{i:064x}", version=f"1.0.{i}") for i in range(3000)))
    with pytest.raises(Transient):
        state.accept(signed(big))
    assert state.floor("default", "edge-1") == Order(1, 1)
    assert state.generation(Slot.ACCEPTED).number == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from edge_agent.control.state import AgentState
from tests.edge_agent.control.generations import generation, signed

state = AgentState(Path(sys.argv[1]))
print(state.next_epoch(), flush=True)
for number in range(1, 1000):
    state.accept(signed(generation(number)))
    print(number, flush=True)
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_nothing_that_was_said_to_be_done(tmp_path):
    said = []
    for start in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, cwd=Path.cwd(), check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        said = [int(line) for line in done.stdout.split()]
        assert said[0] == start
    state = AgentState(tmp_path)
    assert state.recovered is None
    assert state.floor("default", "edge-1") == Order(1, said[-1])
    state.close()


def on_probation(state):
    """Generations 1, committed, and 2, on probation."""
    one, two = signed(generation(1, ref(DIGEST))), signed(generation(2, ref("e" * 64)))
    for each, suspects in ((one, ()), (two, (f"{'e' * 64}-cpu",))):
        state.accept(each)
        state.apply(each, suspects)
    return one, two


def test_a_probation_ends_with_a_commit(state):
    one, two = on_probation(state)
    state.fail(f"{'e' * 64}-cpu", "once")
    assert state.on_probation() == (f"{'e' * 64}-cpu",)
    state.accept(signed(generation(3)))
    assert state.on_probation() == (f"{'e' * 64}-cpu",)
    state.commit()
    assert (state.on_probation(), state.failures()) == ((), {})
    assert (state.signed(Slot.APPLIED), state.signed(Slot.PREVIOUS)) == (two, one)
    state.roll_back(["never"], "too late")
    assert state.signed(Slot.APPLIED) == two


def test_a_probation_ends_with_the_generation_before_and_who_failed_twice_stays_known(state):
    one, _ = on_probation(state)
    again = reopened(state)
    again.roll_back([f"{'e' * 64}-cpu"], "it answers nonsense")
    assert (again.signed(Slot.APPLIED), again.signed(Slot.PREVIOUS)) == (one, None)
    assert set(again.failures()) == {"1.2", f"{'e' * 64}-cpu"}
    three = signed(generation(3, ref("e" * 64)))
    again.fail("f" * 64, "gone")
    again.accept(three)
    assert set(again.failures()) == {f"{'e' * 64}-cpu"}
    again.apply(three, [f"{'e' * 64}-cpu"])
    again.roll_back([f"{'e' * 64}-cpu"], "and again")
    again.accept(signed(generation(4, ref("e" * 64))))
    assert again.failures()[f"{'e' * 64}-cpu"].failed == 2
    again.close()


def test_the_third_start_within_a_probation_ends_it(state):
    one, two = on_probation(state)
    assert not state.began_on_probation(3, "")
    again = reopened(state)
    assert not again.began_on_probation(3, "")
    assert again.signed(Slot.APPLIED) == two
    assert again.began_on_probation(3, "died")
    assert again.signed(Slot.APPLIED) == one
    assert not again.began_on_probation(3, "died")
    again.close()


def test_what_is_still_on_probation_is_never_what_is_gone_back_to(state):
    one, _ = on_probation(state)
    three = signed(generation(3))
    state.accept(three)
    state.apply(three, ["s"])
    assert (state.signed(Slot.APPLIED), state.signed(Slot.PREVIOUS)) == (three, one)
    assert set(state.failures()) == {"1.3"}


def test_what_is_known_can_be_read_while_nothing_can_be_written(state):
    one, _ = on_probation(state)
    state._db.execute("PRAGMA query_only = 1")
    assert state.signed(Slot.PREVIOUS) == one
    assert state.floor("default", "edge-1") == Order(1, 2)
    assert (state.intent(), len(state.on_probation()), len(state.failures())) == (None, 1, 1)
    with pytest.raises(Transient):
        state.accept(signed(generation(3)))
