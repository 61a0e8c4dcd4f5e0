"""Power cuts at every file operation of an activation, on ext4 itself: copies of a live image on a loop device.

Each point is looked at twice: as it is, and after another program's fsync, which makes names durable whose bytes are not.
ext4 hides a folder's missing fsync behind the next fsync of any file; `test_power_cut_model` shows those.
"""

import re

import pytest

from tests.faults import ext4
from tests.faults.activation import converge, recover, with_cloud
from tests.faults.cuts import Cuts
from tests.faults.promises import Said, broken

FOLDERS = re.compile(r"/(agent|bundles|chunks|objects|incoming|partial|objects/[0-9a-f]{2}|\.staging-[^/]*)$")

pytestmark = pytest.mark.skipif(ext4.why_not() is not None, reason=str(ext4.why_not()))


async def prepared(start, folder, *numbers):
    """The image of a device that has applied these generations."""
    with ext4.disk(folder / "image") as disk:
        await converge(start, disk.root, *numbers)
    return disk.image.read_bytes()


async def cut(start, folder, monkeypatch, image, newest, *, without=0, disturbed=False, slack=False):
    """Every distinct image from `image` to the next generation, with what was said by then; and the hook."""
    found, points = {}, 0
    with ext4.disk(folder / "image", image) as disk:
        said = Said(disk.root)

        def look(operation):
            nonlocal points
            points += 1
            if disturbed:
                disk.unrelated_fsync()
            found.setdefault((disk.cut(), said.now()), f"{points}, before {operation}")

        cuts = Cuts(disk.root, look, without=without)
        with monkeypatch.context() as patch:
            said.listen(patch)
            with cuts.armed():
                await converge(start, disk.root, newest, slack=slack)
        look("the end")
        disk.unrelated_fsync()
        look("an unrelated fsync")
    return found, cuts


def wrong(found, folder):
    """The first image on which something is not as it was said."""
    for (image, said), at in found.items():
        with ext4.after(image, folder) as root:
            if complaints := broken(root, said):
                return f"point {at}: {'; '.join(complaints)}"
    return None


async def all_recover(start, api, folder, found, *, accepted, newest):
    for image in dict.fromkeys(image for image, _ in found):
        with ext4.after(image, folder) as root:
            await recover(start, api, root, accepted=accepted, newest=newest)


def test_every_cut_of_an_update_keeps_what_was_said(quick_folder, monkeypatch):
    async def work(start, api):
        image = await prepared(start, quick_folder, 1, 2)
        found, _ = await cut(start, quick_folder, monkeypatch, image, 3)
        assert len(found) > 20
        assert wrong(found, quick_folder) is None

    with_cloud(work)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("disturbed", [False, True], ids=["as it is", "after another fsync"])
@pytest.mark.parametrize("course", [((), 1, (0, 1)), ((1, 2), 3, (2, 3))], ids=["first", "update"])
def test_every_cut_recovers(quick_folder, monkeypatch, course, disturbed):
    before, newest, accepted = course

    async def work(start, api):
        image = await prepared(start, quick_folder, *before)
        found, _ = await cut(start, quick_folder, monkeypatch, image, newest, disturbed=disturbed)
        assert wrong(found, quick_folder) is None
        await all_recover(start, api, quick_folder, found, accepted=accepted, newest=newest)

    with_cloud(work)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_the_fsync_of_any_file_something_said_is_lost(quick_folder, monkeypatch):
    async def work(start, api):
        image = await prepared(start, quick_folder, 1, 2)
        _, whole = await cut(start, quick_folder, monkeypatch, image, 3)
        files = {}
        for n, where in enumerate(whole.fsyncs, 1):
            if FOLDERS.search(where) is None:
                # Chunks are all alike: the first stands for them.
                files.setdefault("a chunk" if re.search("/(incoming|partial)/", where) else where, n)
        assert len(files) == 5
        unseen = []
        for where, n in files.items():
            found, _ = await cut(start, quick_folder, monkeypatch, image, 3, without=n, disturbed=True)
            if wrong(found, quick_folder) is None:
                unseen.append(where)
        assert not unseen

    with_cloud(work)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_with_a_lazier_database_something_said_is_lost(quick_folder, monkeypatch):
    async def work(start, api):
        image = await prepared(start, quick_folder, 1, 2)
        found, _ = await cut(start, quick_folder, monkeypatch, image, 3, slack=True)
        assert "record" in wrong(found, quick_folder)

    with_cloud(work)
