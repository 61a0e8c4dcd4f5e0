"""What was spent of the cloud budget, on disk: a restart is no new day.

Written a second after it changed and at the end, off the event loop: a power cut forgets what was spent in that second, and no more.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_agent.decide.budget import Spent
from shared.io.durable import write_durably
from shared.io.logs import Log

FILE = "spent.json"
EVERY_S = 1.0


class Ledger:
    """Owner of the file in the state folder `folder`."""

    def __init__(self, folder: Path, log: Log) -> None:
        self._path = folder / FILE
        self._log = log
        self._written = Spent()

    def read(self) -> Spent:
        """What was spent, as it was written last; nothing where there is no record, or none that can be read."""
        try:
            self._written = msgspec.json.decode(self._path.read_bytes(), type=Spent)
        except FileNotFoundError:
            return Spent()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            # The budget begins anew rather than barring the cloud until tomorrow.
            self._log.error("what was spent of the cloud budget cannot be read", path=str(self._path), error=str(error))
            return Spent()
        return self._written

    async def keep_forever(self, spent: Callable[[], Spent]) -> None:
        """Write `spent()` whenever it changed."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.keep(spent())

    async def keep(self, spent: Spent) -> None:
        """Write it now, unless it is as written last; a full disk is logged, and tried again."""
        if spent == self._written:
            return
        try:
            await asyncio.to_thread(write_durably, self._path, msgspec.json.encode(spent))
        except OSError as error:
            self._log.warning("what was spent of the cloud budget cannot be written", error=str(error))
            return
        self._written = spent
