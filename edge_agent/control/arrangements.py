"""How each version runs on this device: asked before every load, remembered for whoever wants to know.

What was measured is read from disk each time, so that a run by hand, in another process, counts too.
"""

import asyncio
from collections.abc import Collection, Mapping

from edge_agent.decide.arranging import Arranged, Fixed, Wishes, arrange
from shared.bundle.manifest import Manifest, TaskKind, Variant
from shared.protocol.desired import Limits
from shared.protocol.reported import Tuned
from shared.serving.arrangement import Arrangement
from shared.serving.decide.tuned import Machine, Record, arrangement_in, found_in
from shared.serving.decide.ways import Space
from shared.serving.tuning.machine import programs_of
from shared.serving.tuning.records import Records

NO_LIMITS = Limits()


class Arrangements:
    """Owner of how versions were loaded. Loop's thread only."""

    def __init__(self, records: Records, machine: Machine, wishes: Wishes) -> None:
        self.machine = machine
        self._key = machine.key
        self.wishes = wishes
        self.records = records
        self.loaded: dict[tuple[str, str], Arranged] = {}
        """By name and version, as of its last load."""
        self.known: tuple[Record, ...] = ()
        """Records of this machine, as of the last look at the disk, oldest first."""
        self.news = asyncio.Event()
        """Set when a version was loaded, or may have to run otherwise than it does."""
        self._failed: dict[tuple[str, str], frozenset[Arrangement]] = {}

    async def refresh(self) -> None:
        """Look at the disk."""
        records = await asyncio.to_thread(self.records.read)
        self.known = tuple(record for record in records if record.machine == self.machine)

    async def choose(
        self,
        manifest: Manifest,
        digest: str,
        variant: str,
        *,
        told: Arrangement | None = None,
        limits: Limits = NO_LIMITS,
    ) -> Arranged:
        """How `variant` is to be loaded now."""
        await self.refresh()
        program = manifest.variant(variant)
        record = self.found(digest, self.space(manifest, (program,), limits))
        return arrange(
            self.fixed(limits),
            program,
            told=told,
            measured=arrangement_in(record, variant),
            cores=self.machine.cores,
            runtimes=self.machine.runtimes,
            failed=self._failed.get((digest, variant), frozenset()),
        )

    def does_not_run(self, digest: str, variant: str, how: Arrangement) -> None:
        """A variant was not loaded like this: not to be tried again in this process."""
        self._failed[digest, variant] = self._failed.get((digest, variant), frozenset()) | {how}

    def is_loaded(self, name: str, version: str, arranged: Arranged) -> None:
        """A version was loaded like this."""
        self.loaded[name, version] = arranged
        self.news.set()

    def space(self, manifest: Manifest, variants: tuple[Variant, ...], limits: Limits = NO_LIMITS) -> Space:
        """What a run on this device may choose from, `variants` in the order of preference."""
        fixed = self.fixed(limits)
        return Space(
            programs=tuple(
                program
                for variant in variants
                for program in programs_of(variant, self.machine, exact=manifest.task is TaskKind.TEXT_GENERATION)
            ),
            cores=self.machine.cores,
            lanes=fixed.lanes,
            threads=fixed.threads,
            spinning=self.wishes.dedicated,
            batched=manifest.task is not TaskKind.TENSOR,
            seconds=self.wishes.seconds,
        )

    def fixed(self, limits: Limits) -> Fixed:
        """What is not to be chosen; a generation's limit goes before the device's own setting."""
        own = self.wishes.fixed
        return own if limits.threads is None else Fixed(lanes=own.lanes, threads=limits.threads)

    def found(self, digest: str, space: Space) -> Record | None:
        """The record that answers what a run through `space` would ask."""
        return found_in(self.known, digest, self.machine, space)

    def advised(self) -> Mapping[str, str]:
        """The variant that was found best, by digest, from the widest choice that was measured here."""
        widest: dict[str, Record] = {}
        for record in self.known:
            before = widest.get(record.digest)
            if record.way is not None and (before is None or len(before.space.variants) <= len(record.space.variants)):
                widest[record.digest] = record
        return {digest: record.way.variant for digest, record in widest.items() if record.way is not None}

    def upstream(self, digests: Collection[str]) -> tuple[Tuned, ...]:
        """What was found here of these versions, the newest of each."""
        newest = {record.digest: record for record in self.known if record.digest in digests}
        return tuple(
            Tuned(
                digest=digest,
                variant=record.way.variant,
                arrangement=record.way.arrangement,
                seconds={str(n): each for n, each in record.best.seconds.items()} if record.best is not None else {},
                machine=self._key,
                at=record.at,
            )
            for digest, record in sorted(newest.items())
            if record.way is not None
        )
