"""Mosquitto in the embedded broker's place: its password and access files, kept from the same rows and the same table of topics.

Mosquitto puts the username, `tenant/device`, in place of `%u`, so one pattern serves every device; only a tenant's own topics
need a line per device. `use_username_as_clientid` ties connections to their users, which is why each process of the control
plane has a username of its own.
"""

import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from cloud_core.broker.passwords import check_password, hash_password
from cloud_core.broker.principal import CONTROL_PLANE, SERVICE_ROLES, principal_of, service_name
from cloud_core.broker.streams import MAX_PACKET
from cloud_core.keys import SERVICE_USER
from cloud_core.store.devices import Credential
from shared.io.durable import write_durably
from shared.protocol.topics import TOPICS, Role, Topic

PASSWORDS, ACCESS, CONF = "passwords", "access", "tideline.conf"
MAX_KEEPALIVE_S = 600


def provision(folder: Path, credentials: Iterable[Credential], *, service_password: str) -> bool:
    """Write both files durably for all devices and the control plane; whether either changed."""
    rows = sorted(credentials, key=lambda row: (row.tenant, row.device))
    rows = [row for row in rows if principal_of(f"{row.tenant}/{row.device}") not in (None, CONTROL_PLANE)]
    held = _read(folder / PASSWORDS)
    service = _service_lines(held, service_password)
    devices = [f"{row.tenant}/{row.device}:{row.mqtt_password_hash}" for row in rows]
    passwords = "".join(f"{line}\n" for line in (*service, *devices))
    access = access_of(rows)
    has_changed = False
    for name, held_text, text in ((ACCESS, _read(folder / ACCESS), access), (PASSWORDS, held, passwords)):
        if held_text != text:
            write_durably(folder / name, text.encode(), mode=0o640)
            has_changed = True
    return has_changed


def access_of(rows: Sequence[Credential]) -> str:
    """The access file: patterns for every device, lines per device for its tenant's topics, and the control plane."""
    lines = ["# Made from Tideline's table of topics; changes are overwritten.", *_patterns()]
    for row in rows:
        lines += ["", f"user {row.tenant}/{row.device}"]
        lines += [
            f"topic {verb} {_filter(topic, tenant=row.tenant)}"
            for verb, topic in _granted(Role.DEVICE)
            if _is_tenants(topic)
        ]
    for name in _service_names():
        lines += ["", f"user {name}"]
        lines += [f"topic {verb} {_filter(topic, tenant='+')}" for verb, topic in _granted(Role.CLOUD)]
    return "\n".join(lines) + "\n"


def conf(folder: Path, *, host: str, port: int, pid_file: str = "") -> str:
    """A configuration to start Mosquitto 2 with, or to include in one's own."""
    lines = [
        f"listener {port} {host}",
        "allow_anonymous false",
        f"password_file {folder / PASSWORDS}",
        f"acl_file {folder / ACCESS}",
        "# A connection belongs to its user: nobody takes over another's by its client id.",
        "use_username_as_clientid true",
        f"max_packet_size {MAX_PACKET}",
        f"max_keepalive {MAX_KEEPALIVE_S}",
        "# An acknowledgement must not wait for that of the one before.",
        "set_tcp_nodelay true",
        "max_inflight_messages 100",
        "max_queued_messages 1000",
        "# Sessions are clean and levels are sent again: nothing here needs to survive the broker.",
        "persistence false",
        "allow_zero_length_clientid false",
        *([f"pid_file {pid_file}"] if pid_file else []),
    ]
    return "\n".join(lines) + "\n"


def write_conf(folder: Path, *, host: str, port: int, pid_file: str = "") -> Path:
    """Write `conf` beside the files it names; its path."""
    path = folder / CONF
    write_durably(path, conf(folder.absolute(), host=host, port=port, pid_file=pid_file).encode())
    return path


def reload(pid_file: Path) -> bool:
    """Have Mosquitto read its files again (SIGHUP); False if it does not run."""
    try:
        os.kill(int(pid_file.read_text().strip()), signal.SIGHUP)
    except (OSError, ValueError):
        return False
    return True


def _service_names() -> tuple[str, ...]:
    return (SERVICE_USER, *(service_name(role) for role in SERVICE_ROLES))


def _service_lines(held: str, password: str) -> list[str]:
    """Hashes have random salts: those that still hold are kept, so that the file changes only when something did."""
    stored = dict(line.split(":", 1) for line in held.splitlines() if ":" in line)
    lines = []
    for name in _service_names():
        known = stored.get(name, "")
        lines.append(f"{name}:{known if check_password(password, known) else hash_password(password)}")
    return lines


def _patterns() -> list[str]:
    return [f"pattern {verb} {_own(topic)}" for verb, topic in _granted(Role.DEVICE) if "{d}" in topic.pattern] + [
        f"pattern {verb} {topic.pattern}" for verb, topic in _granted(Role.DEVICE) if "{t}" not in topic.pattern
    ]


def _granted(role: Role) -> list[tuple[str, Topic]]:
    """(read, write or readwrite; row) of everything `role` may do."""
    found = []
    for topic in TOPICS:
        reads, writes = role in topic.readers, topic.writer is role
        if reads or writes:
            found.append(("readwrite" if reads and writes else "read" if reads else "write", topic))
    return found


def _is_tenants(topic: Topic) -> bool:
    return "{t}" in topic.pattern and "{d}" not in topic.pattern


def _own(topic: Topic) -> str:
    return topic.pattern.replace("{t}/{d}", "%u").replace("{x}", "+")


def _filter(topic: Topic, *, tenant: str) -> str:
    return topic.pattern.replace("{t}", tenant).replace("{d}", "+").replace("{x}", "+")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
