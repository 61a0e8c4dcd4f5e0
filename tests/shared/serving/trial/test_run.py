"""A parent and children that do their worst: whatever they do, there is a verdict, in time, and nothing of them is left."""

import asyncio
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from shared.protocol.errors import Corrupt, Transient
from shared.protocol.reported import Isolation
from shared.serving.trial.process import ENVIRONMENT, MAX_SAID
from shared.serving.trial.run import isolation_here, passed, try_bundle
from shared.serving.trial.verdict import Died, Passed, TrialLimits, TrialRequest

HELLO = "import os, sys, time, signal; os.write(1, b'\"seccomp\"\\n')\n"
PASSED = b'{"type":"passed","isolation":"seccomp"}\\n'


def tried(script, *, seconds=30.0):
    """What the parent makes of a child that runs `script`."""
    request = TrialRequest(folder="/nowhere", variant="cpu", limits=TrialLimits(seconds=seconds))
    return asyncio.run(try_bundle(request, program=(sys.executable, "-S", "-c", HELLO + script)))


def test_a_verdict_is_heard():
    assert tried(f"os.write(1, b'{PASSED.decode()}')") == Passed(isolation=Isolation.SECCOMP)


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "SIGSEGV"),
        ("os.abort()", "crashed", "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGFPE)", "crashed", "SIGFPE"),
        ("os.write(2, b'terminate called: std::bad_alloc'); os.abort()", "too-large", "memory"),
        ("os.write(2, b'memory allocation of 160000000000 bytes failed'); os.abort()", "too-large", "memory"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "too-slow", "processor time"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "too-large", "kernel"),
        ("sys.exit(3)", "crashed", "status 3"),
        ("sys.exit(0)", "crashed", "no verdict"),
        ("raise RuntimeError('what\\x1b[31m now')", "crashed", "RuntimeError: what [31m now"),
        ("os.write(1, b'nonsense\\n')", "crashed", "no verdict"),
        ("os.write(1, b'[' * 100000 + b'\\n')", "crashed", "no verdict"),
        ('os.write(1, b\'{"type":"passed","isolation":"magic"}\\n\')', "crashed", "no verdict"),
        (f"os.write(1, b'{PASSED.decode()}'); os.abort()", "crashed", "SIGABRT"),
        (f"os.write(1, b'{PASSED.decode()}'); sys.exit(1)", "crashed", "status 1"),
        ("\nwhile True: os.write(1, b'x' * 65536)", "crashed", "more than a trial says"),
        ("os.close(1)\nwhile True: time.sleep(60)", "crashed", "went on without a word"),
    ],
)
def test_every_death_has_a_name(script, code, words):
    died = tried(script)
    assert isinstance(died, Died), died
    assert (died.code, died.isolation) == (code, Isolation.SECCOMP)
    assert words in died.message


def test_what_it_complains_of_is_bounded_and_never_waited_for():
    died = tried(
        "os.set_blocking(2, False)\ntry:\n while True: os.write(2, b'noise' * 9999)\nexcept OSError: sys.exit(4)"
    )
    assert (died.code, "status 4" in died.message, len(died.message) < 500) == ("crashed", True, True)


@pytest.mark.parametrize(
    "script", ["time.sleep(1000)", "\nwhile True: pass", "signal.signal(15, signal.SIG_IGN); time.sleep(1000)"]
)
def test_who_takes_too_long_is_ended(script):
    began = time.monotonic()
    died = tried(script, seconds=1.0)
    assert (died.code, died.message) == ("too-slow", "it takes longer than 1 s")
    assert time.monotonic() - began < 30


def test_what_it_started_ends_with_it(tmp_path):
    """Children of its group, and one that left it and holds the pipes: nobody waits for that one."""
    note = tmp_path / "pids"
    script = f"""
kept = os.fork()
if kept == 0:
    time.sleep(1000)
left = os.fork()
if left == 0:
    os.setsid()
    time.sleep(15)
    os._exit(0)
open({str(note)!r}, "w").write(f"{{os.getpid()}} {{kept}} {{left}}")
os.write(1, b'{PASSED.decode()}')
os._exit(0)
"""
    died = tried(script, seconds=3.0)
    # It ended and its pipe did not: a process of its own held it open, so there is no telling who spoke.
    assert died.code == "too-slow"
    own, kept, left = map(int, note.read_text().split())
    for pid in (own, kept):
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    os.kill(left, 9)


def test_nothing_of_the_parents_environment_is_inherited(monkeypatch, tmp_path):
    monkeypatch.setenv("CLOUD_CORE_ADMIN_PASSWORD", "hunter2")
    monkeypatch.setenv("EDGE_AGENT_ENROL_TOKEN", "hunter3")
    died = tried("sys.stderr.write(repr(sorted(os.environ)) + os.getcwd()); sys.exit(9)")
    assert set(ENVIRONMENT) | {"PYTHONPATH"} == {name for name in (*ENVIRONMENT, "PYTHONPATH") if name in died.message}
    assert "CLOUD_CORE" not in died.message
    assert "EDGE_AGENT" not in died.message
    assert died.message.endswith("]/")


def test_no_file_of_the_parents_is_open_in_it(tmp_path):
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), False)
        died = tried("sys.stderr.write(' '.join(sorted(os.listdir('/proc/self/fd')))); sys.exit(9)")
    assert died.message.endswith("0 1 2 3")


def test_cancelling_ends_it(tmp_path):
    note = tmp_path / "pid"

    async def main():
        script = HELLO + f"open({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)"
        request = TrialRequest(folder="/nowhere", variant="cpu")
        task = asyncio.create_task(try_bundle(request, program=(sys.executable, "-S", "-c", script)))
        while not (note.exists() and note.read_text()):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not psutil.pid_exists(int(note.read_text()))


def test_a_program_that_is_not_there():
    with pytest.raises(Transient, match="cannot be started"):
        asyncio.run(try_bundle(TrialRequest(folder="/", variant="cpu"), program=("/nowhere/python",)))


def test_the_request_may_be_large_and_is_read_by_nobody():
    request = TrialRequest(folder="/", variant="cpu", manifest="x" * (4 << 20))
    died = asyncio.run(try_bundle(request, program=(sys.executable, "-S", "-c", HELLO)))
    assert died.code == "crashed"
    assert len(request.manifest) > MAX_SAID


def test_many_at_once_leave_no_zombies():
    async def main():
        request = TrialRequest(folder="/", variant="cpu")
        script = (sys.executable, "-S", "-c", HELLO + "os.abort()")
        return await asyncio.gather(*(try_bundle(request, program=script) for _ in range(20)))

    assert {died.code for died in asyncio.run(main())} == {"crashed"}
    assert psutil.STATUS_ZOMBIE not in {child.status() for child in psutil.Process().children()}


def test_the_isolation_of_this_machine():
    found = asyncio.run(isolation_here())
    assert found is not Isolation.NONE or not Path("/proc/self/ns/net").exists()


def test_only_what_passed_may_be_loaded():
    assert passed(Passed(isolation=Isolation.NONE)).measured == {}
    with pytest.raises(Corrupt) as caught:
        passed(Died(isolation=Isolation.NONE, code="too-slow", message="it takes longer"))
    assert (caught.value.code, caught.value.message) == ("too-slow", "it takes longer")
