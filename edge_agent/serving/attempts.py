"""Asking a place, and the other one at most once, after it or beside it: every second attempt is one `decide/` allowed."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

import msgspec

from edge_agent.decide import displacement, hedging, routing, smaller, timeouts
from edge_agent.decide.displacement import Traffic
from edge_agent.decide.routing import Escalate, Local, LocalState, Reason, Refuse
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.confidence import confidence_of
from edge_agent.serving.forward import Forwarder
from edge_agent.serving.paces import Paces
from edge_agent.serving.race import NOT_THE_CALLER, Race
from edge_agent.serving.trip import Trip
from shared.io.clock import Clock
from shared.protocol.errors import Corrupt, Overloaded, Refused, TidelineError, Transient, Unavailable
from shared.protocol.policy import Mode
from shared.protocol.reported import ModelState
from shared.serving.admission.model_load import ModelLoad
from shared.serving.answer import Request, Response, Where
from shared.serving.decide.caching import is_drawn
from shared.serving.decide.cost import predict
from shared.serving.engine import Engine
from shared.serving.metrics import OK, outcome_of


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
        self._paces = Paces()
        self._traffic = Traffic()

    def load_of(self, request: Request) -> ModelLoad | None:
        """A snapshot of the version the request names; None where it names none, or the device lacks it."""
        if request.version is None:
            return None
        return self._engine.load_of(request.tenant, request.model, request.version)

    def predicted(self, request: Request, load: ModelLoad | None) -> LocalState | None:
        """What the device predicts for this request now; None where it cannot serve it."""
        if load is None or load.state is not ModelState.READY:
            return None
        tokens = self._engine.estimate(request)
        followers = displacement.followers(self._traffic, now=self._clock.monotonic())
        return LocalState(
            expected_wait=load.expected_wait,
            service=load.predict(tokens),
            full=load.full,
            caution=load.caution(tokens),
            displaced=displacement.displaced(followers, wait=load.expected_wait, work=_work(load, tokens)),
        )

    def decided(self, verdict: object, local: LocalState | None) -> None:
        """A request for which the device predicted `local` goes where `verdict` says: it counts among what comes."""
        if local is not None:
            now, here = self._clock.monotonic(), isinstance(verdict, Local)
            self._traffic = displacement.arrived(self._traffic, here=here, busy=local.expected_wait > 0.0, now=now)

    async def local_first(self, trip: Trip, reason: Reason) -> Response:
        """The device's answer, or the cloud's where it fails, or is unsure in a cascade."""
        if trip.failure is not None:
            # A stream that failed before its first piece: the device was asked already.
            return await self._after_local(trip, trip.failure)
        try:
            response = await self._first(trip, Where.LOCAL, reason)
        except (Overloaded, Transient, Corrupt) as error:
            if trip.hedged:
                raise
            return await self._after_local(trip, error)
        return response if trip.hedged else await self._sure(trip, response)

    async def cloud_first(self, trip: Trip, reason: Reason) -> Response:
        """The cloud's answer, or the device's where the cloud fails and there is still time."""
        try:
            return await self._first(trip, Where.CLOUD, reason)
        except Refused as error:
            if error.kind not in NOT_THE_CALLER or trip.local is None:
                raise
            failure: TidelineError = error
        except (Overloaded, Transient) as error:
            if trip.hedged:
                raise
            failure = error
        local = self.predicted(trip.request, self.load_of(trip.request))
        back = routing.after_cloud_failure(trip.ask, local, trip.rules, now=self._clock.monotonic())
        if isinstance(back, Local) and not trip.hedged:
            return await self._ask(trip, Where.LOCAL, back.reason)
        if isinstance(failure, Refused):
            # The caller asked for nothing wrong: this device is full, and its cloud does not have the model.
            later = back.retry_after if isinstance(back, Refuse) else None
            raise Overloaded("the device is saturated", retry_after=later or 1.0) from failure
        if isinstance(back, Refuse) and back.reason is Reason.BOTH_LATE and _is_unreachable(failure):
            # As routing says of the next request, which will not be sent to a cloud that is away.
            text = "the device is saturated and the cloud cannot be reached"
            raise Overloaded(
                text, retry_after=back.retry_after or 1.0, code=Reason.CLOUD_UNREACHABLE.value
            ) from failure
        raise failure

    async def smaller(self, trip: Trip) -> Response | None:
        """The answer of the policy's smaller model; None where it names none, or that cannot answer in time either."""
        name, tenant = trip.rules.smaller, trip.request.tenant
        if name is None or name == trip.request.model:
            return None
        request = msgspec.structs.replace(trip.request, model=name, version=self._engine.active(tenant).get(name))
        local = self.predicted(request, self.load_of(request))
        verdict = smaller.instead(trip.ask, local, trip.rules, now=self._clock.monotonic())
        if verdict is None:
            return None
        tasks = {each.name: each.task for each in self._engine.models(tenant)}
        if not smaller.may_stand_in(tasks.get(trip.request.model), tasks.get(name)):
            return None
        try:
            return await self._ask(trip, Where.LOCAL, verdict.reason, request=request)
        except TidelineError:
            # Nobody asked for this model: what is wrong with the one that was asked is told.
            return None

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
            cloud = self._cloud_for(trip)
            now = self._clock.monotonic()
            if started or isinstance(routing.after_local_failure(trip.ask, cloud, trip.rules, now=now), Refuse):
                raise
            trip.failure = error
        else:
            self._accounts.asked(trip, Where.LOCAL, reason, OK, began=began)

    async def _after_local(self, trip: Trip, error: TidelineError) -> Response:
        """Second attempt in the cloud, or what the device said."""
        now, cloud = self._clock.monotonic(), self._cloud_for(trip)
        again = routing.after_local_failure(trip.ask, cloud, trip.rules, now=now)
        if isinstance(again, Refuse):
            raise error
        self._cloud.retried()
        try:
            return await self._ask(trip, Where.CLOUD, again.reason)
        except Refused as refused:
            if refused.kind in NOT_THE_CALLER:
                raise error from refused
            raise

    async def _sure(self, trip: Trip, response: Response) -> Response:
        """In a cascade, the cloud's answer instead of one the device is unsure of."""
        if trip.rules.confidence_below is None:
            return response
        now, cloud = self._clock.monotonic(), self._cloud_for(trip)
        verdict = routing.after_local(trip.ask, confidence_of(response.results), cloud, trip.rules, now=now)
        if not isinstance(verdict, Escalate):
            return response
        self._cloud.retried()
        try:
            larger = await self._ask(trip, Where.CLOUD, verdict.reason)
        except TidelineError:
            # An unsure answer is better than none; the story tells of the attempt.
            return response
        self._accounts.compared(trip, response, larger)
        return larger

    async def _first(self, trip: Trip, where: Where, reason: Reason) -> Response:
        """The answer of the place that was chosen, or of the other one, asked beside it where the first takes longer than usual."""
        if trip.rules.hedge_after_ms is None:
            return await self._ask(trip, where, reason)
        now, model = self._clock.monotonic(), trip.request.model
        usual = self._paces.p95(model) if where is Where.LOCAL else self._cloud.p95(model)
        repeatable = not is_drawn(trip.request.parameters)
        wait = hedging.patience(trip.ask, trip.rules, p95=usual, repeatable=repeatable, now=now)
        if wait is None:
            return await self._ask(trip, where, reason)
        race = Race()
        first = self._ask(trip, where, reason, race)
        try:
            response = await race.run(
                first, wait=wait, second=lambda: self._hedge(trip, where, race), stands=lambda each: _stands(trip, each)
            )
        except TidelineError:
            if trip.hedged:
                self._accounts.hedged(where, "failed")
            raise
        if where is Where.LOCAL and response.where is where:
            self._paces.answered(model, self._clock.monotonic() - now)
        if not trip.hedged:
            return response
        self._accounts.hedged(where, response.where.value)
        if race.unsure is not None and response.where is Where.CLOUD:
            self._accounts.compared(trip, race.unsure, response)
        return msgspec.structs.replace(response, hedged=True)

    def _hedge(self, trip: Trip, first: Where, race: Race) -> Coroutine[Any, Any, Response] | None:
        """The attempt at the place that was not asked; None where it may not be asked, or would be late."""
        now, cloud = self._clock.monotonic(), self._cloud_for(trip)
        if first is Where.LOCAL:
            verdict: Local | routing.Cloud | Refuse = hedging.beside_local(trip.ask, cloud, trip.rules, now=now)
        else:
            local = self.predicted(trip.request, self.load_of(trip.request))
            verdict = hedging.beside_cloud(trip.ask, local, cloud, trip.rules, now=now)
        if isinstance(verdict, Refuse):
            return None
        self._cloud.retried()
        trip.hedged = True
        return self._ask(trip, Where.LOCAL if isinstance(verdict, Local) else Where.CLOUD, verdict.reason, race)

    async def _ask(
        self, trip: Trip, where: Where, reason: Reason, race: Race | None = None, *, request: Request | None = None
    ) -> Response:
        began = self._clock.monotonic()
        try:
            if where is Where.LOCAL:
                response = await self._engine.answer(request or trip.request)
            else:
                response = await self._forwarder.answer(self._dated(trip), race)
        except asyncio.CancelledError as error:
            self._accounts.gave_up(trip, where, reason, error, began=began)
            raise
        except TidelineError as error:
            self._accounts.asked(trip, where, reason, outcome_of(error), began=began, error=error.message)
            raise
        self._accounts.asked(trip, where, reason, OK, began=began, answer=response)
        return msgspec.structs.replace(response, id=trip.request.id, where=where, why=reason.value)

    def _cloud_for(self, trip: Trip) -> routing.CloudState:
        return self._cloud.state(trip.request.model, trip.rules, size=trip.request.body_bytes)

    def _dated(self, trip: Trip) -> Request:
        """The request as it goes to the cloud: asked first, it leaves the device the time to answer in its place."""
        if trip.attempts or trip.hedged or trip.rules.mode is Mode.CLOUD_ONLY:
            return trip.request
        completion = None if trip.local is None else trip.local.completion
        now, usual = self._clock.monotonic(), trip.cloud_completion
        deadline = timeouts.with_reserve(trip.ask.deadline, completion, now=now, usual=usual)
        return msgspec.structs.replace(trip.request, deadline=deadline)


def _work(load: ModelLoad, tokens: int) -> float:
    """Seconds for which it keeps the device busy: its share of the batch it gets into."""
    batch = max(1, tokens, load.company if load.turn > 0.0 else 0)
    return predict(load.cost, batch) * tokens / batch * load.stretch.factor


def _is_unreachable(error: TidelineError) -> bool:
    return isinstance(error, Transient) and error.why is Unavailable.UNREACHABLE


def _stands(trip: Trip, response: Response) -> bool:
    """Whether an answer is good enough while the other place was asked as well: in a cascade, the device must be sure of its own."""
    if response.where is not Where.LOCAL:
        return True
    return routing.is_sure(confidence_of(response.results), trip.rules)
