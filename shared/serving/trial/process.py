"""A sacrificial process: started with what it is asked, heard while it speaks, ended with everything it started."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import shared
from shared.protocol.errors import Transient, Unavailable

LAST_STEPS_S = 2.0
"""How long a child may live on without its pipe."""
MAX_SAID = 1 << 20
MAX_COMPLAINTS = 1 << 16
"""What a pipe holds."""
ENVIRONMENT = {
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


class Heard(NamedTuple):
    """What a child said and the end of its complaints; its exit status, negative for the signal that ended it.

    `late`: time ran out. `killed`: it would not end, and was ended.
    """

    said: bytes
    status: int
    late: bool
    killed: bool
    complaints: str


async def hear(
    program: Sequence[str],
    request: bytes,
    *,
    seconds: float,
    line: Callable[[bytes], None] | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
) -> Heard:
    """Start `program` with `request` on its standard input and hear it to its end; cancelling this ends it.

    Args:
        program: what to start; the process id of this one is its last argument.
        request: what it reads.
        seconds: how long it may take in all, or, where `line` is given, from one line to the next.
        line: called with every whole line as it comes.
        environment: all of what it inherits.

    Raises:
        Transient: no process can be started here and now.

    """
    loop = asyncio.get_running_loop()
    process = _started(program, request, environment)
    if process.stdout is None or process.stderr is None:
        raise RuntimeError("both streams are pipes")
    late, ended, said, told = False, False, bytearray(), 0
    reader = asyncio.StreamReader(limit=MAX_COMPLAINTS)
    transport: asyncio.BaseTransport | None = None
    try:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        async with asyncio.timeout(seconds) as limit:
            while (block := await reader.read(MAX_COMPLAINTS)) and len(said) <= MAX_SAID:
                said += block
                if line is not None and b"\n" in block:
                    told = _tell(said, told, line)
                    limit.reschedule(loop.time() + seconds)
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
    return Heard(bytes(said[:MAX_SAID]), status, late, not ended, complaints)


def _tell(said: bytearray, told: int, line: Callable[[bytes], None]) -> int:
    """Pass on the whole lines beyond the first `told` bytes; how many bytes are told now."""
    end = said.rfind(b"\n") + 1
    for each in bytes(said[told:end]).splitlines():
        line(each)
    return end


def _started(program: Sequence[str], request: bytes, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
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
                env={**environment, "PYTHONPATH": here},
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
