"""Work that is worth doing only while its client waits: it is cancelled when the connection is gone.

Handlers of this API run to their end otherwise, so that a write is never cut in two.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

from shared.protocol.errors import Transient, Unavailable

T = TypeVar("T")
LOOK_S = 0.25


async def while_present(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`.

    Raises:
        Transient: the client went away; `work` was cancelled and has ended. Nobody hears this.

    """
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_S)
            if not task.done() and (request.transport is None or request.transport.is_closing()):
                raise Transient("the client is gone", why=Unavailable.CANCELLED)
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
