"""Asking a place, and the other one at most once after it: every second attempt is one `decide/routing` allowed."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import msgspec

from edge_agent.decide import routing
from edge_agent.decide.routing import Escalate, Local, LocalState, Reason, Refuse
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.confidence import confidence_of
from edge_agent.serving.forward import Forwarder
from edge_agent.serving.trip import Trip
from shared.io.clock import Clock
from shared.protocol.errors import Corrupt, Overloaded, Refusal, Refused, TidelineError, Transient
from shared.protocol.reported import ModelState
from shared.serving.answer import Request, Response, Where
from shared.serving.engine import Engine, ModelLoad
from shared.serving.metrics import OK, outcome_of

NOT_THE_CALLER = frozenset({Refusal.UNAUTHENTICATED, Refusal.FORBIDDEN, Refusal.NOT_FOUND})
"""Refusals of the cloud that say something about this device there, not about the request."""


class Attempts:
    """Asks the device's engine and the cloud for the router."""

    def __init__(
        self, engine: Engine, forwarder: Forwarder, cloud: CloudTarget, accounts: Accounts, *, clock: Clock
    ) -> None:
        self._engine = engine
        self._forwarder = forwarder
        self._cloud = cloud
        self._accounts = accounts
        self._clock = clock

    def load_of(self, request: Request) -> ModelLoad | None:
        """A snapshot of the version the request names; None where it names none, or the device lacks it."""
        if request.version is None:
            return None
        return self._engine.load_of(request.tenant, request.model, request.version)

    def predicted(self, request: Request, load: ModelLoad | None) -> LocalState | None:
        """What the device predicts for this request now; None where it cannot serve it."""
        if load is None or load.state is not ModelState.READY:
            return None
        service = load.predict(self._engine.estimate(request))
        return LocalState(expected_wait=load.expected_wait, service=service, full=load.full)

    async def local_first(self, trip: Trip, reason: Reason) -> Response:
        """The device's answer, or the cloud's where it fails, or is unsure in a cascade."""
        if trip.failure is not None:
            # A stream that failed before its first piece: the device was asked already.
            return await self._after_local(trip, trip.failure)
        try:
            response = await self._ask(trip, Where.LOCAL, reason, self._engine.answer)
        except (Overloaded, Transient, Corrupt) as error:
            return await self._after_local(trip, error)
        return await self._sure(trip, response)

    async def cloud_first(self, trip: Trip, reason: Reason) -> Response:
        """The cloud's answer, or the device's where the cloud fails and there is still time."""
        try:
            return await self._ask(trip, Where.CLOUD, reason, self._forwarder.answer)
        except Refused as error:
            if error.kind not in NOT_THE_CALLER or trip.local is None:
                raise
            failure: TidelineError = error
        except (Overloaded, Transient) as error:
            failure = error
        local = self.predicted(trip.request, self.load_of(trip.request))
        back = routing.after_cloud_failure(trip.ask, local, trip.rules, now=self._clock.monotonic())
        if isinstance(back, Local):
            return await self._ask(trip, Where.LOCAL, back.reason, self._engine.answer)
        if isinstance(failure, Refused):
            # The caller asked for nothing wrong: this device is full, and its cloud does not have the model.
            raise Overloaded("the device is saturated", retry_after=back.retry_after or 1.0) from failure
        raise failure

    async def pieces(self, trip: Trip, reason: Reason) -> AsyncGenerator[Response, None]:
        """The device's pieces; nothing at all where it fails before the first and the cloud may be asked."""
        began, started = self._clock.monotonic(), False
        try:
            async with aclosing(self._engine.stream(trip.request)) as pieces:
                async for piece in pieces:
                    started = True
                    yield msgspec.structs.replace(piece, id=trip.request.id, where=Where.LOCAL, why=reason.value)
        except (Overloaded, Transient, Corrupt) as error:
            self._accounts.asked(trip, Where.LOCAL, reason, outcome_of(error), began=began, error=error.message)
            cloud = self._cloud.state(trip.request.model, trip.rules)
            now = self._clock.monotonic()
            if started or isinstance(routing.after_local_failure(trip.ask, cloud, trip.rules, now=now), Refuse):
                raise
            trip.failure = error
        else:
            self._accounts.asked(trip, Where.LOCAL, reason, OK, began=began)

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

    async def _sure(self, trip: Trip, response: Response) -> Response:
        """In a cascade, the cloud's answer instead of one the device is unsure of."""
        if trip.rules.confidence_below is None:
            return response
        now, cloud = self._clock.monotonic(), self._cloud.state(trip.request.model, trip.rules)
        verdict = routing.after_local(trip.ask, confidence_of(response.results), cloud, trip.rules, now=now)
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
            self._accounts.asked(trip, where, reason, outcome_of(error), began=began, error=error.message)
            raise
        self._accounts.asked(trip, where, reason, OK, began=began)
        return msgspec.structs.replace(response, id=trip.request.id, where=where, why=reason.value)
