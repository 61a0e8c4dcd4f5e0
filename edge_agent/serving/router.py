"""The edge's `Answer`: decide where, ask there, fall back at most once, and remember why.

Invariants:

* every request passes `decide/routing`, whatever face it came through, and no second attempt is made that it did not allow;
* the version is fixed before anybody is asked, so that device and cloud answer with the same one;
* each request is counted once where it ended, its decision once, and its story is kept for `GET /v1/why`.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import msgspec

from edge_agent.control.applied import PolicyHolder
from edge_agent.decide import routing
from edge_agent.decide.routing import Ask, Cloud, Escalate, Local, LocalState, Reason, Refuse
from edge_agent.decide.split import version_of
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.confidence import confidence_of
from edge_agent.serving.forward import Forwarder
from edge_agent.serving.measure import Measurements
from edge_agent.serving.reach import Reach
from edge_agent.serving.refusal import error_of, missing
from edge_agent.serving.trip import NOWHERE, UNKNOWN, Trip
from edge_agent.serving.why import WhyRing
from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import Interval, Key
from shared.io.clock import Clock
from shared.protocol.errors import Corrupt, Overloaded, Refusal, Refused, TidelineError, Transient
from shared.protocol.policy import Mode, Policy, Rules, rules_for
from shared.protocol.reported import ModelState
from shared.serving.answer import Request, Response, Where
from shared.serving.catalog import Listed, Statistics
from shared.serving.engine import Engine
from shared.serving.metrics import OK, outcome_of

RULES_KEPT = 256
NOT_THE_CALLER = frozenset({Refusal.UNAUTHENTICATED, Refusal.FORBIDDEN, Refusal.NOT_FOUND})
"""Refusals of the cloud that say something about this device there, not about the request."""


class Router:
    """Owner of the way a request takes."""

    def __init__(
        self,
        engine: Engine,
        forwarder: Forwarder,
        cloud: CloudTarget,
        holder: PolicyHolder,
        *,
        reach: Reach,
        measurements: Measurements,
        ring: WhyRing,
        metrics: AgentMetrics,
        interval: Interval,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._forwarder = forwarder
        self._cloud = cloud
        self._holder = holder
        self._ring = ring
        self._metrics = metrics
        self._interval = interval
        self._clock = clock
        self._reach = reach
        self._measurements = measurements
        self._policy: Policy | None = None
        self._rules: dict[str, Rules] = {}

    def models(self, tenant: str | None = None) -> Sequence[Listed]:
        """What this device serves itself, and what it reaches in its cloud."""
        return self._reach.beside(self._engine.models(tenant))

    def statistics(self, tenant: str, name: str, version: str) -> Statistics:
        """Counters of one version on this device."""
        return self._engine.statistics(tenant, name, version)

    async def answer(self, request: Request) -> Response:
        """The whole answer, from wherever the policy and the moment say."""
        trip = self._decide(request)
        try:
            response = await self._travel(trip)
        except BaseException as error:
            self._ended(trip, None, outcome_of(error))
            raise
        self._ended(trip, response, OK)
        return response

    async def stream(self, request: Request) -> AsyncGenerator[Response, None]:
        """The answer in pieces where the device computes it; the cloud's comes as one piece.

        Once a piece is out, nothing falls back: a caller never sees two beginnings.
        """
        trip = self._decide(request)
        last: Response | None = None
        try:
            if isinstance(trip.verdict, Local):
                async with aclosing(self._pieces(trip, trip.verdict.reason)) as pieces:
                    async for piece in pieces:
                        last = piece
                        yield piece
            if last is None:
                last = await self._travel(trip)
                yield last
        except BaseException as error:
            self._ended(trip, last, outcome_of(error))
            raise
        self._ended(trip, last, OK)

    def _decide(self, request: Request) -> Trip:
        """Fix version and deadline, and decide where to ask first."""
        now = self._clock.monotonic()
        rules = self._rules_of(request.model)
        version = request.version
        if version is None:
            u = zlib.crc32(request.id.encode()) / 2**32
            version = version_of(rules.split, u=u) or self._engine.active(request.tenant).get(request.model)
        deadline = request.deadline if request.deadline is not None else now + rules.deadline_ms / 1e3
        fixed = msgspec.structs.replace(request, version=version, deadline=deadline)
        load = self._engine.load_of(request.tenant, request.model, version) if version is not None else None
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
        local, cloud = self._local(fixed), self._cloud.state(request.model, rules)
        verdict = routing.route(trip.ask, local, cloud, rules, now=now)
        trip.decided(verdict, local, cloud, breaker=self._cloud.breaker.value)
        self._metrics.routed(trip.place, verdict.reason)
        self._measurements.consider(fixed, local, now=now)
        return trip

    async def _travel(self, trip: Trip) -> Response:
        match trip.verdict:
            case Local(reason):
                return await self._local_first(trip, reason)
            case Cloud(reason):
                return await self._cloud_first(trip, reason)
            case Refuse(reason, retry_after):
                raise self._refusal(trip, reason, retry_after)

    async def _local_first(self, trip: Trip, reason: Reason) -> Response:
        if trip.failure is not None:
            # A stream that failed before its first piece: the device was asked already.
            return await self._after_local(trip, trip.failure)
        try:
            response = await self._ask(trip, Where.LOCAL, reason, self._engine.answer)
        except (Overloaded, Transient, Corrupt) as error:
            return await self._after_local(trip, error)
        return await self._sure(trip, response)

    async def _after_local(self, trip: Trip, error: TidelineError) -> Response:
        """Second attempt in the cloud, or what the device said."""
        now, cloud = self._clock.monotonic(), self._cloud.state(trip.request.model, trip.rules)
        again = routing.after_local_failure(trip.ask, cloud, trip.rules, now=now)
        if isinstance(again, Refuse):
            raise error
        self._cloud.retried()
        try:
            return await self._ask(trip, Where.CLOUD, again.reason, self._forwarder.answer)
        except Refused as refused:
            if refused.kind in NOT_THE_CALLER:
                raise error from refused
            raise

    async def _cloud_first(self, trip: Trip, reason: Reason) -> Response:
        try:
            return await self._ask(trip, Where.CLOUD, reason, self._forwarder.answer)
        except Refused as error:
            if error.kind not in NOT_THE_CALLER or trip.local is None:
                raise
            failure: TidelineError = error
        except (Overloaded, Transient) as error:
            failure = error
        local = self._local(trip.request)
        back = routing.after_cloud_failure(trip.ask, local, trip.rules, now=self._clock.monotonic())
        if isinstance(back, Local):
            return await self._ask(trip, Where.LOCAL, back.reason, self._engine.answer)
        if isinstance(failure, Refused):
            # The caller asked for nothing wrong: this device is full, and its cloud does not have the model.
            raise Overloaded("the device is saturated", retry_after=back.retry_after or 1.0) from failure
        raise failure

    async def _sure(self, trip: Trip, response: Response) -> Response:
        """In a cascade, the cloud's answer instead of one the device is unsure of."""
        if trip.rules.confidence_below is None:
            return response
        now, cloud = self._clock.monotonic(), self._cloud.state(trip.request.model, trip.rules)
        verdict = routing.after_local(trip.ask, confidence_of(response), cloud, trip.rules, now=now)
        if not isinstance(verdict, Escalate):
            return response
        self._cloud.retried()
        try:
            return await self._ask(trip, Where.CLOUD, verdict.reason, self._forwarder.answer)
        except TidelineError:
            # An unsure answer is better than none; the story tells of the attempt.
            return response

    async def _ask(
        self, trip: Trip, where: Where, reason: Reason, call: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        began = self._clock.monotonic()
        try:
            response = await call(trip.request)
        except asyncio.CancelledError as error:
            trip.attempted(where.value, reason, outcome_of(error), self._clock.monotonic() - began)
            raise
        except TidelineError as error:
            self._asked(trip, where, reason, outcome_of(error), began=began, error=error.message)
            raise
        self._asked(trip, where, reason, OK, began=began)
        return msgspec.structs.replace(response, id=trip.request.id, where=where, why=reason.value)

    async def _pieces(self, trip: Trip, reason: Reason) -> AsyncGenerator[Response, None]:
        """The device's pieces; nothing at all where it fails before the first and the cloud may be asked."""
        began, started = self._clock.monotonic(), False
        try:
            async with aclosing(self._engine.stream(trip.request)) as pieces:
                async for piece in pieces:
                    started = True
                    yield msgspec.structs.replace(piece, id=trip.request.id, where=Where.LOCAL, why=reason.value)
        except (Overloaded, Transient, Corrupt) as error:
            self._asked(trip, Where.LOCAL, reason, outcome_of(error), began=began, error=error.message)
            cloud = self._cloud.state(trip.request.model, trip.rules)
            now = self._clock.monotonic()
            if started or isinstance(routing.after_local_failure(trip.ask, cloud, trip.rules, now=now), Refuse):
                raise
            trip.failure = error
        else:
            self._asked(trip, Where.LOCAL, reason, OK, began=began)

    def _local(self, request: Request) -> LocalState | None:
        """What the device predicts for this request now; None where it cannot serve it."""
        if request.version is None:
            return None
        load = self._engine.load_of(request.tenant, request.model, request.version)
        if load is None or load.state is not ModelState.READY:
            return None
        service = load.predict(self._engine.estimate(request))
        return LocalState(expected_wait=load.expected_wait, service=service)

    def _refusal(self, trip: Trip, reason: Reason, retry_after: float | None) -> TidelineError:
        if trip.local is None and (reason is Reason.LOCAL_ABSENT or not self._cloud.exists):
            return missing(self._engine.models(trip.request.tenant), trip.request.model, trip.request.version)
        local = trip.local is not None and trip.rules.mode is not Mode.CLOUD_ONLY
        error = error_of(reason, retry_after, local=local)
        if isinstance(error, Overloaded):
            self._engine.metrics.shed.labels(reason.value).inc()
            self._interval.shed(reason.value)
        return error

    def _asked(
        self, trip: Trip, where: Where, reason: Reason, outcome: str, *, began: float, error: str | None = None
    ) -> None:
        seconds = self._clock.monotonic() - began
        trip.attempted(where.value, reason, outcome, seconds, error)
        if where is Where.CLOUD:
            # What the device computes, its engine counts.
            model, version = self._labels(trip, known=trip.known or outcome == OK)
            self._engine.metrics.answered(model, version, where, outcome, seconds)

    def _ended(self, trip: Trip, response: Response | None, outcome: str) -> None:
        seconds = self._clock.monotonic() - trip.began
        where = response.where.value if response is not None else trip.attempts[-1].where if trip.attempts else NOWHERE
        reason = trip.attempts[-1].reason if trip.attempts else trip.verdict.reason.value
        model, version = self._labels(trip, known=trip.known or response is not None)
        if where == NOWHERE:
            self._engine.metrics.requests.labels(model, version, NOWHERE, outcome).inc()
        self._interval.request(Key(model, version, where, outcome, reason), seconds)
        self._ring.add(trip.story(where=None if where == NOWHERE else where, outcome=outcome))

    def _labels(self, trip: Trip, *, known: bool) -> tuple[str, str]:
        """Model and version as labels: callers can make up names, so only names that exist are used."""
        if not known:
            return UNKNOWN, UNKNOWN
        return trip.request.model, trip.request.version or UNKNOWN

    def _rules_of(self, model: str) -> Rules:
        policy = self._holder.policy
        if policy is not self._policy or len(self._rules) >= RULES_KEPT:
            self._policy, self._rules = policy, {}
        rules = self._rules.get(model)
        if rules is None:
            rules = self._rules[model] = rules_for(policy, model)
        return rules
