"""The edge's `Answer`: decide where, have it asked there, and remember why.

Invariants:

* every request passes `decide/routing`, whatever face it came through, and no second attempt is made that it did not allow;
* the version is fixed before anybody is asked, so that device and cloud answer with the same one;
* each request is counted once where it ended, its decision once, and its story is kept for `GET /v1/why`;
* a copy for a shadow version gives way to every request before that is decided.
"""

import hashlib
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from edge_agent.control.applied import PolicyHolder
from edge_agent.decide import routing
from edge_agent.decide.routing import Ask, Cached, Cloud, Local, Reason, Refuse
from edge_agent.decide.split import version_of
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.attempts import Attempts
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.kept_answers import KeptAnswers
from edge_agent.serving.measure import Measurements
from edge_agent.serving.reach import Reach
from edge_agent.serving.refusal import error_of, missing
from edge_agent.serving.rules_in_force import RulesInForce
from edge_agent.serving.shadows import Shadows
from edge_agent.serving.trip import Trip
from shared.io.clock import Clock
from shared.protocol.errors import Overloaded, TidelineError, Transient
from shared.protocol.policy import Mode, Rules
from shared.protocol.reported import ModelState
from shared.serving.answer import Request, Response, Where
from shared.serving.catalog import Listed, Statistics
from shared.serving.engine import Engine
from shared.serving.metrics import OK, outcome_of


