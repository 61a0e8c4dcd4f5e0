"""The supervisor's own promises, with real processes; children are small programs on the same `Program` as the real ones."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from cloud_core.supervisor import STATE_FILE, ChildState, SupervisorState
from shared.io.free_ports import find_ports
from tests.cloud_core.waiting import wait_for

CHILD = """
import os, sys
from pathlib import Path
from aiohttp import web
from cloud_core.announced import announce
from shared.io import logs
from shared.io.program import Program, execute, lifeline_of
from shared.io.web import Site

name, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])

async def main():
    log = logs.build(name)
    site = Site()
    actual = await site.start(web.Application(), host="127.0.0.1", port=port)
    announce(folder / "run", name=name, url=f"http://127.0.0.1:{actual}", at=0.0)
    program = Program(log)
    async def goodbye():
        with (folder / "stops").open("a") as file:
            file.write(name + "\\n")
    program.on_stop("goodbye", goodbye)
    program.on_stop("close", site.close)
    await program.run(lifeline=lifeline_of(dict(os.environ)))

execute(main)
"""

SUPERVISOR = """
import os, sys
from pathlib import Path
from cloud_core.decide.restart import Limits
from cloud_core.supervisor import ChildSpec, Supervisor
from shared.io import logs
from shared.io.clock import SystemClock
from shared.io.durable import FolderLock
from shared.io.program import Program, execute

data, child, ports = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]

async def main():
    log = logs.build("supervisor")
    with FolderLock(data, field="data_dir"):
        names = ("broker", "gateway", "loops")
        specs = [
            ChildSpec(n, (sys.executable, child, n, ports[i], str(data)), start=int(i > 0), stop=(2, 0, 1)[i], grace=5.0)
            for i, n in enumerate(names)
        ]
        specs.append(ChildSpec("crasher", (sys.executable, "-c", "raise SystemExit(7)"), start=1, announces=False))
        limits = Limits(first=0.05, longest=0.2, stable=20.0)
        supervisor = Supervisor(
            specs, data=data, environment=dict(os.environ), log=log, clock=SystemClock(), limits=limits
        )
        await supervisor.clear_leftovers()
        program = Program(log)
        for spec in specs:
            program.task(spec.name, lambda spec=spec: supervisor.run_child(spec))
        program.task("state", supervisor.keep_state)
        for stage in supervisor.stop_stages:
            timeout = supervisor.stage_timeout(stage)
            program.on_stop(f"stage {stage}", lambda stage=stage: supervisor.stop(stage), timeout=timeout)
        await program.run()

execute(main)
"""


class Machine:
    """A data folder, three ports, and the supervisors started on them."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        self.child = folder / "child.py"
        self.child.write_text(CHILD)
        first = find_ports("127.0.0.1", 3)
        self.ports = list(range(first, first + 3))
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", SUPERVISOR, str(self.data), str(self.child), *map(str, self.ports)]
        with (self.data.parent / "log").open("ab") as log:
            process = subprocess.Popen(argv, stderr=log, stdout=log)
        self.started.append(process)
        return process

    def log(self) -> str:
        return (self.data.parent / "log").read_text()

    def children(self, pid: int, *names: str) -> dict[str, ChildState] | None:
        """Children as the supervisor `pid` wrote them, once all of `names` listen."""
        try:
            state = msgspec.json.decode((self.data / STATE_FILE).read_bytes(), type=SupervisorState)
        except OSError:
            return None
        found = state.children
        return found if state.pid == pid and all(found[name].url for name in names) else None


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_restart_orderly_stop_and_the_crash_loop_backs_off(machine: Machine) -> None:
    supervisor = machine.start()
    names = ("broker", "gateway", "loops")
    before = wait_for(lambda: machine.children(supervisor.pid, *names))
    assert [before[name].url for name in names] == [f"http://127.0.0.1:{port}" for port in machine.ports]

    killed = before["gateway"].pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)

    def restarted() -> ChildState | None:
        found = machine.children(supervisor.pid, "gateway")
        return found["gateway"] if found and found["gateway"].pid != killed else None

    after = wait_for(restarted)
    assert after.restarts == 1
    assert after.last_exit == -signal.SIGKILL
    assert after.url == before["gateway"].url

    wait_for(lambda: (machine.children(supervisor.pid) or before)["crasher"].restarts >= 3)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 0
    assert (machine.data / "stops").read_text().split() == ["gateway", "loops", "broker"]
    assert '"reason": "backing-off"' in machine.log()
    assert '"status": 7' in machine.log()


def test_no_child_outlives_a_killed_supervisor_and_the_next_takes_the_same_ports(machine: Machine) -> None:
    names = ("broker", "gateway", "loops")
    first = machine.start()
    old = wait_for(lambda: machine.children(first.pid, *names))
    # One child does not notice that its supervisor is gone: the next one has to see to it.
    stuck = old["loops"].pid
    assert stuck is not None
    os.kill(stuck, signal.SIGSTOP)
    first.kill()
    first.wait()
    wait_for(lambda: all(gone(old[name].pid or 0) for name in ("broker", "gateway")))
    os.kill(stuck, signal.SIGCONT)

    second = machine.start()
    new = wait_for(lambda: machine.children(second.pid, *names))
    assert gone(stuck)
    assert {name: new[name].url for name in names} == {name: old[name].url for name in names}
    assert not {new[name].pid for name in names} & {old[name].pid for name in names}


def test_two_supervisors_never_share_a_data_folder(machine: Machine) -> None:
    first = machine.start()
    wait_for(lambda: machine.children(first.pid, "broker"))
    second = machine.start()
    assert second.wait(20) != 0
    assert "the folder is in use by process" in machine.log()
    assert first.poll() is None
