"""Reading what a server sends, and not more than it may."""

import aiohttp

from shared.protocol.errors import Transient, Unavailable


async def read_all(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole body, at most `most` bytes.

    Raises:
        Transient: it is longer.

    """
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > most:
            raise Transient("the answer does not end", why=Unavailable.UNREACHABLE)
        parts.append(part)
    return b"".join(parts)
