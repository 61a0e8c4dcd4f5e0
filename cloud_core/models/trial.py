"""The gate before a version exists: every variant of its manifest is inspected and tried in a sacrificial process.

A manifest that passed in this process is not tried again; a few are tried at a time, the rest wait. What runs here and now
decides: a variant whose runtime or provider a trial has not is inspected only, and `Gate.passed` says so.
"""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple, Protocol

from shared.bundle.install import install
from shared.bundle.manifest import Manifest, digest_of
from shared.bundle.store import Readable
from shared.io.clock import Clock
from shared.io.durable import make_folder
from shared.io.logs import Log
from shared.protocol.errors import Refusal, Refused, Transient
from shared.protocol.reported import Isolation
from shared.serving.trial.run import Trial, isolation_here, try_bundle
from shared.serving.trial.verdict import Died, TrialLimits, TrialRequest, Verdict

PROGRAM = (sys.executable, "-P", "-m", "cloud_core.models.trial_child")
AT_ONCE = 2
"""Trials that run at the same time; each may take its whole limit of memory."""
REMEMBERED = 1024
PREFIX = "trial-"
STALE_S = 86400.0
"""A folder this old was left by a process that died."""


class PassedVersion(NamedTuple):
    """A version that may exist; `unrun` says of each variant that was not run why."""

    unrun: tuple[str, ...] = ()


class Gate(Protocol):
    """Decides whether a version may exist."""

    isolation: Isolation

    async def passed(self, data: bytes, manifest: Manifest, store: Readable) -> PassedVersion:
        """Return when the manifest `data` may become a version; its chunks are in `store`.

        Raises:
            Refused: it may not; `code` says how it failed, the field where.
            Corrupt, Transient: it cannot be tried here and now.

        """
        ...


async def try_here(request: TrialRequest) -> Verdict:
    """Try one variant with the control plane's inspection."""
    return await try_bundle(request, program=PROGRAM)


class VersionTrials:
    """The real gate."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: TrialLimits,
        isolation: Isolation,
        clock: Clock,
        log: Log,
        trial: Trial = try_here,
    ) -> None:
        """Bundles are laid out below `folder` while they are tried."""
        self.isolation = isolation
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._log = log
        self._trial = trial
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._known: OrderedDict[str, PassedVersion] = OrderedDict()

    async def passed(self, data: bytes, manifest: Manifest, store: Readable) -> PassedVersion:
        """As `Gate` says; cancelling this ends the trial."""
        digest = digest_of(data)
        known = self._known.get(digest)
        if known is None:
            known = self._known[digest] = await self._tried(data, digest, manifest, store)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known

    async def _tried(self, data: bytes, digest: str, manifest: Manifest, store: Readable) -> PassedVersion:
        tasks = [asyncio.create_task(self._verdict(data, variant.name, store)) for variant in manifest.variants]
        try:
            verdicts = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        unrun: list[str] = []
        for i, (variant, verdict) in enumerate(zip(manifest.variants, verdicts, strict=True)):
            told = {"digest": digest, "variant": variant.name, "isolation": verdict.isolation}
            if isinstance(verdict, Died):
                self._log.warning("trial not passed", code=verdict.code, error=verdict.message, **told)
                raise refusal_of(verdict, variant.name, f"variants[{i}]")
            self._log.info("trial passed", unrun=verdict.unrun, **told)
            if verdict.unrun:
                unrun.append(verdict.unrun)
        return PassedVersion(tuple(unrun))

    async def _verdict(self, data: bytes, variant: str, store: Readable) -> Verdict:
        async with self._slots:
            folder = await asyncio.to_thread(self._fresh_folder)
            try:
                bundle = await asyncio.to_thread(install, data, variant, store, folder)
                return await self._trial(TrialRequest(folder=str(bundle), variant=variant, limits=self._limits))
            finally:
                # In a thread, to its end: whoever waited may be gone.
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))

    def _fresh_folder(self) -> Path:
        make_folder(self._folder)
        for old in self._folder.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if self._clock.wall() - old.stat().st_mtime > STALE_S:
                    shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._folder))


def refusal_of(died: Died, variant: str, field: str) -> Refused:
    """What the publisher is told; `field` where the trial knows no better place."""
    refused = Refused(f"{variant}: {died.message}", kind=Refusal.UNPROCESSABLE, code=died.code)
    # Not by the constructor: the message names it already, with what was found and what is allowed.
    refused.field = died.field or field
    return refused


async def isolation_of(log: Log) -> Isolation:
    """What keeps trials off the network here."""
    try:
        return await isolation_here(program=PROGRAM)
    except Transient as error:
        log.warning("no trial can be started now", error=error.message)
        return Isolation.NONE
