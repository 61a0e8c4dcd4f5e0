"""The machine's cores, shared by every model of a process: no more threads compute at once than there are cores.

Threads that compete for cores make every batch slower and its time unpredictable; waiting their turn costs nothing. First
come, first served, so that a large run is not overtaken for ever by small ones. Runs of one step of a generator take turns with
other models' batches.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Cores:
    """`total` cores; any thread may hold some of them."""

    def __init__(self, total: int) -> None:
        self.total = max(1, total)
        self._free = self.total
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @contextmanager
    def held(self, wanted: int) -> Iterator[None]:
        """Wait for `wanted` cores, all of them at most, and hold them for the block."""
        n = min(max(1, wanted), self.total)
        turn: threading.Event | None = None
        with self._lock:
            if not self._waiting and self._free >= n:
                self._free -= n
            else:
                turn = threading.Event()
                self._waiting.append((n, turn))
        if turn is not None:
            turn.wait()
        try:
            yield
        finally:
            with self._lock:
                self._free += n
                while self._waiting and self._waiting[0][0] <= self._free:
                    n_next, turn = self._waiting.popleft()
                    self._free -= n_next
                    turn.set()
