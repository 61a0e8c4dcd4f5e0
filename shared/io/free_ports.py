"""Ports to keep: free now, and outside the range the kernel hands to outgoing connections.

A port that `bind(0)` names is free only while it is held: let go, any connection on the machine may be given it before
the process it was meant for listens, or while that process restarts. So ports that are told to another process, or kept
over a restart, come from below the kernel's range (`ip_local_port_range`, ip(7)), and each process begins in a stretch of its own,
so that two that look at once do not meet.
"""

import os
import secrets
import socket
from collections.abc import Set
from pathlib import Path

from shared.protocol.errors import Refusal, Refused

_LOWEST, _HIGHEST = 10_240, 65_535
_EPHEMERAL = 32_768
"""Where Linux begins unless told otherwise."""
_STRETCH = 256
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def find_ports(host: str, n: int = 1, *, taken: Set[int] = frozenset(), field: str = "port") -> int:
    """The first of `n` adjacent ports on `host` nobody listens on now, none of them in `taken`.

    Another call may find the same ones until somebody listens there: ask for those that belong together at once, or say what is `taken`.

    Raises:
        Refused: there are none; `field` names the setting that asked.

    """
    candidates = range(_LOWEST, _end() - n)
    start = os.getpid() * _STRETCH + secrets.randbelow(_STRETCH // 2)
    for turn in range(len(candidates)):
        first = candidates[(start + turn) % len(candidates)]
        wanted = range(first, first + n)
        if not taken & set(wanted) and all(is_free(host, port) for port in wanted):
            return first
    raise Refused("no free ports", kind=Refusal.CONFLICT, field=field, value=0, allowed="a port of your choice")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
        return True


def _end() -> int:
    """The end of the ports to choose from; where the kernel's range leaves too few, all of them."""
    try:
        first = int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = _EPHEMERAL
    return first if first >= _LOWEST + 2 * _STRETCH else _HIGHEST
