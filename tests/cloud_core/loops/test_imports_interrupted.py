"""The imports loop interrupted: cancelled, told to stop, killed, two at once; and what was uploaded while somebody needs it."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import psutil

from cloud_core.models.trial import PassedVersion
from cloud_core.store import imports
from cloud_core.store.database import write
from cloud_core.store.imports import MAX_ATTEMPTS
from shared.bundle.manifest import Manifest
from shared.bundle.store import Readable
from shared.protocol.reported import Isolation
from tests.cloud_core.loops.importing import PUBLISHES, Site, at, site, soon
from tests.cloud_core.waiting import eventually, wait_for


def test_cancelling_ends_the_whole_group(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            await here.ask([["say", "hang", 0.5], ["hang", "hung"]])
            await here.ask(PUBLISHES, id_="two", version="2.0.0")
            async with here.running():
                await eventually(lambda: at(here, "hang"))
                group = await eventually(lambda: _importers(tmp_path, at_least=2))
                async with write(here.engine) as connection:
                    assert await imports.cancel(connection, "default", "one", now=time.time())
                    assert not await imports.cancel(connection, "default", "one", now=time.time())
                # The next one waits for nobody.
                await here.until("completed", id_="two")
                one = await here.get()
            assert (one.state, one.problem) == ("cancelled", None)
            _, alive = psutil.wait_procs(group, timeout=10)
            assert alive == []

    asyncio.run(scenario())


async def _importers(folder: Path, *, at_least: int) -> list[psutil.Process]:
    """The processes of the importer that work somewhere below `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if "stand_in" in " ".join(process.cmdline()) and str(folder) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found if len(found) >= at_least else []


def test_told_to_stop_it_gives_back_what_it_does(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            gate = tmp_path / "gate"
            gate.touch()
            await here.ask([["say", "slow", 0.1], ["wait", str(gate)], *PUBLISHES])
            async with here.running():
                await eventually(lambda: at(here, "slow"))
            one = await here.get()
            assert (one.state, one.attempts) == ("queued", 0)
            assert here.work() == []
            gate.unlink()
            async with here.running():
                assert (await here.until("completed", "failed")).state == "completed"

    asyncio.run(scenario())


LOOPS = """
import asyncio, sys
from pathlib import Path
from cloud_core.store.database import open_database
from tests.cloud_core.loops.importing import Site
asyncio.run(Site(open_database(sys.argv[1]), Path(sys.argv[2])).loop().run())
"""


def test_killed_with_its_importer_and_taken_up_again(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            gate = tmp_path / "gate"
            gate.touch()
            await here.ask([["say", "slow", 0.1], ["wait", str(gate)], *PUBLISHES])
            for attempt in range(1, MAX_ATTEMPTS + 1):
                loops = await asyncio.create_subprocess_exec(sys.executable, "-c", LOOPS, sqlite_url, str(tmp_path))
                await eventually(lambda attempt=attempt: _attempted(here, attempt))
                (importer,) = await eventually(lambda: _importers(tmp_path, at_least=1))
                os.kill(loops.pid, signal.SIGKILL)
                await loops.wait()
                wait_for(lambda importer=importer: not importer.is_running())
                one = await here.get()
                assert (one.state, one.attempts) == ("in_progress", attempt)
            async with here.running():
                one = await here.until("failed", "completed")
            assert one.problem is not None
            assert (one.problem.code, one.problem.refused) == ("crashed", False)
            assert "slow" in one.problem.detail

            # Asked for again, it is another import, and begins anew.
            gate.unlink()
            await here.ask(PUBLISHES, id_="two")
            async with here.running():
                assert (await here.until("completed", id_="two")).attempts == 1

    asyncio.run(scenario())


async def _attempted(here: Site, attempt: int) -> bool:
    one = await here.get()
    return one.attempts == attempt and one.step == "slow"


def test_one_loop_at_a_time(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            gate = tmp_path / "gate"
            gate.touch()
            await here.ask([["say", "slow", 0.1], ["wait", str(gate)], *PUBLISHES])
            async with here.running():
                await eventually(lambda: at(here, "slow"))
                second = here.loop()
                waiting = asyncio.create_task(second.run())
                await here.ask(PUBLISHES, id_="two", version="2.0.0")
                gate.unlink()
                await here.until("completed", id_="two")
                assert (await here.get()).attempts == 1
                waiting.cancel()
                await asyncio.wait((waiting,))

    asyncio.run(scenario())


def test_sources_stay_while_somebody_needs_them(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            shared = here.upload("extra.bin", b"both have it")
            await here.ask(PUBLISHES, golden=shared)
            gate = tmp_path / "gate"
            gate.touch()
            await here.ask(
                [["say", "slow", 0.1], ["wait", str(gate)], *PUBLISHES], id_="two", version="2.0.0", golden=shared
            )
            stray = here.upload("stray", b"an upload under way")
            old = here.upload("old", b"an upload nobody asked for")
            os.utime(here.sources().path(old.sha256), (1.0, 1.0))
            async with here.running():
                await eventually(lambda: at(here, "slow", id_="two"))
                held = here.sources().held()
                assert {shared.sha256, stray.sha256} <= held
                assert old.sha256 not in held
                gate.unlink()
                await here.until("completed", id_="two")
                await eventually(lambda: soon(here.sources().held() == {stray.sha256}))

    asyncio.run(scenario())


def test_a_source_that_is_gone_or_rotten_is_told(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            rotten, gone = here.upload("golden.json", b"rots"), here.upload("golden.json", b"goes")
            await here.ask(PUBLISHES, golden=rotten)
            await here.ask(PUBLISHES, id_="two", version="2.0.0", golden=gone)
            here.sources().path(rotten.sha256).write_bytes(b"rot!")
            here.sources().discard(gone.sha256)
            async with here.running():
                problems = [(await here.until("failed", "completed", id_=id_)).problem for id_ in ("one", "two")]
            assert [problem and problem.code for problem in problems] == ["chunk-rotten", "chunks-missing"]

    asyncio.run(scenario())


class Slow:
    """A gate that never comes to an end."""

    isolation = Isolation.NONE

    def __init__(self) -> None:
        self.ended = False

    async def passed(self, data: bytes, manifest: Manifest, store: Readable) -> PassedVersion:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True
        raise AssertionError


def test_a_trial_is_cancelled_with_its_import(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            here.gate = gate = Slow()
            await here.ask(PUBLISHES)
            async with here.running():
                await eventually(lambda: at(here, "try"))
                async with write(here.engine) as connection:
                    assert await imports.cancel(connection, "default", "one", now=time.time())
                await eventually(lambda: soon(gate.ended))
            assert (await here.get()).state == "cancelled"

    asyncio.run(scenario())
