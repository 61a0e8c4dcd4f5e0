"""`python -m cloud_core.loops.import_launch WALLS PROGRAM…`: puts limits on itself, then becomes PROGRAM. For the imports loop.

The importer reads formats that can name code, so it must hold nothing: it ends with its parent, takes so much memory and disk,
gains no privileges, reads no key and no database of ours, writes only its own folder, and has no network where its source is here.
What the kernel does not offer is left out: the importer's own care does not rest on it.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shared.io.landlock import wall_in

_PDEATHSIG, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 24, 38  # prctl(2)
_CAPABILITIES, _READ_SEARCH = 64, 2
"""How many a kernel may know; CAP_DAC_READ_SEARCH stays where it was held: our folders may lie below one that only root enters."""
_NEWUSER, _NEWNET = 0x10000000, 0x40000000  # unshare(2)
_NICE = 10
"""What serves and what decides comes first."""
_SHARED_MEMORY = (Path("/dev/null"), Path("/dev/shm"))  # noqa: S108 - where libraries keep semaphores, by its kernel's name


class Walls(msgspec.Struct, frozen=True, kw_only=True):
    """What a program may have. `parent` is the process that starts it; `hidden` are paths it cannot read, `work` it may write."""

    parent: int
    memory_bytes: int
    file_bytes: int
    network: bool
    work: str
    hidden: tuple[str, ...] = ()


def command(python: str, walls: Walls, program: Sequence[str]) -> list[str]:
    """The command line that runs `program` within `walls`. `-P`: nothing is imported from the current folder."""
    return [python, "-P", "-m", "cloud_core.loops.import_launch", msgspec.json.encode(walls).decode(), *program]


def raise_walls(walls: Walls) -> None:
    """Put them around this process, for good; ends at once where the parent is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != walls.parent:
        os._exit(1)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    # When memory runs out the kernel takes this process and not the control plane.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    os.nice(_NICE)
    for which, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, walls.file_bytes),
        (resource.RLIMIT_DATA, walls.memory_bytes),
    ):
        _, hard = resource.getrlimit(which)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (most, most))
    if not walls.network:
        _leave_network(libc)
    # What root may beyond its own files, such as reading other processes' memory; the program that is started has none of it.
    for capability in set(range(_CAPABILITIES)) - {_READ_SEARCH}:
        libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    wall_in(hidden=[Path(path) for path in walls.hidden], writable=[Path(walls.work), *_SHARED_MEMORY])


def _leave_network(libc: ctypes.CDLL) -> None:
    """A network namespace with nothing in it: alone where the process may, else within a user namespace of its own."""
    if libc.unshare(_NEWNET) == 0:
        return
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEWUSER | _NEWNET) == 0:
        # Under its own name, or libraries that ask who they run as find nobody.
        for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with contextlib.suppress(OSError):
                Path(f"/proc/self/{file}").write_text(text, encoding="ascii")


def main() -> None:
    """Entry point."""
    program = sys.argv[2:]
    raise_walls(msgspec.json.decode(sys.argv[1], type=Walls))
    os.execv(program[0], program)  # noqa: S606 - the program our own loop names


if __name__ == "__main__":
    main()
