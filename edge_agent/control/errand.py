"""Doing one step: the errands behind the decisions of `decide/steps`."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from edge_agent.control.fetch import Fetcher
from edge_agent.control.host import Disk, ModelHost
from edge_agent.control.loading import Loader, Version
from edge_agent.decide.steps import Collect, Failure, Fetch, Install, Load, Step, Unload, subject
from shared.bundle import install as bundles
from shared.bundle.chunks import missing
from shared.bundle.manifest import Chunk, Manifest, parse_manifest
from shared.protocol.desired import Generation, Limits
from shared.protocol.errors import Corrupt, Refused, Transient, Unavailable


class Seen(NamedTuple):
    """What the disk has."""

    manifests: dict[str, Manifest]
    chunks: frozenset[str]
    installed: frozenset[tuple[str, str]]
    failures: dict[str, Failure]


class Errands:
    """Runs steps; knows nothing of what comes next."""

    def __init__(self, tenant: str, disk: Disk, fetcher: Fetcher, host: ModelHost, loader: Loader) -> None:
        self._tenant = tenant
        self._disk = disk
        self._fetcher = fetcher
        self._host = host
        self._loader = loader

    async def run(self, step: Step, limits: Limits, *, progress: Callable[[int, int], None]) -> None:
        """Do `step`, whole or not at all.

        Raises:
            Refused, Corrupt: it failed, and counts against the model version.
            Transient: it failed for now.

        """
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

    def look(self, generations: Iterable[Generation]) -> Seen:
        """What the disk has of these generations. Blocks."""
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
        )

    def clear(self) -> None:
        """Remove what a crash left half written. Blocks."""
        self._disk.chunks.discard_unfinished()
        bundles.clear_staging(self._disk.bundles)

    def settle(self) -> None:
        """Make durable what a run that died in a step left under its name. Blocks."""
        self._disk.chunks.settle()
        bundles.settle(self._disk.bundles)

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
        need = sum(chunk.size for chunk in wanted) + sum(entry.size for entry in files)
        if limits.disk_bytes is not None:
            used = self._disk.chunks.total() + bundles.total(self._disk.bundles)
            if used + need > limits.disk_bytes:
                detail = f"{digest} needs {need} B, {used} of {limits.disk_bytes} B allowed are used"
                raise Transient(detail, why=Unavailable.STORAGE)
        bundles.check_space(self._disk.chunks.root, need, what=digest)
        return wanted

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


def named(step: Step) -> tuple[str, str]:
    """The step's name, and what its failure speaks against (`subject`); empty where it speaks against nothing."""
    match step:
        case Fetch():
            return "fetch", subject(step.model.digest)
        case Install() | Load():
            return type(step).__name__.lower(), subject(step.model.digest, step.variant)
        case _:
            return type(step).__name__.lower(), ""
