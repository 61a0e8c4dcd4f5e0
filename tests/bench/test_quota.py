import subprocess
import sys

import pytest

from bench.quota import PERIOD_US, NoQuotaError, Quota

BUSY = "import time\nspent = time.process_time() + 0.3\nwhile time.process_time() < spent: pass"


@pytest.fixture
def quota():
    try:
        with Quota("test", 0.2) as made:
            yield made
    except NoQuotaError as error:
        pytest.skip(f"no CPU quota can be set here: {error}")


def test_a_held_process_waits_for_its_next_period(quota):
    """0.3 s of processor time at a fifth of a core are 75 periods, and in each the kernel held it back."""
    with subprocess.Popen([sys.executable, "-c", "input()\n" + BUSY], stdin=subprocess.PIPE) as child:
        quota.hold(child.pid)
        assert str(child.pid) in (quota.folder / "cgroup.procs").read_text().split()
        child.communicate(b"\n", timeout=60)
        assert child.returncode == 0
    told = dict(line.split() for line in (quota.folder / "cpu.stat").read_text().splitlines())
    assert int(told["nr_throttled"]) > 10


def test_a_share_can_be_changed(quota):
    quota.set(0.5)
    version_1 = quota.folder / "cpu.cfs_quota_us"
    said = version_1.read_text() if version_1.exists() else (quota.folder / "cpu.max").read_text().split()[0]
    assert int(said) == PERIOD_US // 2


def test_a_group_that_ends_lets_go_of_what_it_held():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            with Quota("test", 0.2) as made:
                made.hold(child.pid)
        except NoQuotaError as error:
            pytest.skip(f"no CPU quota can be set here: {error}")
        finally:
            running = child.poll() is None
            child.communicate(b"\n", timeout=60)
    assert running
    assert not made.folder.exists()
