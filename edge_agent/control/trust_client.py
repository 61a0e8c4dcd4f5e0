"""May this version be installed? Only if its manifest is a target of the tenant's TUF repository.

Invariants:

* no manifest or chunk is fetched, and nothing installed, before its manifest was found among verified targets, now or before;
* metadata older than any that was accepted is refused, whatever became of python-tuf's files (`trust_record`);
* metadata that is stale, refused or not to be had is an alarm, and never stops what runs or what was verified before.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.control.identity import Identity
from edge_agent.control.trust_pin import Pin, digest_of
from edge_agent.control.trust_record import FILE as RECORD
from edge_agent.control.trust_record import TrustRecord
from edge_agent.control.trust_update import Bridge, Fetch, Update, update
from edge_agent.decide.trusting import Accepted, fallen, state_of
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import backoff
from shared.protocol.desired import ModelRef
from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError, Transient, Unavailable
from shared.protocol.trust import TrustReport, target_path

FOLDER = "trust"
"""Of python-tuf's files, in the state folder."""
REFRESH_S = 3600.0
"""Metadata is asked for again after this long, a quarter more or less; and whenever a version is not among the targets."""
RETRY_FIRST_S = 5.0
RETRY_MOST_S = 300.0


class TrustClient:
    """Owner of what this device believes of its tenant's repository; its methods are called on the event loop."""

    def __init__(
        self,
        folder: Path,
        record: TrustRecord,
        pin: Pin,
        fetch: Fetch,
        *,
        clock: Clock,
        log: Log,
        draw: Callable[[], float],
    ) -> None:
        self._folder = folder / FOLDER
        self._record = record
        self._pin = pin
        self._fetch = fetch
        self._clock = clock
        self._log = log
        self._draw = draw
        self._turn = asyncio.Lock()
        self._accepted: dict[str, Accepted] = record.floors()
        self._targets: dict[str, str] = {}
        self._good_until = clock.monotonic()
        self._error: TidelineError | None = None
        self.changed: Callable[[TrustReport], None] = lambda _: None
        """Called after each attempt."""

    def report(self) -> TrustReport:
        """How the device stands, now."""
        return report_of(self._accepted, self._pin.identity, self._error, self._clock.wall())

    async def check(self, model: ModelRef) -> None:
        """Return if the manifest of `model` is a target.

        Raises:
            Refused: the verified targets name another manifest for this version.
            Transient: no verified targets name it (yet), or there are none to be had.

        """
        path = target_path(model.name, model.version)
        if not self._is_fresh() or self._targets.get(path) != model.digest:
            try:
                await self.refresh()
            except TidelineError as error:
                if await asyncio.to_thread(self._record.vouches, path, model.digest):
                    return
                raise Transient(f"{path} cannot be verified: {error.message}", why=Unavailable.NOT_READY) from error
            self._check_named(path, model.digest)
        if not await asyncio.to_thread(self._record.vouches, path, model.digest):
            await asyncio.to_thread(self._record.vouch, path, model.digest)

    async def refresh(self) -> None:
        """Ask for newer metadata.

        Raises:
            Refused, Corrupt: what is served does not verify, is older than what was accepted, or has expired.
            Transient: it cannot be had now.

        """
        async with self._turn:
            try:
                root = await self._pin.root()
                found = await self._updated(root)
                await asyncio.to_thread(self._accept, found)
            except TidelineError as error:
                self._ended(error)
                raise
            self._accepted, self._targets = found.accepted, found.targets
            self._good_until = self._clock.monotonic() + REFRESH_S
            self._ended(None)

    async def run(self) -> None:
        """Keep metadata fresh, for ever."""
        failed = 0
        while True:
            try:
                await self.refresh()
                failed, wait = 0, REFRESH_S * (0.75 + 0.5 * self._draw())
            except TidelineError:
                wait = backoff(failed, u=self._draw(), base=RETRY_FIRST_S, cap=RETRY_MOST_S)
                failed += 1
            await asyncio.sleep(wait)

    async def _updated(self, root: bytes) -> Update:
        bridge = Bridge(self._fetch, asyncio.get_running_loop())
        try:
            return await asyncio.to_thread(update, self._folder, root, bridge)
        except asyncio.CancelledError:
            bridge.cancel()
            raise

    def _accept(self, found: Update) -> None:
        """Make durable that nothing older counts any more. Blocks."""
        below = fallen(self._record.floors(), found.accepted)
        if below is not None:
            detail = f"{below.role} {below.version} after {below.floor} was accepted: somebody rolls back"
            raise Corrupt(detail, code="trust-rollback")
        if found.accepted != self._accepted:
            self._record.accept(found.accepted)

    def _is_fresh(self) -> bool:
        expires_at = min((one.expires_at for one in self._accepted.values()), default=0.0)
        return self._clock.monotonic() < self._good_until and self._clock.wall() < expires_at

    def _check_named(self, path: str, digest: str) -> None:
        named = self._targets.get(path)
        if named is None:
            raise Transient(f"{path} is not among the signed targets", why=Unavailable.NOT_READY)
        if named != digest:
            raise Refused(
                "the signed targets name another manifest",
                kind=Refusal.FORBIDDEN,
                field=f"targets.{path}",
                value=digest,
                allowed=named,
            )

    def _ended(self, error: TidelineError | None) -> None:
        before, self._error = self._error, error
        if error is not None and (before is None or before.code != error.code):
            say = self._log.warning if isinstance(error, Transient) else self._log.error
            say("trust metadata is not refreshed", code=error.code, error=error.message)
        elif error is None and before is not None:
            versions = {role: one.version for role, one in self._accepted.items()}
            self._log.info("trust metadata is fresh again", versions=versions)
        self.changed(self.report())


def report_of(
    accepted: Mapping[str, Accepted], identity: Identity, error: TidelineError | None, now: float
) -> TrustReport:
    """What people are told: of what was accepted, the pin, and how the newest attempt ended."""
    expires_at = min((one.expires_at for one in accepted.values()), default=None)
    pinned = digest_of(identity)
    return TrustReport(
        state=state_of(pinned=pinned is not None, error=error, expires_at=expires_at, now=now),
        versions={role: one.version for role, one in sorted(accepted.items())},
        expires_at=expires_at,
        pinned_root=pinned,
        pinned_later=identity.root_pinned_at is not None,
        error=None if error is None else error.message,
    )


def kept_trust(state: Path, identity: Identity, now: float) -> TrustReport:
    """How a device that does not run stands, by what its state folder tells. Blocks."""
    if not (state / RECORD).exists():
        accepted: dict[str, Accepted] = {}
    else:
        record = TrustRecord(state)
        accepted = record.floors()
        record.close()
    return report_of(accepted, identity, None, now)
