"""One device in a rollout: how far it is, from what it reports. Pure.

    waiting -> updating -> succeeded
       ^          |------> failed (it gave the version up) -- retries left --> waiting, until `retry_at`
       '----------'------> timed_out (it was there, and not done in time)

A device has the new version while it is updating or succeeded; in every other state it is given what it had before. How often a
device goes offline does not matter: it is counted apart, and its time runs only while it is there.
"""

from enum import StrEnum

import msgspec

from shared.protocol.desired import Order

MOST_ERROR = 500


class DeviceState(StrEnum):
    """Where a device stands in a rollout."""

    WAITING = "waiting"
    UPDATING = "updating"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


HAVING = frozenset({DeviceState.UPDATING, DeviceState.SUCCEEDED})
"""States in which the device is given the new version."""
BAD = frozenset({DeviceState.FAILED, DeviceState.TIMED_OUT})
COMPLETED = frozenset({DeviceState.SUCCEEDED}) | BAD


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is allowed: seconds for an attempt, further attempts, and seconds before the first of these (then doubled)."""

    timeout_s: float = 1800.0
    retries: int = 1
    backoff_s: float = 60.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One device of the rollout's group as it is now.

    `runs`: the active version of the rollout's model, None for none; `applied`: it answers with its newest generation.
    `failed_on`: the generation with the new version that it gave up, if its newest report says so. `online_since`: Unix seconds, None
    for a device that is not there. `busy`: another rollout of higher priority is changing it.
    """

    device: str
    site: str = ""
    online_since: float | None = None
    runs: str | None = None
    applied: bool = False
    failed_on: Order | None = None
    error: str = ""
    busy: bool = False


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One device that came into the rollout, in `wave`; `base` is what it ran before. Times are Unix seconds."""

    device: str
    wave: int
    state: DeviceState
    admitted_at: float
    base: str | None = None
    attempts: int = 1
    settled_at: float | None = None
    retry_at: float | None = None
    failed_on: Order | None = None
    error: str = ""

    @property
    def completed(self) -> bool:
        """Whether nothing more is expected of it."""
        return self.state in COMPLETED


def admitted(target: Target, wave: int, now: float) -> Member:
    """The device is given the new version for the first time."""
    return Member(
        device=target.device, wave=wave, state=DeviceState.UPDATING, admitted_at=now, base=target.runs, error=""
    )


def again(member: Member, now: float) -> Member:
    """The device is given the new version once more."""
    return msgspec.structs.replace(
        member, state=DeviceState.UPDATING, attempts=member.attempts + 1, admitted_at=now, retry_at=None
    )


def progress(member: Member, target: Target, version: str, patience: Patience, now: float) -> Member:
    """Where the device stands now; the same member where nothing changed."""
    if member.state is DeviceState.SUCCEEDED:
        # It ran the version and does not any more, though it is given it: whatever took it back, it is to be heard.
        lost = target.failed_on is not None and _newer(target.failed_on, member.failed_on)
        return _failed(member, target, patience, now) if lost else member
    if member.state is not DeviceState.UPDATING:
        return member
    if target.runs == version and target.applied:
        return msgspec.structs.replace(member, state=DeviceState.SUCCEEDED, settled_at=now, error="")
    if target.failed_on is not None and _newer(target.failed_on, member.failed_on):
        return _failed(member, target, patience, now)
    if target.online_since is None or now - max(member.admitted_at, target.online_since) <= patience.timeout_s:
        return member
    error = f"not done within {patience.timeout_s:.0f} s"
    return msgspec.structs.replace(member, state=DeviceState.TIMED_OUT, settled_at=now, error=error)


def _failed(member: Member, target: Target, patience: Patience, now: float) -> Member:
    left = member.attempts <= patience.retries
    return msgspec.structs.replace(
        member,
        state=DeviceState.WAITING if left else DeviceState.FAILED,
        retry_at=now + patience.backoff_s * 2.0 ** (member.attempts - 1) if left else None,
        settled_at=None if left else now,
        failed_on=target.failed_on,
        error=target.error[:MOST_ERROR],
    )


def _newer(order: Order, than: Order | None) -> bool:
    return than is None or order > than
