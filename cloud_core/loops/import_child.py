"""The importer as a child process: started in a group of its own, heard line by line, held to its limits, ended with its whole group."""

import asyncio
import contextlib
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import psutil

from cloud_core.importer.request import Ended, Failed, Imported, Progressed, Said
from cloud_core.loops.import_files import size_of
from cloud_core.store.imports import ImportProblem
from shared.protocol.errors import Unavailable

T = TypeVar("T")
LONGEST_LINE = 1 << 20
MOST_LINES = 100_000
LOOK_S = 0.5
KEPT_ERRORS = 16 << 10
"""Bytes of standard error that are kept for the reason."""
LAST_WORDS_S = 5.0
"""How long a pipe is read once the process is gone; somebody else may hold its other end."""
LONGEST_DETAIL = 16 << 10
_MISSING = re.compile(r"No module named '([\w.]+)'")
_decode = msgspec.json.Decoder(Said).decode


class Limits(NamedTuple):
    """What one import may take, all its processes together."""

    memory_bytes: int
    seconds: float
    disk_bytes: int


class Ran(NamedTuple):
    """How it went: its last word, its exit status (negative: the signal that ended it), the limit it broke, the end of its complaints."""

    ended: Ended | None
    status: int
    over: ImportProblem | None
    complaints: str


async def run_child(
    argv: Sequence[str],
    *,
    work: Path,
    environment: Mapping[str, str],
    limits: Limits,
    said: Callable[[Progressed], None],
) -> Ran:
    """Run the importer in `work` to its end; cancelling this kills it and everything it started.

    Raises:
        OSError: it cannot be started.

    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=work,
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
        start_new_session=True,
    )
    if process.stdout is None or process.stderr is None:
        raise RuntimeError("both streams are pipes")
    hearing = asyncio.create_task(_heard(process.stdout, said, process.pid), name="import-says")
    complaints = asyncio.create_task(_tail(process.stderr), name="import-complaints")
    watching = asyncio.create_task(_watched(process.pid, work, limits), name="import-limits")
    over: ImportProblem | None = None
    try:
        async with asyncio.timeout(limits.seconds):
            await process.wait()
    except TimeoutError:
        over = _over("time-limit", f"it took longer than {limits.seconds:g} s", "import_seconds", limits.seconds)
    finally:
        kill_group(process.pid)
        watching.cancel()
        status = await process.wait()
        _, unheard = await asyncio.wait((hearing, complaints, watching), timeout=LAST_WORDS_S)
        for task in unheard:
            task.cancel()
    return Ran(_result(hearing), status, over or _result(watching), _result(complaints) or "")


def problem_of(ran: Ran) -> ImportProblem | None:
    """Why there is no bundle; None where the importer says that there is one."""
    if ran.over is not None:
        return ran.over
    match ran.ended:
        case Imported():
            return None
        case Failed(message=message, code="import-extra-missing"):
            return missing_extra(message)
        case Failed(message=message, code=code, field=field, value=value, allowed=allowed):
            detail = message if len(message) <= LONGEST_DETAIL else message[: LONGEST_DETAIL - 1] + "…"
            return ImportProblem(
                code=code[:64],
                detail=detail,
                field=field,
                value=value,
                allowed=allowed,
                refused=code not in _NOT_REFUSED,
            )
        case None:
            return _without_a_word(ran)


def missing_extra(detail: str) -> ImportProblem:
    """The environment that imports run in is not one."""
    return ImportProblem(
        code="import-extra-missing",
        detail=f"imports cannot run here: {detail}",
        field="import_python",
        allowed="a Python with tideline[import]: install it, or name one by CLOUD_CORE_IMPORT_PYTHON",
    )


def kill_group(leader: int) -> None:
    """End a process and everything in its group, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


_NOT_REFUSED = frozenset({*(why.value for why in Unavailable), "overloaded", "corrupt", "internal"})
"""Codes of what could not be done here and now; under every other the importer refuses what was asked for."""


def _without_a_word(ran: Ran) -> ImportProblem:
    last = ran.complaints.strip().rpartition("\n")[2][-1000:]
    if (missing := _MISSING.search(last)) is not None:
        return missing_extra(f"there is no module {missing.group(1)}")
    how = f"was ended by {_signal(-ran.status)}" if ran.status < 0 else f"ended with status {ran.status}"
    return ImportProblem(
        code="crashed", detail=f"the importer {how} and said nothing of it" + (f": {last}" if last else "")
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def _heard(stream: asyncio.StreamReader, said: Callable[[Progressed], None], leader: int) -> Ended | None:
    """Hear the importer out; its last word. What is no message is what libraries print, and is let be."""
    ended: Ended | None = None
    for _ in range(MOST_LINES):
        try:
            line = await stream.readline()
        except ValueError:
            continue  # longer than any message
        if not line:
            return ended
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = _decode(line)
            if isinstance(message, Progressed):
                said(message)
            else:
                ended = message
    kill_group(leader)
    return Failed(message=f"the importer said more than {MOST_LINES} lines", code="internal")


async def _tail(stream: asyncio.StreamReader) -> str:
    kept: deque[bytes] = deque()
    size = 0
    while block := await stream.read(4096):
        kept.append(block)
        size += len(block)
        while size - len(kept[0]) >= KEPT_ERRORS:
            size -= len(kept.popleft())
    return b"".join(kept).decode(errors="replace")


async def _watched(leader: int, work: Path, limits: Limits) -> ImportProblem:
    """Wait until a limit is broken, and end the group then."""
    while True:
        await asyncio.sleep(LOOK_S)
        memory = await asyncio.to_thread(_memory_of, leader)
        if memory > limits.memory_bytes:
            problem = _over(
                "memory-limit", f"it took {memory} bytes of memory", "import_memory_bytes", limits.memory_bytes
            )
            break
        disk = await asyncio.to_thread(size_of, work)
        if disk > limits.disk_bytes:
            problem = _over("disk-limit", f"it wrote {disk} bytes", "import_disk_bytes", limits.disk_bytes)
            break
    kill_group(leader)
    return problem


def _memory_of(leader: int) -> int:
    """Resident bytes of a process and all below it."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(leader)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += int(one.memory_info().rss)
    return total


def _over(code: str, detail: str, setting: str, most: float) -> ImportProblem:
    return ImportProblem(
        code=code, detail=f"the import was ended: {detail}", field=setting, allowed=f"{most:g} at most"
    )


def _result(task: asyncio.Task[T]) -> T | None:
    return task.result() if task.done() and not task.cancelled() else None
