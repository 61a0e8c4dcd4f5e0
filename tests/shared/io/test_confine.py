"""What a confined process can still do, seen from inside one; and the filter's verdicts on both machines, by running its program."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.io.confine import memory_left
from shared.io.confine_syscalls import _MACHINES, ALLOW, REFUSE, REFUSED, UNKNOWN, filter_of
from shared.protocol.reported import Isolation

ROOT = Path(__file__).parents[3]
INSIDE = """
import ctypes, json, os, socket, subprocess, sys, threading
from shared.io import confine
from shared.protocol.reported import Isolation

port, unix, folder, ways = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4].split(",")
isolation = confine.detach(parent=os.getppid(), ways=[Isolation(way) for way in ways if way])
open_file = os.path.join(folder, "kept")

def forked():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

def threaded():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()

def written():
    with open(os.path.join(folder, "new"), "wb", buffering=0) as file:
        file.write(b"x")

def connected():
    one = socket.socket(socket.AF_UNIX)
    one.connect(unix)

def can(work):
    try:
        work()
    except (OSError, RuntimeError) as error:
        return False
    return True

told = {
    "isolation": isolation,
    "tcp": can(lambda: socket.create_connection(("127.0.0.1", port), timeout=5)),
    "udp": can(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))),
    "unix": can(connected),
    "fork": can(forked),
    "exec": can(lambda: subprocess.run(["true"], check=True)),
    "signal": can(lambda: os.kill(os.getppid(), 0)),
    "write": can(written),
    "thread": can(threaded),
    "read": can(lambda: open(open_file).read()),
    "pair": can(lambda: socket.socketpair()),
    "privileges": json.dumps(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)),
    "limits": [__import__("resource").getrlimit(which)[0] for which in (4, 1, 7)],
    "oom": int(open("/proc/self/oom_score_adj").read()),
    "nice": os.nice(0),
}
print(json.dumps(told))
"""


def inside(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip


@pytest.fixture
def told(tmp_path):
    """What a process that detached in the given ways says of itself, beside servers on TCP and a Unix socket."""
    (tmp_path / "kept").write_text("x")
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(tmp_path / "s"))
        unix.listen()

        def ask(*ways):
            port = str(tcp.getsockname()[1])
            done = inside(INSIDE, port, str(tmp_path / "s"), str(tmp_path), ",".join(ways))
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        yield ask


def test_nothing_is_reached_started_or_written(told):
    found = told(Isolation.NAMESPACE, Isolation.SECCOMP)
    assert found["isolation"] in ("namespace", "seccomp")
    for what in ("tcp", "udp", "unix", "fork", "exec", "signal", "write"):
        assert not found[what], what
    for what in ("thread", "read", "pair"):
        assert found[what], what
    assert found["limits"] == [0, 0, 256]
    assert found["privileges"] == "1"
    assert (found["oom"], found["nice"]) == (1000, min(19, os.nice(0) + 10))


def test_without_namespaces_the_filter_does_it(told):
    found = told(Isolation.SECCOMP)
    assert found["isolation"] == "seccomp"
    assert not any(found[what] for what in ("tcp", "udp", "unix", "fork", "exec", "signal"))


def test_what_is_not_there_is_not_claimed(told):
    found = told()
    assert found["isolation"] == "none"
    assert found["tcp"]
    assert found["fork"]
    assert not found["write"]


def test_a_namespace_alone_keeps_the_network_away(told):
    found = told(Isolation.NAMESPACE)
    if found["isolation"] == "none":
        assert found["tcp"]
    else:
        assert not found["tcp"]
        assert not found["udp"]


def test_memory_and_processor_time_are_bounded():
    script = """
import os, sys
from shared.io import confine
confine.detach(parent=os.getppid())
confine.bound(memory_bytes=64 << 20, cpu_seconds=1)
assert bytearray(16 << 20)
try:
    bytearray(128 << 20)
except MemoryError:
    print("no more", flush=True)
while True:
    pass
