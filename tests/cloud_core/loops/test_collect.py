"""Chunks that nothing needs go, and no others: whoever publishes, deletes, crashes or reports at the same moment."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud_core.decide.rollout_spec import Spec, State
from cloud_core.store import assignments, devices, groups, rollouts
from cloud_core.store.assignments import Wanted
from cloud_core.store.chunk_folder import FolderBlobs
from cloud_core.store.database import open_database, write
from cloud_core.store.needed_chunks import Known, looked_over
from shared.protocol.desired import Limits
from shared.protocol.errors import Refused
from tests.cloud_core.api.bundles import bundle
from tests.cloud_core.loops.collecting import GRACE, TENANT, Shelf, chunks, put

OTHER = "other"


@contextlib.asynccontextmanager
async def shelf(url: str, folder: Path) -> Any:
    engine = open_database(url)
    try:
        yield Shelf(engine, folder / "artifacts")
    finally:
        await engine.dispose()


def test_only_what_nothing_names_goes_and_not_before_its_time(database_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with shelf(database_url, tmp_path) as here:
            await here.device("till")
            (kept, kept_pieces), (gone, gone_pieces) = bundle(version="1.0.0"), bundle(version="2.0.0")
            put(here, kept_pieces)
            put(here, gone_pieces)
            put(here, [b"an upload under way"])
            await here.publish(kept)
            await here.publish(gone)
            await here.delete(gone)
            before = here.held
            await here.loop.collect_all()
            assert here.held == before, "all of it is young"
            here.age()
            dry = await looked_over(here.engine, here.chunks_of(TENANT), TENANT, now=9e9, grace=GRACE, known=Known())
            assert here.held == before, "looking removes nothing"
            assert {one.digest for one in dry.spare} == before - chunks(kept)
            assert dry.needed.chunks == 2
            await here.loop.collect_all()
            assert here.held == chunks(kept)
            value = here.registry.get_sample_value
            assert value("tideline_chunks_collected_total") == 2
            assert value("tideline_chunk_bytes_collected_total") == dry.collectable.bytes
            assert value("tideline_chunks", {"state": "spare"}) == dry.collectable.chunks
            await here.loop.collect_all()
            assert here.held == chunks(kept)
            with pytest.raises(Refused) as refused:
                await here.publish(gone)
            assert refused.value.code == "chunks-missing"
            put(here, gone_pieces)
            await here.publish(gone)

    asyncio.run(story())


@pytest.mark.parametrize("by", ["generation", "report", "assignment", "rollout"])
def test_a_deleted_version_that_is_named_stays_until_it_is_not(by: str, sqlite_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with shelf(sqlite_url, tmp_path) as here:
            await here.device("till")
            manifest, pieces = bundle()
            put(here, pieces)
            digest = await here.publish(manifest)
            if by == "generation":
                await here.generation("till", 1, digest)
            elif by == "report":
                await here.report("till", 1, digest)
            elif by == "rollout":
                spec = Spec(model=manifest.name, version=manifest.version, group="tills")
                async with write(here.engine) as connection:
                    assert await rollouts.create(connection, TENANT, "one", spec, created_by="ann", now=1.0)
            else:
                async with write(here.engine) as connection:
                    await groups.create(connection, TENANT, "tills", description="", now=1.0)
                    wanted = (Wanted(name=manifest.name, version=manifest.version),)
                    await assignments.put(
                        connection, TENANT, "tills", models=wanted, policy=None, limits=Limits(), priority=0, now=1.0
                    )
            await here.delete(manifest)
            here.age()
            await here.loop.collect_all()
            assert here.held == chunks(manifest)
            async with write(here.engine) as connection:
                if by == "assignment":
                    await assignments.delete(connection, TENANT, "tills", now=2.0)
                elif by == "rollout":
                    one = await rollouts.get(connection, TENANT, "one")
                    assert one is not None
                    over = msgspec.structs.replace(one.rollout, state=State.ROLLED_BACK)
                    assert await rollouts.put(connection, TENANT, over, revision=one.revision, now=2.0)
                else:
                    await devices.delete(connection, TENANT, "till", now=2.0)
            await here.loop.collect_all()
            assert here.held == set()

    asyncio.run(story())


def test_what_one_tenant_needs_keeps_nothing_of_another(sqlite_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with shelf(sqlite_url, tmp_path) as here:
            manifest, pieces = bundle()
            for tenant in (TENANT, OTHER):
                put(here, pieces, tenant)
                await here.publish(manifest, tenant)
            await here.delete(manifest)
            here.age()
            await here.loop.collect_all()
            assert here.held == set()
            assert {one.digest for one in here.chunks_of(OTHER).list()} == chunks(manifest)

    asyncio.run(story())


def test_a_pass_that_is_ended_lets_no_publisher_in_before_its_removal_has(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled in the middle of a removal: whoever publishes next sees what that removal did."""
    remove = FolderBlobs.delete

    async def story() -> None:
        async with shelf(sqlite_url, tmp_path) as here:
            await here.device("till")
            manifest, pieces = bundle()
            put(here, pieces)
            here.age()
            loop, begun, go = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

            async def waited() -> None:
                begun.set()
                await go.wait()

            def slow(blobs: FolderBlobs, digests: Sequence[str]) -> None:
                asyncio.run_coroutine_threadsafe(waited(), loop).result(30)
                remove(blobs, digests)

            monkeypatch.setattr(FolderBlobs, "delete", slow)
            passing = asyncio.create_task(here.loop.collect_all())
            await begun.wait()
            passing.cancel()
            publishing = asyncio.create_task(here.publish(manifest))
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await passing
            with pytest.raises(Refused):
                await publishing
            assert here.held == set()

    asyncio.run(story())
