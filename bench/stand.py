"""Servers in hand while several are compared; one that takes CPU while it has nothing to do is stopped (SIGSTOP) until its turn."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import psutil

from bench import rounds
from bench.client import Load, Measured, measure
from bench.servers import Answer, Running, ask, started


class Contestant(NamedTuple):
    """How a server is started, where it listens, and what it is asked.

    `slowness`: how many times longer it is measured. `restless`: it is to be stopped between its measurements.
    """

    name: str
    command: Sequence[str]
    port: int
    requests: tuple[bytes, ...]
    check: Callable[[Answer], None]
    """Raises RuntimeError where the first answer is wrong."""
    environment: Mapping[str, str] = {}
    slowness: float = 1.0
    restless: bool = False


class _Held(NamedTuple):
    contestant: Contestant
    running: Running
    end: contextlib.ExitStack


class Stand:
    """Owner of the servers; ends them all when the block ends."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._held):
            self.end(name)

    def start(self, each: Contestant) -> None:
        """Start a server and look at its first answer.

        Raises:
            RuntimeError: it does not answer, or wrong; nothing is left of it.

        """
        with contextlib.ExitStack() as stack:
            serving = started(each.command, port=each.port, first=each.requests[0], environment=each.environment)
            running = stack.enter_context(serving)
            each.check(ask(each.port, each.requests[0]))
            if each.restless:
                # Ended while it is stopped, a process would not hear of it.
                stack.callback(_signal, running, psutil.Process.resume)
                _signal(running, psutil.Process.suspend)
            self._held[each.name] = _Held(each, running, stack.pop_all())

    def measure(self, name: str, *, clients: int, seconds: float) -> Measured:
        """One closed-loop measurement of one server, `clients` at once.

        Raises:
            RuntimeError: it cannot be asked any more; says how it is.

        """
        each, running, _ = self._held[name]
        wanted = rounds.seconds(seconds * each.slowness)
        load = Load(
            requests=each.requests,
            connections=clients,
            port=each.port,
            seconds=wanted,
            warm=wanted / 4,
            pids=(running.pid,),
        )
        with _awake(running) if each.restless else contextlib.nullcontext():
            try:
                return measure(load)
            except RuntimeError as error:
                raise RuntimeError(f"{name} cannot be asked any more: {running.said()} ({error})") from error

    def end(self, name: str) -> None:
        """End a server."""
        self._held.pop(name).end.close()


@contextlib.contextmanager
def _awake(running: Running) -> Iterator[None]:
    _signal(running, psutil.Process.resume)
    try:
        yield
    finally:
        _signal(running, psutil.Process.suspend)


def _signal(running: Running, send: Callable[[psutil.Process], None]) -> None:
    """To the whole process tree, the root first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(running.pid)
        for each in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                send(each)
