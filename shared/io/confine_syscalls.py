"""The system calls a confined process is refused: a seccomp filter (seccomp(2)) in classic BPF, for x86-64 and AArch64.

Refused with EACCES: sockets of every family and connecting them, starting programs and processes (threads may be started),
looking into or signalling other processes, and io_uring, which could do most of that unseen. Nothing undoes the filter.
"""

import ctypes
import os
import platform
import struct
from typing import NamedTuple

ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | 13  # SECCOMP_RET_ERRNO with EACCES
UNKNOWN = 0x00050000 | 38  # ENOSYS: libraries fall back to what the filter can judge

REFUSED: dict[str, tuple[int, int]] = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kill": (62, 129), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "unshare": (272, 97), "setns": (308, 268),
    "io_uring_setup": (425, 425), "bpf": (321, 280), "userfaultfd": (323, 282), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219),
}  # fmt: skip
"""Numbers on x86-64 and on AArch64."""
_FORKS = (57, 58)  # fork and vfork, on x86-64 only
_CLONE3 = 435

_FILTER, _SET_SECCOMP = 2, 22  # SECCOMP_MODE_FILTER, PR_SET_SECCOMP
_CLONE_THREAD = 0x10000
_X32 = 0x40000000
"""Call numbers from here up are x32's, under the same architecture's name."""
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in `struct seccomp_data`; both machines are little-endian, so the first argument's low half comes first."""


class _Machine(NamedTuple):
    audit: int
    refused: tuple[int, ...]
    clone: int
    tgkill: int


_MACHINES = {
    "x86_64": _Machine(0xC000003E, (*(x86 for x86, _ in REFUSED.values()), *_FORKS), clone=56, tgkill=234),
    "aarch64": _Machine(0xC00000B7, tuple(arm for _, arm in REFUSED.values()), clone=220, tgkill=131),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def filter_of(machine: str, pid: int) -> bytes | None:
    """The filter of process `pid` on a machine as `uname -m` names it; None for one it is not written for."""
    known = _MACHINES.get(machine)
    if known is None:
        return None
    left = len(known.refused)
    # A jump says how many instructions are skipped. After the table come 10: the last three are the verdicts.
    program = [
        _op(_LOAD, _ARCHITECTURE),
        _op(_EQUAL, known.audit, no=left + 10),
        _op(_LOAD, _NUMBER),
        _op(_AT_LEAST, _X32, yes=left + 8),
        *(_op(_EQUAL, number, yes=left - i + 7) for i, number in enumerate(known.refused)),
        _op(_EQUAL, _CLONE3, yes=8),
        _op(_EQUAL, known.clone, yes=3),
        _op(_EQUAL, known.tgkill, no=4),
        _op(_LOAD, _FIRST_ARGUMENT),
        _op(_EQUAL, pid, yes=2, no=3),
        _op(_LOAD, _FIRST_ARGUMENT),
        _op(_ANY_BIT, _CLONE_THREAD, no=1),
        _op(_RETURN, ALLOW),
        _op(_RETURN, REFUSE),
        _op(_RETURN, UNKNOWN),
    ]
    return b"".join(program)


def refuse_calls(libc: ctypes.CDLL) -> bool:
    """Put the filter on this process, before it has threads; whether the kernel took it. Needs `no_new_privs`."""
    code = filter_of(platform.machine(), os.getpid())
    if code is None:
        return False
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(held))
    done: int = libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)
    return done == 0


def _op(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One `struct sock_filter`: operation, how many instructions to skip when it holds and when not, and its operand."""
    return struct.pack("<HBBI", code, yes, no, value)
