"""Starting a trial and hearing how it ends: whatever the child does, the parent gets a verdict, in bounded time and memory."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

import shared
from shared.protocol.errors import Corrupt, Transient, Unavailable
from shared.protocol.reported import Isolation
from shared.serving.trial.verdict import Died, Passed, TrialRequest, Verdict

PROGRAM = (sys.executable, "-P", "-m", "shared.serving.trial.child")
"""`-P`: nothing is imported from the current folder."""
PROBE_S = 30.0
LAST_STEPS_S = 2.0
"""How long a child may live on without its pipe."""
MAX_SAID = 1 << 20
MAX_COMPLAINTS = 1 << 16
"""What a pipe holds."""
_ENVIRONMENT = {
    # Nothing of the parent's: a secret that is not there cannot be read. One arena and one thread each, or the limit of
    # address space would go to reservations nobody uses.
    "LC_ALL": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAYON_NUM_THREADS": "1",
}


Trial = Callable[[TrialRequest], Awaitable[Verdict]]
"""Tries a variant; `try_bundle`, or what tests put in its place."""


class _Heard(NamedTuple):
    """What the child said and the end of its complaints; its exit status, negative for the signal that ended it.

    `late`: time ran out. `killed`: it would not end, and was ended.
    """

    said: bytes
    status: int
    late: bool
    killed: bool
    complaints: str


async def try_bundle(request: TrialRequest, *, program: Sequence[str] = PROGRAM) -> Verdict:
    """Try a variant in a process of its own; cancelling this ends it.

    Raises:
        Transient: no process can be started here and now.

    """
    heard = await _hear(program, _encoded(request), seconds=request.limits.seconds)
    isolation, verdict = _parsed(heard.said)
    if heard.late:
        return Died(isolation=isolation, code="too-slow", message=f"it takes longer than {request.limits.seconds:g} s")
    if verdict is not None and heard.status == 0 and not heard.killed:
        return verdict
    return _death(heard, isolation, request)


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
    heard = await _hear(program, b"", seconds=PROBE_S)
    return _parsed(heard.said)[0]


async def _hear(program: Sequence[str], request: bytes, *, seconds: float) -> _Heard:
    loop = asyncio.get_running_loop()
    process = _started(program, request)
    if process.stdout is None or process.stderr is None:
        raise RuntimeError("both streams are pipes")
    late, ended, said = False, False, bytearray()
    reader = asyncio.StreamReader(limit=MAX_COMPLAINTS)
    transport: asyncio.BaseTransport | None = None
    try:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        async with asyncio.timeout(seconds):
            while (block := await reader.read(MAX_COMPLAINTS)) and len(said) <= MAX_SAID:
                said += block
            ended = not block and await asyncio.to_thread(_ends, process)
    except TimeoutError:
        late = True
    finally:
        # Also where it ended by itself: it may have started others.
        _kill(process)
        if transport is not None:
            transport.close()
        status = await asyncio.shield(asyncio.to_thread(process.wait))
        complaints = _rest_of(process.stderr.fileno())
        process.stderr.close()
    return _Heard(bytes(said[:MAX_SAID]), status, late, not ended, complaints)


def _encoded(request: TrialRequest) -> bytes:
    # The child starts in another folder than this process.
    return msgspec.json.encode(msgspec.structs.replace(request, folder=str(Path(request.folder).absolute())))


def _started(program: Sequence[str], request: bytes) -> subprocess.Popen[bytes]:
    here = str(Path(shared.__file__).resolve().parents[1])
    try:
        # In memory: an agent's file system may be read-only but for its state folder.
        with os.fdopen(os.memfd_create("trial"), "w+b", buffering=0) as file:
            file.write(request)
            file.seek(0)
            return subprocess.Popen(  # noqa: S603 - our own program
                [*program, str(os.getpid())],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**_ENVIRONMENT, "PYTHONPATH": here},
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        raise Transient(f"a trial cannot be started: {error}", why=Unavailable.NOT_READY) from error


def _ends(process: subprocess.Popen[bytes]) -> bool:
    """Whether it ends by itself."""
    try:
        process.wait(LAST_STEPS_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all of its group. Its number cannot be another's yet: it was given back a moment ago at the most."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        process.kill()


def _rest_of(pipe: int) -> str:
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, MAX_COMPLAINTS).decode(errors="replace")
    except BlockingIOError:
        return ""  # somebody else has its other end


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


def _death(heard: _Heard, isolation: Isolation, request: TrialRequest) -> Died:
    last = "".join(c if c.isprintable() else " " for c in heard.complaints.strip().rpartition("\n")[2])[:300]
    memory = f"it needs more memory than there is for it, {request.limits.memory_bytes} B at the most"
    starved = any(words in heard.complaints for words in ("bad_alloc", "memory allocation of", "MemoryError"))
    if heard.killed:
        code, message = "crashed", "the trial said more than a trial says, or went on without a word"
    elif starved:
        code, message = "too-large", memory
    elif heard.status == -signal.SIGXCPU:
        code, message = "too-slow", f"it takes more processor time than {request.limits.seconds:g} s allow"
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
