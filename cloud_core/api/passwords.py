"""Passwords of people: argon2id, computed beside the event loop, a few at a time.

A check costs the same whether the user exists or not, so that nobody learns names from the time an answer takes.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from shared.protocol.errors import Overloaded, Refusal, Refused

T = TypeVar("T")
PARALLEL = 2
WAITING = 32
SHORTEST, LONGEST = 8, 1024


class Passwords:
    """Hashes and checks; refuses work beyond a short queue, so that logins cannot starve the API."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._slots = asyncio.Semaphore(PARALLEL)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """What is stored of `password`."""
        return await self._aside(lambda: self._hasher.hash(password))

    async def check(self, password: str, stored: str | None) -> bool:
        """Whether `password` is the one `stored` was made of; with None as much work for nothing."""
        if stored is None:
            await self.hash(password)
            return False
        return await self._aside(lambda: self._matches(password, stored))

    async def _aside(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING:
            raise Overloaded("too many logins at once", retry_after=1.0)
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1

    def _matches(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False


def checked_password(password: str, *, field: str = "password") -> str:
    """Refuse a password that is too short to be one, or so long that hashing it is an attack."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Refused(
            "not an acceptable password",
            kind=Refusal.UNPROCESSABLE,
            field=field,
            allowed=f"{SHORTEST} to {LONGEST} characters",
        )
    return password
