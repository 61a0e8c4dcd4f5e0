"""A disk that is full, or fails: what was running goes on answering, and what was to come comes once the disk is well."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.protocol.errors import Transient
from tests.edge_agent.control.generations import signed
from tests.faults import ext4
from tests.faults.answering import CHUNKS, TWO, committed, played

NO_LOOP = ext4.why_not()


@contextmanager
def full(root):
    """Nothing more fits on the disk below `root`."""
    filler = root / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            _write_until_full(file, size)
    yield
    filler.unlink()


def _write_until_full(file, size):
    try:
        while True:
            file.write(bytes(size))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


@pytest.mark.skipif(NO_LOOP is not None, reason=str(NO_LOOP))
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_full_disk_is_said_and_harms_nothing(quick_folder, when):
    with ext4.disk(quick_folder / "image") as disk:

        async def work(agent, api, asker):
            filled = full(disk.root)
            if when == "before":
                filled.__enter__()
            else:
                # There was room when it was looked: somebody else takes it while the first chunk comes.
                whole = api._whole

                def taken(data, begin):
                    if api.asked[-1] in CHUNKS:
                        api._whole = whole
                        filled.__enter__()
                    return whole(data, begin)

                api._whole = taken
            await _told(agent, asker)
            filled.__exit__(None, None, None)
            await _over(agent, asker)

        played(disk.root / "agent", work)


async def _told(agent, asker):
    """The newest generation does not come, the report says why, and the one before answers."""
    try:
        await agent.converger.accept(signed(TWO))
    except Transient:
        # It could not be recorded, so it is not accepted, and the link delivers it again.
        assert agent.report.target == (1, 1)
    else:
        await agent.until(lambda report: report.error is not None)
    await asker.goes_on()
    assert agent.report.applied == (1, 1)
    assert asker.heard == {2.0}


async def _over(agent, asker):
    await agent.converger.accept(signed(TWO))
    await agent.until(committed(TWO))
    await asker.goes_on()
    assert asker.heard == {2.0, 3.0}
    assert not [path for path in agent.bundles.iterdir() if path.name.startswith(".")]


def _failing(patch, call, below, times):
    """`call` of `os` fails with EIO on what lies below `below`, so often; returns how often it did."""
    real, left, done = getattr(os, call), [times], [0]

    def fails(first, *rest, **options):
        path = Path(f"/proc/self/fd/{first}").readlink() if isinstance(first, int) else Path(first)
        if left[0] > 0 and path.is_relative_to(below):
            left[0] -= 1
            done[0] += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(first, *rest, **options)

    patch.setattr(os, call, fails)
    return left, done


@pytest.mark.parametrize("times", [1, 10**9])
@pytest.mark.parametrize("store", ["chunks", "bundles"])
@pytest.mark.parametrize("call", ["fsync", "write", "rename", "open"])
def test_a_disk_that_fails_is_said_and_harms_nothing(tmp_path, monkeypatch, call, store, times):
    async def work(agent, api, asker):
        with monkeypatch.context() as patch:
            left, done = _failing(patch, call, tmp_path / store, times)
            await agent.converger.accept(signed(TWO))
            await agent.until(lambda report: report.error is not None or report.outcome == "committed")
            if times > 1 and done[0]:
                await asker.goes_on()
                assert agent.report.error is not None
                assert (agent.report.applied, asker.heard) == ((1, 1), {2.0})
            left[0] = 0
            await _over(agent, asker)
        assert agent.state.failures() == {}

    played(tmp_path, work)
