"""Loading a version as it is to run on this device: tried first, and run plainly where it does not run as somebody said it should."""

from pathlib import Path
from typing import NamedTuple

from edge_agent.control.arrangements import NO_LIMITS, Arrangements
from edge_agent.control.host import ModelHost
from edge_agent.control.trials import Trials
from edge_agent.decide.arranging import Arranged, Source
from shared.bundle.manifest import Manifest
from shared.io.logs import Log
from shared.protocol.desired import Limits
from shared.protocol.errors import Corrupt, Refused, Transient
from shared.serving.arrangement import Arrangement


class Version(NamedTuple):
    """One variant of a version on disk. `tried`: it passed its trial a moment ago, as a plain program does to be known at all."""

    manifest: Manifest
    digest: str
    folder: Path
    variant: str
    tried: bool = False


class Loader:
    """Puts versions into memory."""

    def __init__(self, host: ModelHost, trials: Trials, arrangements: Arrangements, log: Log) -> None:
        self._host = host
        self._trials = trials
        self._arrangements = arrangements
        self._log = log

    async def load(
        self, tenant: str, version: Version, *, told: Arrangement | None = None, limits: Limits = NO_LIMITS
    ) -> None:
        """Load and warm `version`; `told` is what the fleet was told for devices like this one.

        Raises:
            Refused, Corrupt: it did not pass its trial, or cannot be loaded.
            Transient: it cannot be tried now.

        """
        manifest, digest, variant = version.manifest, version.digest, version.variant
        while True:
            arranged = await self._arrangements.choose(manifest, digest, variant, told=told, limits=limits)
            try:
                await self._load(tenant, version, arranged)
            except (Refused, Corrupt) as error:
                if arranged.source not in (Source.TOLD, Source.MEASURED):
                    raise
                # The version is not to blame for how it was to be run.
                source = arranged.source.value
                self._log.warning("not loaded as it was to run", about=digest, source=source, error=error.message)
                self._arrangements.does_not_run(digest, variant, arranged.arrangement)
            else:
                return

    async def follow(
        self, tenant: str, version: Version, *, told: Arrangement | None = None, limits: Limits = NO_LIMITS
    ) -> None:
        """Let a version that is loaded run as was said or found since it was, without a gap; as it did where that fails."""
        manifest = version.manifest
        before = self._arrangements.loaded.get((manifest.name, manifest.version))
        arranged = await self._arrangements.choose(manifest, version.digest, version.variant, told=told, limits=limits)
        if before is None or before == arranged:
            return
        if before.arrangement != arranged.arrangement:
            how, about = arranged.arrangement, {"about": version.digest, "source": arranged.source.value}
            try:
                await self._trials.require(version.digest, version.variant, version.folder, arrangement=how)
                done = await self._host.rearrange(tenant, manifest.name, manifest.version, how, version.folder)
            except Transient:
                return
            except (Refused, Corrupt) as error:
                self._arrangements.does_not_run(version.digest, version.variant, how)
                self._log.warning("it does not run as it was to; it runs as it did", **about, error=error.message)
                return
            if not done:
                return
            self._log.info("it runs in another way from now on", **about)
        self._arrangements.is_loaded(manifest.name, manifest.version, arranged)

    async def _load(self, tenant: str, version: Version, arranged: Arranged) -> None:
        how = arranged.arrangement
        if not version.tried:
            # What kills a process kills another one than this; what passed once is not tried again.
            await self._trials.require(version.digest, version.variant, version.folder, arrangement=how)
        manifest, digest = version.manifest, version.digest
        await self._host.load(tenant, manifest, digest, version.folder, version.variant, arrangement=how)
        self._arrangements.is_loaded(manifest.name, manifest.version, arranged)
