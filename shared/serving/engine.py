"""The inference engine: an `Answer` and a `Catalog` over the model versions loaded in this process.

Invariants:

* another tenant's models do not exist for a request, and a version answers only while it is ready;
* no `await` stands between admission and the permit: the bounds hold whatever arrives at once;
* everything but a session's own thread and tokenization runs on the loop's thread.
"""

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from shared.protocol.errors import Refusal, Refused, Transient, Unavailable
from shared.protocol.reported import ModelState
from shared.serving.admission.model_load import ModelLoad
from shared.serving.answer import Request, Response, Result, Timing
from shared.serving.catalog import Statistics, pick
from shared.serving.decide.admission import Admitted, Ask
from shared.serving.decide.batching import LOWEST
from shared.serving.lanes.queue import deadline_missed
from shared.serving.lanes.sinks import Gathering, Streaming
from shared.serving.versions.loaded import Item, LoadedModel
from shared.serving.versions.versions import Versions

WHY = "served-here"
"""Reason of an answer nobody routed."""


class Engine(Versions):
    """Built by a program's `app.py` inside its running loop; `close` ends every thread."""

    _guess: tuple[LoadedModel, Request, int] | None = None

    def statistics(self, tenant: str, name: str, version: str) -> Statistics:
        """Counters of one version."""
        model = self._models.get((tenant, name, version))
        if model is None:
            return Statistics()
        return msgspec.structs.replace(model.meter.statistics(), resident_bytes=model.residence.held)

    def load_of(self, tenant: str, name: str, version: str | None = None) -> ModelLoad | None:
        """A snapshot of the version a request would get, for routing; None where there is none."""
        model = self._models.get((tenant, name, version or self.active(tenant).get(name, "")))
        if model is None:
            return None
        now = self._clock.monotonic()
        load, stretch = model.queue.load(model.cost, now=now), model.limiter.stretch(now=now)
        return ModelLoad(
            name=name,
            version=model.version,
            variant=model.variant,
            digest=model.digest,
            state=model.state,
            queued=model.queue.depth,
            running=model.queue.running,
            expected_wait=load.expected_wait * stretch.factor + self.residency.expected(model, now),
            cost=model.cost,
            turn=load.expected_wait,
            company=model.limiter.company(model.cost),
            stretch=stretch,
            full=model.limiter.in_flight(load) >= model.limiter.limit,
        )

    def estimate(self, request: Request) -> int:
        """Tokens the request will cost, guessed without tokenizing; 0 for a model that is not loaded."""
        key = (request.tenant, request.model, request.version or self.active(request.tenant).get(request.model, ""))
        if (model := self._models.get(key)) is None:
            return 0
        # Whoever routes asks this right before the request comes in; what it brings is looked at once.
        self._guess = model, request, (tokens := _estimated(model, request))
        return tokens

    def early(self, request: Request) -> None:
        """Turn `request` away while only its headers are known, where nothing in its body could let it in.

        Raises:
            Overloaded: it would not be let in.

        """
        models = self.entrance.crowded(request)
        turned = self.entrance.early(models, request, now=self._clock.monotonic()) if models else None
        if turned is not None:
            self.entrance.turn_away(turned)
            raise turned.error

    async def answer(self, request: Request) -> Response:
        """The whole answer."""
        model = self._model_of(request)
        began = self._clock.monotonic()
        try:
            response = await self._answer(model, request, began)
        except BaseException as error:
            model.meter.failed(error, self._clock.monotonic() - began)
            raise
        model.meter.answered(self._clock.monotonic() - began, int(self._clock.wall() * 1000))
        return response

    async def measure(self, request: Request) -> None:
        """Compute `request` for nobody: what a router sends elsewhere for its predicted time must be able to prove it wrong.

        Raises:
            Refused, Transient, Corrupt: as `answer`.

        """
        await self._model_of(request).measure(_items(request), request.parameters)

    def wish(self, tenant: str, name: str, version: str) -> None:
        """A request went elsewhere for the time it would have taken here; where that was a load, let the next one find it done."""
        model = self._models.get((tenant, name, version))
        if model is not None and model.state is ModelState.READY:
            self.residency.wish(model)

    async def copy(self, request: Request) -> Response:
        """What a version answers to a copy of a request: computed behind all that waits for it, and counted as no request.

        No bound holds it back: whoever asks sees to it that there is room, and ends it when there is none any more.

        Raises:
            Refused, Transient, Corrupt: as `answer`.

        """
        model = self._model_of(request)
        items = _items(request)
        ask = Ask(entries=len(items), tokens=_estimated(model, request), bytes=request.body_bytes)
        with model.queue.reserve(Admitted(ask=ask, predicted=0.0)) as permit:
            prepared = await model.prepare(items, request.parameters)
            if not model.residence.open:
                # A copy is not worth anybody else's place in memory.
                self.residency.wish(model)
                raise _not_ready(model.name, model.version, model.state, "not in memory")
            model.queue.enter(permit)
            gathering = Gathering(len(items))
            model.submit(permit, prepared, gathering, priority=LOWEST, deadline=request.deadline)
            return self._response(model, request, await gathering.future, gathering.timing)

    async def stream(self, request: Request) -> AsyncGenerator[Response, None]:
        """The answer of a one-item request in pieces."""
        if request.count != 1:
            raise Refused(
                "only one text can be streamed", kind=Refusal.UNPROCESSABLE, field="texts", value=request.count
            )
        model = self._model_of(request)
        began = self._clock.monotonic()
        sink = Streaming()
        waiting: Admitted | None = None
        try:
            admitted = self._admitted(model, request, began)
            with model.queue.reserve(admitted) as permit:
                prepared = await model.prepare(_items(request), request.parameters)
                waiting = admitted if model.residence.open else None
                async with asyncio.timeout(self._left(request)):
                    await self.residency.enter(model, permit)
                model.submit(permit, prepared, sink, priority=request.priority, deadline=request.deadline)
                while True:
                    async with asyncio.timeout(self._left(request)):
                        result, timing, final = await sink.piece()
                    waiting = None
                    yield self._response(model, request, (result,), timing)
                    if final:
                        # Without the time its reader took.
                        model.took(admitted, self._clock.monotonic() - timing.queue - timing.compute)
                        break
        except (TimeoutError, Transient) as error:
            if waiting is not None and _is_late(error):
                model.took(waiting, began, missed=True)
            told = error if isinstance(error, Transient) else deadline_missed()
            model.meter.failed(told, self._clock.monotonic() - began)
            if told is error:
                raise
            raise told from error
        except BaseException as error:
            model.meter.failed(error, self._clock.monotonic() - began)
            raise
        model.meter.answered(self._clock.monotonic() - began, int(self._clock.wall() * 1000))

    async def _answer(self, model: LoadedModel, request: Request, began: float) -> Response:
        items, residence = _items(request), model.residence
        residence.last_used = began
        cold = not residence.open
        admitted = self._admitted(model, request, began)
        with model.queue.reserve(admitted) as permit:
            prepared = model.prepare_here(items, request.parameters)
            if prepared is not None and (here := model.inline(prepared)) is not None:
                return self._response(model, request, *here)
            gathering = Gathering(len(items))
            try:
                async with asyncio.timeout(self._left(request)):
                    if prepared is None:
                        prepared = await model.prepare(items, request.parameters)
                    if not residence.open:
                        cold = True
                        await self.residency.enter(model, permit)
                    model.queue.enter(permit)
                    model.submit(permit, prepared, gathering, priority=request.priority, deadline=request.deadline)
                    results = await gathering.future
            except (TimeoutError, Transient) as error:
                if _is_late(error) and not cold:
                    model.took(admitted, began, missed=True)
                if isinstance(error, Transient):
                    raise
                raise deadline_missed() from error
            if not cold:
                # What a load took says nothing of how far off the fit of batches is.
                model.took(admitted, began)
            return self._response(model, request, results, gathering.timing)

    def _admitted(self, model: LoadedModel, request: Request, now: float) -> Admitted:
        entries, guess, self._guess = len(_items(request)), self._guess, None
        known = guess is not None and guess[0] is model and _is_same(guess[1], request)
        tokens = guess[2] if guess is not None and known else _estimated(model, request)
        return self.entrance.admitted(model, request, entries=entries, tokens=tokens, now=now)

    def _model_of(self, request: Request) -> LoadedModel:
        version = request.version or self.active(request.tenant).get(request.model)
        model = self._models.get((request.tenant, request.model, version or ""))
        if model is None:
            listed = pick(self.models(request.tenant), request.model, version)
            model = self._models.get((listed.tenant, listed.name, listed.version))
            if model is None:
                raise _not_ready(listed.name, listed.version, listed.state, listed.reason)
        if model.state is not ModelState.READY:
            raise _not_ready(model.name, model.version, model.state, model.error)
        return model

    def _response(self, model: LoadedModel, request: Request, results: tuple[Result, ...], timing: Timing) -> Response:
        return Response(
            id=request.id,
            model=model.name,
            version=model.version,
            variant=model.variant,
            digest=model.digest,
            task=model.manifest.task.value,
            results=results,
            where=self._where,
            why=WHY,
            timing=timing,
        )

    def _left(self, request: Request) -> float | None:
        return None if request.deadline is None else request.deadline - self._clock.monotonic()


def _is_late(error: TimeoutError | Transient) -> bool:
    """Whether the deadline passed, here or in the queue, which drops what expired before it computes."""
    return isinstance(error, TimeoutError) or error.why is Unavailable.DEADLINE


def _not_ready(name: str, version: str, state: ModelState, reason: str) -> Transient:
    why = f" ({reason})" if reason else ""
    return Transient(f"model {name}@{version} is {state.value}{why}", why=Unavailable.NOT_READY, retry_after=1.0)


def _estimated(model: LoadedModel, request: Request) -> int:
    tokens = 0
    for item in _items(request):
        tokens += model.task.estimate(item, request.parameters)
    return tokens


def _is_same(one: Request, other: Request) -> bool:
    return one.texts is other.texts and one.tensors is other.tensors and one.parameters is other.parameters


def _items(request: Request) -> tuple[Item, ...]:
    if request.texts is not None:
        if not request.texts:
            raise Refused("no text", kind=Refusal.UNPROCESSABLE, field="texts", value=[], allowed="at least one text")
        return request.texts
    return (request.tensors or {},)
