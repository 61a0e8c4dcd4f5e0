"""Which processes make up one machine's control plane, as data for the supervisor; and ports that are theirs to keep."""

import socket
import sys

import msgspec

from cloud_core.config import Settings
from cloud_core.supervisor import ChildSpec
from shared.protocol.errors import Refusal, Refused

DRAIN_S = 10.0
"""Seconds a process waits for requests in flight when it is told to stop."""
_GRACE_S = DRAIN_S + 5.0
_HIGHEST = 65535


def children(settings: Settings) -> tuple[ChildSpec, ...]:
    """The broker first; stopping, those who take requests go first and the broker last."""
    program = (sys.executable, "-m", "cloud_core")
    specs = [
        ChildSpec("api", (*program, "serve", "--role", "api"), start=1, stop=0, grace=_GRACE_S),
        ChildSpec("gateway", (*program, "serve", "--role", "gateway"), start=1, stop=0, grace=_GRACE_S),
        ChildSpec("loops", (*program, "serve", "--role", "loops"), start=1, stop=2),
    ]
    if settings.mqtt_embedded:
        specs.insert(0, ChildSpec("broker", (*program, "serve", "--role", "broker"), start=0, stop=3))
    specs += [
        ChildSpec(replica_name(index), (*program, "replica", "--index", str(index)), start=1, stop=1, grace=_GRACE_S)
        for index in range(settings.replicas)
    ]
    return tuple(specs)


def replica_name(index: int) -> str:
    """The name of local replica `index`: in the registry, in logs and in `run/`."""
    return f"replica-{index}"


def with_ports(settings: Settings) -> Settings:
    """Settings in which every port of 0 is a free one, so that all processes know each other's and a restart keeps them.

    Raises:
        Refused: the replicas' ports do not fit below the highest there is.

    """
    changes: dict[str, int] = {}
    names = ["api_port", "gateway_port", *(["mqtt_port"] if settings.mqtt_embedded else [])]
    taken: set[int] = set()
    for name in names:
        if getattr(settings, name) == 0:
            # The gateway's gRPC is on the port after its HTTP's.
            n = 2 if name == "gateway_port" else 1
            changes[name] = _free(n, settings.host, taken)
            taken.update(range(changes[name], changes[name] + n))
    if settings.replica_port == 0:
        changes["replica_port"] = _free(max(1, 2 * settings.replicas), settings.replica_host, taken)
    fixed = msgspec.structs.replace(settings, **changes)
    if fixed.replica_port + 2 * fixed.replicas > _HIGHEST:
        raise Refused(
            "the replicas' ports do not fit", field="replica_port", value=fixed.replica_port, allowed="a lower port"
        )
    return fixed


def _free(n: int, host: str, taken: set[int]) -> int:
    """The first of `n` adjacent ports nobody listens on now."""
    for _ in range(100):
        with socket.socket(_family(host)) as probe:
            probe.bind((host, 0))
            first = int(probe.getsockname()[1])
        wanted = range(first, first + n)
        if first + n <= _HIGHEST and not taken & set(wanted) and all(_is_free(host, port) for port in wanted):
            return first
    raise Refused(
        "no free ports", kind=Refusal.CONFLICT, field="replica_port", value=0, allowed="a port of your choice"
    )


def _is_free(host: str, port: int) -> bool:
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
