"""What memory a process may have, and that what it frees is really given back."""

import subprocess
import sys

import pytest

from shared.io.memory import Heap, memory_limit

MEMINFO = "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable: 4000 kB\n"
MACHINE = 8_192_000


@pytest.mark.parametrize(
    ("group", "files", "limit"),
    [
        ("0::/\n", {}, MACHINE),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n"}, MACHINE),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "1000000\n"}, 1_000_000),
        ("0::/a.slice/b\n", {"sys/fs/cgroup/a.slice/b/memory.max": "2000000\n"}, 2_000_000),
        (
            "0::/a.slice/b\n",
            {"sys/fs/cgroup/a.slice/b/memory.max": "max\n", "sys/fs/cgroup/a.slice/memory.max": "3000000\n"},
            3_000_000,
        ),
        ("0::/a\n", {"sys/fs/cgroup/a/memory.max": "99999999999\n"}, MACHINE),
        (
            "3:cpu,cpuacct:/x\n4:memory:/docker/y\n0::/\n",
            {"sys/fs/cgroup/memory/docker/y/memory.limit_in_bytes": "4000000\n"},
            4_000_000,
        ),
        # In a container the path is the host's.
        (
            "4:memory:/docker/y\n",
            {"sys/fs/cgroup/memory/memory.limit_in_bytes": "5000000\n"},
            5_000_000,
        ),
        ("0::/../../other\n", {"sys/fs/cgroup/memory.max": "6000000\n"}, 6_000_000),
    ],
    ids=["none", "max", "container-2", "nested", "ancestor", "above-machine", "version-1", "container-1", "outside"],
)
def test_the_least_of_the_machine_and_its_groups(tmp_path, group, files, limit):
    for name, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": group, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit(tmp_path) == limit


FREED = """
from shared.io.memory import Heap
heap = Heap()
before = heap.resident()
# Small blocks with one kept at the end: the C library keeps them all until it is asked.
blocks = [bytearray(1000) for _ in range(60_000)]
kept = bytearray(1000)
grown = heap.resident() - before
del blocks
heap.trim()
print(grown, heap.resident() - before, heap.trims)
"""


def test_what_is_freed_is_given_back():
    """In a process of its own: the heap of this one is full of other tests."""
    ended = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True, timeout=60)
    grown, left, trims = ended.stdout.split()
    if trims != "True":
        pytest.skip("this C library gives nothing back")
    assert int(grown) > 50_000_000
    assert int(left) < int(grown) / 4


LOADED = """
import ctypes
from shared.io.memory import Heap
heap, libc = Heap(), ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def freed_at_once():
    # Warm, so that the C library has adapted to blocks of this size.
    for _ in range(3):
        libc.free(libc.malloc(20 << 20))
    held, last = libc.malloc(20 << 20), libc.malloc(1 << 10)
    ctypes.memset(held, 1, 20 << 20)
    full = heap.resident()
    libc.free(held)
    given = full - heap.resident()
    libc.free(last)
    return given
with heap.loading():
    inside = freed_at_once()
outside = freed_at_once()
print(outside, inside, heap.trims)
"""


def test_while_a_program_is_loaded_large_blocks_go_back_the_moment_they_are_freed():
    ended = subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True, text=True, timeout=60)
    outside, inside, trims = ended.stdout.split()
    if trims != "True":
        pytest.skip("this C library gives nothing back")
    assert int(inside) > 15 << 20
    assert int(outside) < 5 << 20


def test_resident_is_this_process_s():
    assert 10 << 20 < Heap().resident() < 1 << 40
