"""Which gRPC calls are in flight, and whether new ones are taken.

A server that stops refuses new calls itself, as unavailable, and goes on listening until those in flight are answered: gRPC's
own stop would cancel what arrives meanwhile, and a client does not try again what was cancelled.
"""

import asyncio
from types import TracebackType

from shared.protocol.errors import Transient, Unavailable


class Flights:
    """Used as a context around each call."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        """Begin a call.

        Raises:
            Transient: the server is stopping.

        """
        if self.stopping.is_set():
            raise stopping()
        self.count += 1
        self._idle.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.count -= 1
        if self.count == 0:
            self._idle.set()

    async def idle(self) -> None:
        """Until no call is in flight."""
        await self._idle.wait()


def stopping() -> Transient:
    """What those are told who ask a server that stops."""
    return Transient("the server is stopping", why=Unavailable.NOT_READY, retry_after=1.0)