"""
    done = inside(script)
    assert done.stdout == "no more\n", done.stderr
    assert done.returncode == -signal.SIGXCPU


def test_it_ends_with_its_parent_and_not_without_one():
    script = "import os, sys; from shared.io import confine; confine.detach(parent=1 if os.getppid() != 1 else 2); print('on')"
    done = inside(script)
    assert (done.returncode, done.stdout) == (1, "")
    # The child in between starts a confined one that would wait for ever, says so, and dies.
    reader, writer = os.pipe()
    between = f"""
import os, subprocess, sys
child = '''
import os, sys, time
from shared.io import confine
confine.detach(parent=int(sys.argv[1]))
os.write({writer}, b"here")
time.sleep(1000)
'''
subprocess.Popen([sys.executable, "-c", child, str(os.getpid())], pass_fds=[{writer}])
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", between], stdin=subprocess.PIPE, pass_fds=[writer], cwd=ROOT, start_new_session=True
    )
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        assert pipe.read(4) == b"here"
        process.kill()
        assert pipe.read() == b""
    process.communicate()


MEMINFO = "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable: 4000 kB\n"


@pytest.mark.parametrize(
    ("group", "files", "left"),
    [
        ("0::/\n", {}, 4_096_000),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "5"}, 4_096_000),
        (
            "0::/a.slice/b\n",
            {
                "sys/fs/cgroup/a.slice/b/memory.max": "1000000",
                "sys/fs/cgroup/a.slice/b/memory.current": "900000",
                "sys/fs/cgroup/a.slice/b/memory.stat": "anon 1\ninactive_file 50000\nactive_file 7\n",
            },
            150_007,
        ),
        (
            "3:cpu,cpuacct:/x\n4:memory:/docker/y\n",
            {
                "sys/fs/cgroup/memory/docker/y/memory.limit_in_bytes": "2000000\n",
                "sys/fs/cgroup/memory/docker/y/memory.usage_in_bytes": "2500000\n",
                "sys/fs/cgroup/memory/docker/y/memory.stat": "cache 5\n",
            },
            0,
        ),
    ],
    ids=["no-group", "no-limit", "version-2", "version-1"],
)
def test_what_memory_is_left(tmp_path, group, files, left):
    for name, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": group, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_left(tmp_path) == left


def test_there_is_memory_left_here():
    assert 0 < memory_left() < 1 << 50


def verdict(code: bytes, *, audit: int, number: int, first: int) -> int:
    """What the kernel would answer: the filter's program, run."""
    data = struct.pack("<IIQQQQQQQ", number, audit, 0, first, 0, 0, 0, 0, 0)
    steps = list(struct.iter_unpack("<HBBI", code))
    at, held = 0, 0
    while True:
        operation, yes, no, value = steps[at]
        at += 1
        if operation == 0x20:
            held = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[operation]
            at += yes if holds else no


CLONE = {"x86_64": 56, "aarch64": 220}
TGKILL = {"x86_64": 234, "aarch64": 131}
THREAD = 0x3D0F00


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_on_both_machines(machine):
    audit = _MACHINES[machine].audit
    code = filter_of(machine, 77)

    def says(number, first=0, audit=audit):
        return verdict(code, audit=audit, number=number, first=first)

    for name, numbers in REFUSED.items():
        assert says(numbers[machine == "aarch64"]) == REFUSE, name
    assert says(CLONE[machine], first=17) == REFUSE
    assert says(CLONE[machine], first=THREAD) == ALLOW
    assert says(435) == UNKNOWN
    assert (says(TGKILL[machine], first=77), says(TGKILL[machine], first=78)) == (ALLOW, REFUSE)
    assert says(0, audit=audit ^ 1) == REFUSE
    if machine == "x86_64":
        assert [says(57), says(58), says(0x40000000), says(0x40000029)] == [REFUSE] * 4


@given(st.integers(min_value=0, max_value=0x3FFFFFFF), st.integers(min_value=0, max_value=(1 << 64) - 1))
def test_the_filter_allows_what_it_does_not_name(number, first):
    for machine, known in _MACHINES.items():
        if number not in (*known.refused, 435, CLONE[machine], TGKILL[machine]):
            assert verdict(filter_of(machine, 77), audit=known.audit, number=number, first=first) == ALLOW


def test_no_filter_for_a_machine_it_is_not_written_for():
    assert filter_of("riscv64", 1) is None
