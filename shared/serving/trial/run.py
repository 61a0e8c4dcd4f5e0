"""Starting a trial and hearing how it ends: whatever the child does, the parent gets a verdict, in bounded time and memory."""

import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from shared.protocol.errors import Corrupt
from shared.protocol.reported import Isolation
from shared.serving.trial.process import Heard, hear
from shared.serving.trial.verdict import Died, Passed, TrialLimits, TrialRequest, Verdict

PROGRAM = (sys.executable, "-P", "-m", "shared.serving.trial.child")
"""`-P`: nothing is imported from the current folder."""
PROBE_S = 30.0
Trial = Callable[[TrialRequest], Awaitable[Verdict]]
"""Tries a variant; `try_bundle`, or what tests put in its place."""


async def try_bundle(request: TrialRequest, *, program: Sequence[str] = PROGRAM) -> Verdict:
    """Try a variant in a process of its own; cancelling this ends it.

    Raises:
        Transient: no process can be started here and now.

    """
    heard = await hear(program, _encoded(request), seconds=request.limits.seconds)
    isolation, verdict = _parsed(heard.said)
    if heard.late:
        return Died(isolation=isolation, code="too-slow", message=f"it takes longer than {request.limits.seconds:g} s")
    if verdict is not None and heard.status == 0 and not heard.killed:
        return verdict
    return death_of(heard, isolation, request.limits)


def passed(verdict: Verdict) -> Passed:
    """The verdict on what may be loaded.

    Raises:
        Corrupt: it must not be; `code` and message are the trial's.

    """
    if isinstance(verdict, Died):
        raise Corrupt(verdict.message, code=verdict.code)
    return verdict


async def isolation_here(*, program: Sequence[str] = PROGRAM) -> Isolation:
    """What keeps a trial off the network on this machine, found by starting a child that tries nothing.

    Raises:
        Transient: no process can be started here and now.

    """
    heard = await hear(program, b"", seconds=PROBE_S)
    return _parsed(heard.said)[0]


def _encoded(request: TrialRequest) -> bytes:
    # The child starts in another folder than this process.
    return msgspec.json.encode(msgspec.structs.replace(request, folder=str(Path(request.folder).absolute())))


def _parsed(said: bytes) -> tuple[Isolation, Verdict | None]:
    """The first line and the last; a verdict only where both are what they should be."""
    first, _, rest = said.partition(b"\n")
    try:
        isolation = msgspec.json.decode(first, type=Isolation)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Isolation.NONE, None
    last = rest.rstrip(b"\n").rpartition(b"\n")[2]
    try:
        return isolation, msgspec.json.decode(last, type=Verdict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return isolation, None


def death_of(heard: Heard, isolation: Isolation, limits: TrialLimits) -> Died:
    """How a child ended that had limits and came to no verdict."""
    last = "".join(c if c.isprintable() else " " for c in heard.complaints.strip().rpartition("\n")[2])[:300]
    memory = f"it needs more memory than there is for it, {limits.memory_bytes} B at the most"
    starved = any(words in heard.complaints for words in ("bad_alloc", "memory allocation of", "MemoryError"))
    if heard.killed:
        code, message = "crashed", "the trial said more than a trial says, or went on without a word"
    elif starved:
        code, message = "too-large", memory
    elif heard.status == -signal.SIGXCPU:
        code, message = "too-slow", f"it takes more processor time than {limits.seconds:g} s allow"
    elif heard.status == -signal.SIGKILL:
        code, message = "too-large", f"{memory}: the kernel ended it"
    elif heard.status < 0:
        code, message = "crashed", f"it kills the process that loads it ({_signal(-heard.status)})"
    else:
        code, message = "crashed", f"the trial ended with status {heard.status} and no verdict"
    return Died(isolation=isolation, code=code, message=f"{message}: {last}" if last else message)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
