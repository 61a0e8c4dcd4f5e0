"""What an agent tells of itself: where it listens, in its state folder, and how it stands, on `/health` and after its end."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from edge_agent.control.identity import load_identity
from edge_agent.control.state import FILE as RECORD
from edge_agent.control.state import AgentState, Slot
from edge_agent.control.trust_client import kept_trust
from edge_agent.control.tuner import summary_of
from shared.io.clock import SystemClock
from shared.io.durable import FolderLock, write_durably
from shared.protocol.errors import Refusal, Refused
from shared.protocol.reported import Isolation, Reported
from shared.protocol.trust import TrustReport
from shared.serving.tuning.records import Records

FILE = "agent.json"


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Where the agent that has this state folder listens."""

    pid: int
    url: str
    uds: str = ""


def announce(state: Path, running: Running) -> None:
    """Say where the agent listens, for whoever shares its folder."""
    write_durably(state / FILE, msgspec.json.encode(running))


def announced(state: Path) -> Running | None:
    """Where the last agent of this folder said it listens; it may have ended since."""
    try:
        return msgspec.json.decode((state / FILE).read_bytes(), type=Running)
    except (OSError, msgspec.DecodeError):
        return None


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """How the device stands with its control plane. `epoch` is that of the newest connection."""

    enrolled: bool
    connected: bool = False
    control_plane_online: bool = False
    epoch: int = 0


class Standing:
    """What `/health` tells besides readiness; filled in as the agent gets further."""

    def __init__(self, breaker: Callable[[], str]) -> None:
        self._breaker = breaker
        self.tenant = ""
        self.device = ""
        self.named = asyncio.Event()
        """Set once tenant and device are known."""
        self.link: Callable[[], Link] = lambda: Link(enrolled=False)
        self.report: Callable[[], Reported | None] = lambda: None
        self.isolation = Isolation.NONE
        self.trust: Callable[[], TrustReport | None] = lambda: None
        """How it stands with what may be installed."""
        self.running: Callable[[], Mapping[str, object] | None] = lambda: None
        """How models run here, and what was measured for it."""

    def enrolled(self, tenant: str, device: str, report: Callable[[], Reported | None]) -> None:
        """The device has a name in its fleet."""
        self.tenant, self.device, self.report = tenant, device, report
        self.named.set()

    def details(self) -> Mapping[str, object]:
        """Now."""
        return {
            "tenant": self.tenant or None,
            "device": self.device or None,
            "link": self.link(),
            "breaker": self._breaker(),
            "isolation": self.isolation,
            "trust": self.trust(),
            "tuning": self.running(),
            "reported": self.report(),
        }


def at_rest(folder: Path) -> dict[str, object]:
    """What the state folder of an agent that does not run tells. Blocks.

    Raises:
        Corrupt: the identity cannot be read.
        Refused: there is no such folder (not found), an agent runs on it (conflict), or a newer one wrote its record.

    """
    if not folder.is_dir():
        raise Refused("no agent ever ran here", kind=Refusal.NOT_FOUND, field="state_dir", value=str(folder))
    with FolderLock(folder, field="state_dir"):
        return _kept(folder, SystemClock().wall())


def _kept(folder: Path, now: float) -> dict[str, object]:
    identity = load_identity(folder)
    own = identity.enrolment if identity is not None else None
    told: dict[str, object] = {
        "running": False,
        "tenant": None if own is None else own.tenant,
        "device": None if own is None else own.device,
        "link": Link(enrolled=own is not None),
        "trust": None if identity is None or own is None else kept_trust(folder, identity, now),
        "tuning": {"found": [summary_of(record) for record in Records(folder).read()]},
    }
    if not (folder / RECORD).exists():
        return told
    state = AgentState(folder)
    try:
        for slot in Slot:
            told[slot.value] = _generation(state, slot)
        told["failures"] = {key: failure.error for key, failure in state.failures().items()}
    finally:
        state.close()
    return told


def _generation(state: AgentState, slot: Slot) -> dict[str, object] | None:
    found = state.generation(slot)
    if found is None:
        return None
    models = [{"name": model.name, "version": model.version, "variant": model.variant} for model in found.models]
    policy = {"name": found.policy_name, "revision": found.policy_revision, "mode": found.policy.mode.value}
    return {"epoch": found.epoch, "number": found.number, "models": models, "policy": policy}
