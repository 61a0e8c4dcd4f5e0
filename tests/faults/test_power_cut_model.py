"""Power cuts at every file operation of an activation, on everything POSIX lets a disk show afterwards."""

import asyncio
import contextlib
import itertools
import shutil
from typing import NamedTuple

import pytest

from tests.faults.activation import converge, recover, with_cloud
from tests.faults.cuts import Cuts
from tests.faults.posix import Model
from tests.faults.promises import Said, broken


class Course(NamedTuple):
    """From the generations `before`, applied one after the other, to `newest`; which may answer after a cut in between."""

    before: tuple[int, ...]
    newest: int
    accepted: tuple[int, ...]


FIRST, UPDATE = Course((), 1, (0, 1)), Course((1, 2), 3, (2, 3))
COURSES = pytest.mark.parametrize("course", [FIRST, UPDATE], ids=["first", "update"])


class Killed(BaseException):
    """Stands for the process's end: nothing in the program catches it, and nothing reaches the disk after it."""


async def begun(start, folder, course):
    """A device's disk as it is before the course."""
    base = folder / "base"
    base.mkdir()
    if course.before:
        await converge(start, base, *course.before)
    return base


async def cut(start, base, monkeypatch, course, *, without=0):
    """Every distinct disk of the course, with what was said by then; and the hook."""
    root = base.with_name(f"live-{without}")
    shutil.copytree(base, root)
    found, points, said, model = {}, itertools.count(1), Said(root), Model(root)

    def look(operation):
        at = f"{next(points)}, before {operation}"
        for tree in model.cuts():
            found.setdefault((tree, said.now()), at)

    cuts = Cuts(root, look, synced=model.synced, made=model.made, without=without, costly=False)
    with monkeypatch.context() as patch:
        said.listen(patch)
        with cuts.armed():
            await converge(start, root, course.newest)
    look("the end")
    shutil.rmtree(root)
    return found, cuts


async def killed(start, base, course, n):
    """A disk on which the process was killed before its n-th operation, started again, and came to an end; None past the last."""
    root = base.with_name(f"killed-{n}")
    shutil.copytree(base, root)
    points, model = itertools.count(1), Model(root)
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def die(operation):
        # The kernel closes what a dead process had open.
        if next(points) >= n and not operation.startswith("close"):
            loop.call_soon_threadsafe(ended.set)
            raise Killed(operation)

    first = Cuts(root, die, synced=model.synced, made=model.made, costly=False)
    again = Cuts(root, lambda operation: None, synced=model.synced, made=model.made, costly=False)
    with first.armed(), contextlib.suppress(Killed):
        await converge(start, root, course.newest, killed=ended)
    with again.armed():
        await converge(start, root, course.newest)
    trees = model.cuts()
    shutil.rmtree(root)
    return trees if ended.is_set() else None


def wrong(found, folder):
    """The first disk on which something is not as it was said."""
    for number, ((tree, said), at) in enumerate(found.items()):
        root = tree.write(folder / f"cut-{number}")
        complaints = broken(root, said)
        shutil.rmtree(root)
        if complaints:
            return f"point {at}: {'; '.join(complaints)}"
    return None


@COURSES
def test_every_cut_keeps_what_was_said_and_recovers(quick_folder, monkeypatch, course):
    async def work(start, api):
        found, _ = await cut(start, await begun(start, quick_folder, course), monkeypatch, course)
        assert len(found) > 50
        assert wrong(found, quick_folder) is None
        for number, tree in enumerate({tree for tree, _ in found}):
            root = tree.write(quick_folder / f"after-{number}")
            await recover(start, api, root, accepted=course.accepted, newest=course.newest)
            shutil.rmtree(root)

    with_cloud(work)


@pytest.mark.slow
@pytest.mark.timeout(600)
@COURSES
def test_without_any_one_fsync_something_said_is_lost(quick_folder, monkeypatch, course):
    async def work(start, api):
        base = await begun(start, quick_folder, course)
        _, whole = await cut(start, base, monkeypatch, course)
        assert len(whole.fsyncs) - len(whole.idle) > 15
        unseen = []
        for n, where in enumerate(whole.fsyncs, 1):
            if n in whole.idle:
                continue  # it is there for a process that was killed before: the next test
            found, _ = await cut(start, base, monkeypatch, course, without=n)
            if wrong(found, quick_folder) is None:
                unseen.append(where)
        assert not unseen

    with_cloud(work)


@pytest.mark.slow
@pytest.mark.timeout(600)
@COURSES
def test_what_a_killed_process_left_unsynced_is_durable_before_it_is_built_on(quick_folder, course):
    async def work(start, api):
        base, lost = await begun(start, quick_folder, course), []
        for n in itertools.count(1):
            trees = await killed(start, base, course, n)
            if trees is None:
                break
            for number, tree in enumerate(trees):
                root = tree.write(quick_folder / f"after-{n}-{number}")
                try:
                    await recover(start, api, root, accepted=(course.newest,), newest=course.newest)
                except AssertionError as error:
                    lost.append(f"killed before operation {n}: {error}")
                shutil.rmtree(root)
        assert n > 50
        assert not lost

    with_cloud(work)
