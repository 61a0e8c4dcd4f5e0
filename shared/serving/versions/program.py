"""A version's program, in memory or not: put in, put away, and made anew without anybody noticing. Loop's thread only."""

import asyncio
from collections.abc import Callable, Sequence

from shared.serving.decide.cost import Cost
from shared.serving.lanes.inline import Inline
from shared.serving.lanes.lanes import Lanes
from shared.serving.sessions.session import Session
from shared.serving.tasks.task import Prepared
from shared.serving.versions.program_files import ProgramFiles

MakeLanes = Callable[[Session, Sequence[Prepared]], Lanes]
"""The lanes of a session that is not loaded yet, and what they compute for nobody before they take a batch."""


class Program:
    """Owner of the lanes. `inline`: the loop's own lane, while the program is in memory and may run there."""

    def __init__(
        self, session: Session, *, reopen: Callable[[], Session], files: ProgramFiles, lanes: MakeLanes, inline: bool
    ) -> None:
        """`session` is not loaded yet; `reopen` opens another one of the same `files`."""
        self.session = session
        """The newest; closed while the program is not in memory, but it still tells inputs and outputs."""
        self.inline: Inline | None = None
        self.rehearsal: Sequence[Prepared] = ()
        """What a program that comes back computes once, so that no request pays for its first run."""
        self._reopen = reopen
        self._files = files
        self._make = lanes
        self._may_inline = inline
        self._lanes: Lanes | None = None
        self._fit = Cost()

    @property
    def is_in_memory(self) -> bool:
        """Whether batches are taken."""
        return self._lanes is not None

    async def start(self) -> None:
        """Load the program for the first time.

        Raises:
            Corrupt: it cannot be loaded.

        """
        await self._put_in(self.session)

    async def renew(self) -> Lanes | None:
        """Load the program again in fresh threads. What ran it until now, if it was in memory, takes nothing more and is returned.

        Raises:
            Corrupt: it cannot be loaded, or its files are no longer those that were checked.

        """
        await asyncio.to_thread(self._files.check)
        before = self._lanes
        await self._put_in(self._reopen())
        if before is not None:
            before.retire()
        return before

    def put_away(self) -> Lanes | None:
        """Take nothing more; memory and threads are given back once what is being computed is finished. They are returned."""
        if self.inline is not None:
            self._fit = self.inline.cost
        lanes, self._lanes, self.inline = self._lanes, None, None
        if lanes is not None:
            lanes.retire()
        return lanes

    async def stop(self) -> bool:
        """End what runs and close the queue; whether every thread ended in time."""
        lanes, self._lanes, self.inline = self._lanes, None, None
        return lanes is None or await lanes.stop()

    async def _put_in(self, session: Session) -> None:
        lanes = self._make(session, self.rehearsal)
        try:
            await lanes.start(inline=self._may_inline)
        except BaseException:
            lanes.retire()
            raise
        if lanes.inline is not None:
            # The same program on the same machine: what was learnt of it still holds.
            lanes.inline.cost = self.inline.cost if self.inline is not None else self._fit
        self._lanes, self.session, self.inline = lanes, session, lanes.inline