class Router:
    """Owner of the way a request takes."""

    def __init__(
        self,
        engine: Engine,
        attempts: Attempts,
        cloud: CloudTarget,
        holder: PolicyHolder,
        *,
        kept: KeptAnswers,
        shadows: Shadows,
        reach: Reach,
        measurements: Measurements,
        accounts: Accounts,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._attempts = attempts
        self._cloud = cloud
        self._holder = holder
        self._kept = kept
        self._shadows = shadows
        self._reach = reach
        self._measurements = measurements
        self._accounts = accounts
        self._clock = clock
        self._rules = RulesInForce(holder, changed=lambda: kept.under(holder))
        self._under_way = 0

    def models(self, tenant: str | None = None) -> Sequence[Listed]:
        """What this device serves itself, and what it reaches in its cloud."""
        return self._reach.beside(self._engine.models(tenant))

    def statistics(self, tenant: str, name: str, version: str) -> Statistics:
        """Counters of one version on this device, with what was answered from the cache instead."""
        counted = self._engine.statistics(tenant, name, version)
        return self._kept.counted(counted, tenant, name, version)

    async def answer(self, request: Request) -> Response:
        """The whole answer, from wherever the policy and the moment say."""
        self._under_way += 1
        try:
            if self._shadows.running:
                await self._shadows.make_way()
            trip = self._decide(request)
            fixed, lookup = trip.request, trip.lookup
            try:
                response = await self._travel(trip)
            except BaseException as error:
                self._accounts.ended(trip, None, outcome_of(error))
                raise
            self._accounts.ended(trip, response, OK)
        finally:
            self._under_way -= 1
        if lookup is not None and response.where is not Where.CACHE:
            self._kept.keep(lookup, response, trip.rules)
        if trip.rules.shadow is not None and response.where is Where.LOCAL and response.model == fixed.model:
            self._shadows.consider(fixed, response, trip.rules.shadow, under_way=self._under_way)
        return response

    async def stream(self, request: Request) -> AsyncGenerator[Response, None]:
        """The answer in pieces where the device computes it; the cloud's comes as one piece.

        Once a piece is out, nothing falls back: a caller never sees two beginnings. Streams are neither kept nor shadowed.
        """
        self._under_way += 1
        try:
            if self._shadows.running:
                await self._shadows.make_way()
            trip = self._decide(request, streamed=True)
            last: Response | None = None
            try:
                if isinstance(trip.verdict, Local):
                    async with aclosing(self._attempts.pieces(trip, trip.verdict.reason)) as pieces:
                        async for piece in pieces:
                            last = piece
                            yield piece
                if last is None:
                    last = await self._travel(trip)
                    yield last
            except BaseException as error:
                self._accounts.ended(trip, last, outcome_of(error))
                raise
            self._accounts.ended(trip, last, OK)
        finally:
            self._under_way -= 1

    def _decide(self, request: Request, *, streamed: bool = False) -> Trip:
        """Fix version and deadline, and decide where to ask first."""
        now = self._clock.monotonic()
        rules = self._rules.of(request.model)
        deadline = request.deadline if request.deadline is not None else now + rules.deadline_ms / 1e3
        fixed = msgspec.structs.replace(request, version=self._version_of(request, rules), deadline=deadline)
        load = self._attempts.load_of(fixed)
        trip = Trip(
            fixed,
            rules=rules,
            ask=Ask(deadline=deadline, privacy=routing.tags_of(request.privacy)),
            began=now,
            at=self._clock.wall(),
            known=load is not None,
            generation=self._holder.generation,
        )
        self._cloud.asked()
        if rules.kept_bytes and not streamed:
            trip.lookup = self._kept.look(fixed, load)
        hit = self._kept.at_once(trip.lookup, trip.ask, rules, now=now) if trip.lookup is not None else None
        if hit is not None:
            trip.decided(hit, None, None, breaker=self._cloud.breaker.value)
        else:
            local, cloud = (
                self._attempts.predicted(fixed, load),
                self._cloud.state(request.model, rules, size=request.body_bytes),
            )
            found = trip.lookup is not None and trip.lookup.found is not None
            verdict = routing.route(trip.ask, local, cloud, rules, now=now, kept=found)
            if not streamed:
                verdict = self._cloud.exercise(verdict, trip.ask, local, cloud, rules, now=now)
            trip.decided(verdict, local, cloud, breaker=self._cloud.breaker.value)
            self._attempts.decided(verdict, local)
            self._measurements.consider(fixed, local, now=now)
        self._accounts.decided(trip)
        return trip

    def _version_of(self, request: Request, rules: Rules) -> str | None:
        """The version the request names, else one by the policy's split, else the active one; None where nobody here knows.

        Where the device serves the model, only versions that are ready on it share the split: one policy may be that of many
        models, and not every version is everywhere.
        """
        if request.version is not None:
            return request.version
        active = self._engine.active(request.tenant).get(request.model)
        if not rules.split:
            return active
        # Even for ids that count upwards, as no checksum is.
        u = int.from_bytes(hashlib.blake2b(request.id.encode(), digest_size=8).digest(), "big") / 2**64
        chosen = version_of(rules.split, u=u)
        if active is None:
            return chosen
        absent: set[str] = set()
        while chosen is not None and not self._is_ready(request, chosen):
            absent.add(chosen)
            chosen = version_of(rules.split, u=u, without=absent)
        return chosen or active

    def _is_ready(self, request: Request, version: str) -> bool:
        load = self._engine.load_of(request.tenant, request.model, version)
        return load is not None and load.state is ModelState.READY

    async def _travel(self, trip: Trip) -> Response:
        try:
            match trip.verdict:
                case Local(reason):
                    return await self._attempts.local_first(trip, reason)
                case Cloud(reason):
                    return await self._attempts.cloud_first(trip, reason)
                case Cached(reason):
                    return self._from_cache(trip, reason, began=trip.began)
                case Refuse(reason, retry_after):
                    # Below: routing knew already what was kept.
                    pass
        except (Overloaded, Transient):
            instead = self._instead(trip) or await self._attempts.smaller(trip)
            if instead is None:
                raise
            return instead
        smaller = await self._attempts.smaller(trip)
        if smaller is None:
            raise self._refusal(trip, reason, retry_after)
        return smaller

    def _from_cache(self, trip: Trip, reason: Reason, *, began: float) -> Response:
        lookup = trip.lookup
        if lookup is None or lookup.found is None:
            raise AssertionError("decided on an answer that was not found. This is a bug.")
        response = self._kept.given(lookup, lookup.found, trip.request, reason)
        self._accounts.asked(trip, Where.CACHE, reason, OK, began=began)
        return response

    def _instead(self, trip: Trip) -> Response | None:
        """A kept answer after whoever was asked had no room or ran late, where the policy wants that."""
        if trip.lookup is None:
            return None
        began = self._clock.monotonic()
        trip.lookup.found = self._kept.again(trip.lookup)
        verdict = routing.after_everyone(trip.rules, kept=trip.lookup.found is not None)
        return self._from_cache(trip, verdict.reason, began=began) if verdict is not None else None

    def _refusal(self, trip: Trip, reason: Reason, retry_after: float | None) -> TidelineError:
        if trip.local is None and (reason is Reason.LOCAL_ABSENT or not self._cloud.exists):
            return missing(self._engine.models(trip.request.tenant), trip.request.model, trip.request.version)
        local = trip.local is not None and trip.rules.mode is not Mode.CLOUD_ONLY
        error = error_of(reason, retry_after, local=local, u=zlib.crc32(trip.request.id.encode()) / 2**32)
        if isinstance(error, Overloaded):
            self._accounts.shed(reason)
        return error
