"""Who may connect to a server, and what all clients hold of it together.

Invariants:

* there are never more connections than `Limits.connections`: a new one takes the place of the one that was waited for the
  longest, and is turned away only where all are being answered;
* bodies in flight hold `Limits.bodies_bytes` together at the most, not counting the first `PIECE` bytes of each.
"""

import asyncio
import resource
from collections.abc import Callable
from typing import Protocol

import msgspec

from shared.protocol.errors import Overloaded

PIECE = 64 * 1024
"""Bytes that must come or go in `Limits.patience_s`; bodies up to this size are always taken."""
_SPARE_FILES = 128
"""Open files that are left to the rest of the process."""
_RETRY_S = 1.0


Turnstile = Callable[[bytes], bytes | None]
"""What to answer at once to a piece of what a client sent: no bytes where it is let in, None where nothing was judged."""


class Client(Protocol):
    """One connection."""

    def end(self) -> None:
        """End it now."""
        ...


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one site. `idle_s`: how long a connection may take to send the whole head of its next request."""

    connections: int = 2048
    idle_s: float = 75.0
    patience_s: float = 30.0
    bodies_bytes: int = 256 * 1024 * 1024


class Door:
    """The connections of one site, and what they hold together."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = min(limits.connections, max(files - _SPARE_FILES, files // 2, 1))
        """Connections at once: fewer than were asked for where the process may not open as many files."""
        self.decoding = asyncio.Semaphore(1)
        """Large bodies are decoded one after the other: decoded they are several times what they were."""
        self.open = 0
        self.turned_away = 0
        self.held = 0
        self.turnstile: Turnstile | None = None
        """Asked about what comes before it is parsed, while it is set."""
        self._waited_for: dict[Client, None] = {}

    def enter(self, client: Client) -> bool:
        """Whether there is a place for `client`; makes one where somebody can be sent away."""
        if self.open >= self.most:
            longest = next(iter(self._waited_for), None)
            if longest is None:
                self.turned_away += 1
                return False
            del self._waited_for[longest]
            longest.end()
        self.open += 1
        self._waited_for[client] = None
        return True

    def leave(self, client: Client) -> None:
        """It is gone."""
        self.open -= 1
        self._waited_for.pop(client, None)

    def answering(self, client: Client) -> None:
        """Its request is here: from now on it waits for us."""
        self._waited_for.pop(client, None)

    def waiting(self, client: Client) -> None:
        """Its answer is out: from now on we wait for it."""
        self._waited_for[client] = None

    def check(self, more: int) -> None:
        """See whether there is room for `more` bytes of a body.

        Raises:
            Overloaded: there is none.

        """
        if more > 0 and self.held + more > self.limits.bodies_bytes:
            raise Overloaded("too many large bodies at once", retry_after=_RETRY_S, code="bodies")
