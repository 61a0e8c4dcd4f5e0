"""What of a processor this process may use: the smallest of what it may run on and what its groups pay for."""

import os

import pytest

from shared.io.processor import cores, processor

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512_bf16 sse\n\nprocessor\t: 1\nflags\t\t: amx_int8\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp bf16\n"


def machine(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_model_and_features(tmp_path):
    assert processor(machine(tmp_path / "x", {"proc/cpuinfo": X86})) == ("Some CPU", ("avx2", "avx512_bf16"))
    assert processor(machine(tmp_path / "a", {"proc/cpuinfo": ARM})) == ("", ("asimd", "asimddp", "bf16"))
    assert processor(tmp_path / "nothing").features == ()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 2),
        ({"proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/p\n", "sys/fs/cgroup/cpu/p/cpu.cfs_quota_us": "400000\n", "sys/fs/cgroup/cpu/p/cpu.cfs_period_us": "100000\n"}, 4),
        ({"proc/self/cgroup": "3:cpu:/p\n", "sys/fs/cgroup/cpu/p/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/p/cpu.cfs_period_us": "100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
    ],
)  # fmt: skip
def test_cores(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert cores(machine(tmp_path, files)) == expected


def test_here():
    assert 1 <= cores() <= len(os.sched_getaffinity(0))
