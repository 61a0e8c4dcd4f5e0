"""How a process that answers requests stops: it takes no more, finishes what it has, and then ends what is left."""

import asyncio
from typing import Protocol

from shared.io.program import Program


class Stops(Protocol):
    """A `shared.io.web.Site`, or a gRPC one."""

    async def stop_accepting(self) -> None:
        """Take nothing new."""
        ...

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - the brief of a shutdown, not of a call
        """Wait for what is in flight, `timeout` seconds at most."""
        ...

    async def close(self) -> None:
        """End what is left."""
        ...


def stop_site(program: Program, *sites: Stops, drain: float) -> None:
    """Add the steps to `program`; `drain` is how many seconds requests in flight are waited for."""

    async def stop_accepting() -> None:
        await asyncio.gather(*(site.stop_accepting() for site in sites))

    async def drained() -> None:
        await asyncio.gather(*(site.drain(drain) for site in sites))

    async def close() -> None:
        await asyncio.gather(*(site.close() for site in sites))

    program.on_stop("stop accepting", stop_accepting)
    program.on_stop("drain", drained, timeout=drain + 1.0)
    program.on_stop("close", close)
