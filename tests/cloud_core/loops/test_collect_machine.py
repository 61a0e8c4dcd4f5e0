"""Uploads, publishing, deletion, devices, time, garbage collection and its crashes, in any order: what is needed is never missing."""

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from cloud_core.decide.spare_chunks import Kept
from cloud_core.loops.collect import Collect
from cloud_core.store.chunk_folder import FolderBlobs
from cloud_core.store.database import open_database
from cloud_core.store.needed_chunks import Known
from shared.bundle.manifest import Manifest
from shared.protocol.errors import Refused, Transient, Unavailable
from tests.cloud_core.api.bundles import bundle
from tests.cloud_core.loops.collecting import TENANT, Shelf, chunks, put


class Interrupted(Collect):
    """Somebody else acts between what a pass looked at and what it removes."""

    between: Callable[[], Awaitable[None]]

    async def _remove(self, tenant: str, spare: Sequence[Kept], known: Known) -> list[Kept]:
        await self.between()
        return await super()._remove(tenant, spare, known)


VERSIONS = [
    bundle(version=f"{major}.0.0", content=content) for major, content in enumerate((b"a", b"a", b"b"), start=1)
]
WHICH, DEVICE = st.integers(0, len(VERSIONS) - 1), st.sampled_from(["till", "kiosk"])


class Machine(RuleBasedStateMachine):
    """Uploads, publishing, deletion, devices, time, garbage collection and its crashes, in any order."""

    url: str
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        shutil.rmtree(self.folder / "artifacts", ignore_errors=True)
        shutil.copy(self.folder / "migrated.db", self.folder / "registry.db")
        self.engine = open_database(self.url)
        self.here = Shelf(self.engine, self.folder / "artifacts")
        for device in ("till", "kiosk"):
            self.do(self.here.device(device))
        self.live: set[int] = set()
        self.digests: dict[int, str] = {}
        self.named: dict[str, set[int]] = {"till": set(), "kiosk": set()}
        self.reported: dict[str, int] = {}
        self.number = 0

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(which=WHICH, part=st.integers(1, 2))
    def upload(self, which: int, part: int) -> None:
        put(self.here, VERSIONS[which][1][:part])

    @rule(which=WHICH)
    def publish(self, which: int) -> None:
        self.do(self._publish(which))

    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        self.do(self.here.delete(VERSIONS[which][0]))
        self.live.discard(which)

    @rule(which=WHICH, device=DEVICE)
    def generate(self, which: int, device: str) -> None:
        if which in self.live:
            self.number += 1
            self.do(self.here.generation(device, self.number, self.digests[which]))
            self.named[device].add(which)

    @rule(which=WHICH, device=DEVICE)
    def report(self, which: int, device: str) -> None:
        if which in self.named[device]:
            self.number += 1
            self.do(self.here.report(device, self.number, self.digests[which]))
            self.reported[device] = which

    @rule()
    def age(self) -> None:
        self.here.age()

    @rule()
    def collect(self) -> None:
        self.do(self.here.loop.collect_all())
        assert {one.digest for one in self.here.chunks_of(TENANT).list()} >= self.needed

    @rule(which=WHICH, again=st.booleans())
    def publish_while_its_old_chunks_are_collected(self, which: int, again: bool) -> None:
        """What was uploaded long ago is on the list of what may go when somebody makes a version of it."""

        async def between() -> None:
            if again:
                put(self.here, VERSIONS[which][1])
            await self._publish(which)

        put(self.here, VERSIONS[which][1])
        self.here.age()

        loop = self.here.loop
        loop.__class__ = Interrupted
        loop.between = between  # type: ignore[attr-defined]
        try:
            self.do(loop.collect_all())
        finally:
            loop.__class__ = Collect

    @rule(survives=st.integers(0, 2))
    def crash_in_collection(self, survives: int) -> None:
        """The store goes away in the middle of a removal."""
        delete = FolderBlobs.delete

        def broken(blobs: FolderBlobs, digests: Sequence[str]) -> None:
            delete(blobs, digests[:survives])
            raise Transient("away", why=Unavailable.STORAGE)

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Transient):
            patch.setattr(FolderBlobs, "delete", broken)
            self.do(self.here.loop.collect_all())

    @property
    def needed(self) -> set[str]:
        which = self.live | set().union(*self.named.values()) | set(self.reported.values())
        return set().union(*(chunks(VERSIONS[each][0]) for each in which)) if which else set()

    @invariant()
    def nothing_needed_is_missing(self) -> None:
        assert self.needed <= self.here.held

    async def _publish(self, which: int) -> None:
        manifest: Manifest = VERSIONS[which][0]
        try:
            self.digests[which] = await self.here.publish(manifest)
        except Refused:
            assert not chunks(manifest) <= self.here.held
            assert which not in self.live or not chunks(manifest) <= self.here.held
        else:
            self.live.add(which)

    def teardown(self) -> None:
        """In the end, once all is old, what is needed is what is left."""
        self.here.age()
        self.do(self.here.loop.collect_all())
        assert self.here.held == self.needed
        self.do(self.engine.dispose())
        self.runner.close()


def test_whatever_happens_in_whatever_order(sqlite_url: str, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "registry.db", tmp_path / "migrated.db")
    Machine.url, Machine.folder = sqlite_url, tmp_path
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
