"""A bounded closed-loop load on one edge, counted by what each answer says of itself."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import aiohttp
import msgspec

from shared.protocol.topics import Header


class Outcome(msgspec.Struct, kw_only=True):
    """What a load saw: answers by where they were computed, refusals by status, and the latencies in seconds."""

    where: Counter[str] = msgspec.field(default_factory=Counter)
    why: Counter[str] = msgspec.field(default_factory=Counter)
    refused: Counter[int] = msgspec.field(default_factory=Counter)
    broken: int = 0
    latencies: list[float] = msgspec.field(default_factory=list)

    @property
    def answered(self) -> int:
        """How many requests got an answer."""
        return self.where.total()

    def quantile(self, q: float) -> float:
        """Latency quantile of the answers, seconds; 0 where there are none."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


async def load(
    url: str, *, model: str, texts: Sequence[str], clients: int, batch: int, requests: int, deadline_ms: float
) -> Outcome:
    """Send `requests` batches of `batch` texts through `clients` concurrent callers and count the outcome."""
    outcome = Outcome()
    clock = asyncio.get_running_loop().time
    left = iter(range(requests))

    async def client(session: aiohttp.ClientSession) -> None:
        for i in left:
            body = {"model": model, "input_texts": [texts[(i * batch + j) % len(texts)] for j in range(batch)]}
            started = clock()
            try:
                async with session.post(
                    f"{url}/batch_predict", json=body, headers={Header.DEADLINE_MS: f"{deadline_ms:g}"}
                ) as answer:
                    await answer.read()
                    if answer.status == 200:
                        outcome.where[answer.headers[Header.WHERE]] += 1
                        outcome.why[answer.headers[Header.WHY]] += 1
                        outcome.latencies.append(clock() - started)
                    else:
                        outcome.refused[answer.status] += 1
                        # A shed caller backs off; hammering would measure the refusals.
                        await asyncio.sleep(min(0.2, float(answer.headers.get("Retry-After", "0.05"))))
            except (aiohttp.ClientError, TimeoutError):
                outcome.broken += 1

    connector = aiohttp.TCPConnector(limit=clients)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(clients):
            group.create_task(client(session))
    return outcome
