"""Waiting for a condition with a deadline, for tests with real processes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], *, within: float = 20.0) -> T:
    """The first truthy value of `condition`, looked at every few milliseconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {condition}"
        time.sleep(0.02)


async def eventually(condition: Callable[[], Awaitable[T]], *, within: float = 20.0) -> T:
    """As `wait_for`, for a condition that is awaited."""
    async with asyncio.timeout(within):
        while True:
            value = await condition()
            if value:
                return value
            await asyncio.sleep(0.02)
