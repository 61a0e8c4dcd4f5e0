"""Doing one step: the errands behind the decisions of `decide/steps`."""

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from edge_agent.control.fetch import Fetcher
from edge_agent.control.host import Disk, ModelHost
from edge_agent.control.loading import Loader, Version
from edge_agent.control.state import Slot
from edge_agent.decide.blame import COLLECTING, Failure, assembly, removal, subject, trial
from edge_agent.decide.steps import Collect, Fetch, Install, Load, Step, Swap, Unload
from shared.bundle import install as bundles
from shared.bundle.chunks import missing, space_for
from shared.bundle.manifest import Chunk, Manifest, parse_manifest
from shared.bundle.partial import discard_partial
from shared.protocol.desired import Generation, Limits, ModelRef
from shared.protocol.errors import Corrupt, Refused, Transient, Unavailable

Check = Callable[[ModelRef], Awaitable[None]]
"""Returns if a version may be installed; `Refused` where it may not, `Transient` where that is not known now."""


class Seen(NamedTuple):
    """What the disk has; `room` is how many bytes more may go on it."""

    manifests: dict[str, Manifest]
    chunks: frozenset[str]
    installed: frozenset[tuple[str, str]]
    failures: dict[str, Failure]
    room: int


class Errands:
    """Runs steps; knows nothing of what comes next."""

    def __init__(  # noqa: PLR0917
        self, tenant: str, disk: Disk, fetcher: Fetcher, host: ModelHost, loader: Loader, check: Check
    ) -> None:
        self._tenant = tenant
        self._disk = disk
        self._fetcher = fetcher
        self._host = host
        self._loader = loader
        self._check = check

    async def run(self, step: Step, limits: Limits, *, progress: Callable[[int, int], None]) -> None:
        """Do `step`, whole or not at all.

        Raises:
            Refused, Corrupt: it failed, and counts against the model version.
            Transient: it failed for now.

        """
        if isinstance(step, Fetch | Install):
            await self._check_trusted(step.model)
        match step:
            case Fetch(variant=None):
                await self._fetch_manifest(step.model.digest)
            case Fetch(variant=str() as variant):
                await self._fetch_chunks(step.model.digest, variant, limits, progress)
            case Install():
                await self._install(step.model.digest, step.variant)
            case Load():
                await self._load(step, limits)
            case Unload():
                await self._host.unload(self._tenant, step.name, step.version)
            case Collect():
                await asyncio.to_thread(self._collect, step)
            case _:
                raise TypeError(f"{type(step).__name__} is no errand")

    def look(self, generations: Iterable[Generation], limits: Limits) -> Seen:
        """What the disk has of these generations, and how much more may go there under `limits`. Blocks."""
        manifests: dict[str, Manifest] = {}
        for digest in {model.digest for generation in generations for model in generation.models}:
            if self._disk.chunks.has(digest):
                # Rotten and gone by now, or of a format this agent does not know: to be fetched.
                with contextlib.suppress(Refused, Corrupt):
                    manifests[digest] = parse_manifest(self._disk.chunks.get(digest))
        return Seen(
            manifests=manifests,
            chunks=self._disk.chunks.held(),
            installed=frozenset(bundles.installed(self._disk.bundles)),
            failures=self._disk.state.failures(),
            room=self._room(limits.disk_bytes),
        )

    def clear(self) -> None:
        """Remove what a crash left half written. Blocks."""
        self._disk.chunks.discard_unfinished()
        bundles.clear_staging(self._disk.bundles)

    def settle(self) -> None:
        """Make durable what a run that died in a step left under its name. Blocks."""
        self._disk.chunks.settle()
        bundles.settle(self._disk.bundles)

    async def _check_trusted(self, model: ModelRef) -> None:
        """What answered on this device before may be put together again, with no network; anything else must be trusted now."""
        for slot in (Slot.APPLIED, Slot.PREVIOUS):
            with contextlib.suppress(Refused):
                generation = await asyncio.to_thread(self._disk.state.generation, slot)
                if generation is not None and model.digest in {each.digest for each in generation.models}:
                    return
        await self._check(model)

    async def _fetch_manifest(self, digest: str) -> None:
        data = await self._fetcher.manifest(digest)
        # Refused here and not later: what cannot be understood is never kept.
        parse_manifest(data)
        await asyncio.to_thread(self._disk.chunks.put, digest, data)

    async def _fetch_chunks(
        self, digest: str, variant: str, limits: Limits, progress: Callable[[int, int], None]
    ) -> None:
        wanted = await asyncio.to_thread(self._wanted, digest, variant, limits)
        await self._fetcher.chunks(
            wanted,
            self._disk.chunks,
            progress=progress,
            bytes_per_s=limits.download_bytes_per_s,
            window=limits.download_window,
        )

    def _wanted(self, digest: str, variant: str, limits: Limits) -> tuple[Chunk, ...]:
        """The chunks to fetch; there must be room for them and for the files they are assembled into."""
        files = parse_manifest(self._disk.chunks.get(digest)).files_of(variant)
        wanted = missing(files, self._disk.chunks.held())
        need = space_for(files, wanted)
        if limits.disk_bytes is not None and need > (room := limits.disk_bytes - self._used()):
            detail = f"{digest} needs {need} B, {limits.disk_bytes - room} of {limits.disk_bytes} B allowed are used"
            raise Transient(detail, why=Unavailable.STORAGE)
        bundles.check_space(self._disk.chunks.root, need, what=digest)
        return wanted

    def _used(self) -> int:
        return self._disk.chunks.total() + bundles.total(self._disk.bundles)

    def _room(self, allowed: int | None) -> int:
        free = shutil.disk_usage(self._disk.state.path.parent).free
        return free if allowed is None else min(free, allowed - self._used())

    async def _install(self, digest: str, variant: str) -> None:
        chunks, folder = self._disk.chunks, self._disk.bundles
        data = await asyncio.to_thread(chunks.get, digest)
        await asyncio.to_thread(bundles.install, data, variant, chunks, folder)

    async def _load(self, step: Load, limits: Limits) -> None:
        digest, variant = step.model.digest, step.variant
        folder = self._disk.bundles / bundles.folder_name(digest, variant)
        try:
            found = await asyncio.to_thread(bundles.verify_installed, folder)
        except Corrupt:
            # Away with it: the next observation sees that it must be installed again, from chunks that still verify.
            await asyncio.to_thread(bundles.remove, folder)
            raise
        version = Version(found.manifest, digest, folder, variant)
        await self._loader.load(self._tenant, version, told=step.model.arrangement, limits=limits)

    def _collect(self, step: Collect) -> None:
        for digest, variant in step.bundles:
            bundles.remove(self._disk.bundles / bundles.folder_name(digest, variant))
        for digest in step.chunks:
            self._disk.chunks.discard(digest)
        discard_partial(self._disk.chunks)


def named(step: Step) -> tuple[str, str]:
    """The step's name, and what its failure speaks against (`subject`); empty where it speaks against nothing."""
    match step:
        case Fetch():
            return "fetch", subject(step.model.digest)
        case Install():
            return "install", assembly(step.model.digest, step.variant)
        case Load():
            return "load", subject(step.model.digest, step.variant)
        case Swap():
            return "swap", trial(step.generation.order)
        case Unload():
            return "unload", removal(step.name, step.version)
        case Collect():
            return "collect", COLLECTING
        case _:
            return type(step).__name__.lower(), ""
