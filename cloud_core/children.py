"""Which processes make up one machine's control plane, as data for the supervisor; and ports that are theirs to keep."""

import sys

import msgspec

from cloud_core.config import Settings
from cloud_core.supervisor import ChildSpec
from shared.io.free_ports import find_ports
from shared.protocol.errors import Refused

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
            changes[name] = find_ports(settings.host, n, taken=taken, field=name)
            taken.update(range(changes[name], changes[name] + n))
    if settings.replica_port == 0:
        n = max(1, 2 * settings.replicas)
        changes["replica_port"] = find_ports(settings.replica_host, n, taken=taken, field="replica_port")
    fixed = msgspec.structs.replace(settings, **changes)
    if fixed.replica_port + 2 * fixed.replicas > _HIGHEST:
        raise Refused(
            "the replicas' ports do not fit", field="replica_port", value=fixed.replica_port, allowed="a lower port"
        )
    return fixed
