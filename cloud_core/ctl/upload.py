"""Files on their way to the server in chunks: only what it lacks is sent, so a broken upload goes on where it ended."""

import asyncio
from collections.abc import Callable, Iterable

from cloud_core.ctl.client import Client
from shared.bundle.manifest import Chunk

PARALLEL = 4
"""Chunks on their way at the same time."""


async def upload(
    client: Client,
    where: str,
    chunks: Iterable[Chunk],
    read: Callable[[Chunk], bytes],
    progress: Callable[[int, int], None],
) -> None:
    """Bring every chunk to the store at `where` (a path of the API).

    Args:
        client: of the API.
        where: the store's path, such as `/api/v1/chunks`.
        chunks: what is to be there afterwards.
        read: a chunk's bytes; called in a thread.
        progress: told of bytes sent and bytes to send, at the start and after each chunk.

    """
    asked = {chunk.digest: chunk for chunk in chunks}
    missing = (await client.send("POST", f"{where}:missing", {"digests": list(asked)}))["missing"]
    total, sent = sum(asked[digest].size for digest in missing), 0
    progress(sent, total)
    slots = asyncio.Semaphore(PARALLEL)

    async def send(chunk: Chunk) -> None:
        nonlocal sent
        async with slots:
            data = await asyncio.to_thread(read, chunk)
            kind = {"Content-Type": "application/octet-stream"}
            await client.send("PUT", f"{where}/{chunk.digest}", data, headers=kind)
            sent += chunk.size
            progress(sent, total)

    await asyncio.gather(*(send(asked[digest]) for digest in missing))
