"""The inference engine: an `Answer` and a `Catalog` over the model versions loaded in this process.

Invariants:

* another tenant's models do not exist for a request, and a version answers only while it is ready;
* no `await` stands between admission and the permit: the bounds hold whatever arrives at once;
* everything but a session's own thread and tokenization runs on the loop's thread.
"""

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from shared.protocol.errors import Overloaded, Refusal, Refused, Transient, Unavailable
from shared.protocol.reported import ModelState
from shared.serving.answer import Request, Response, Result, Timing
from shared.serving.catalog import Statistics, pick
from shared.serving.decide.admission import Admitted, Ask, Load, Shed, admit
from shared.serving.decide.calibration import factor
from shared.serving.decide.cost import Cost, predict
from shared.serving.loaded import Item, LoadedModel
from shared.serving.queue import deadline_missed
from shared.serving.sinks import Gathering, Streaming
from shared.serving.versions import Versions

WHY = "served-here"
"""Reason of an answer nobody routed."""


class ModelLoad(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of one version for routing. `expected_wait`: seconds until a batch formed now would start.

    `stretch` is how much longer things take than the cost model says; `expected_wait` and `predict` have it in them.
    """

    name: str
    version: str
    variant: str
    digest: str
    state: ModelState
    queued: int
    running: int
    expected_wait: float
    cost: Cost
    stretch: float = 1.0

    def predict(self, tokens: int) -> float:
        """Seconds that `tokens` tokens take once they run; 0 before anything was measured."""
        return predict(self.cost, tokens) * self.stretch


class Engine(Versions):
    """Built by a program's `app.py` inside its running loop; `close` ends every thread."""

    def statistics(self, tenant: str, name: str, version: str) -> Statistics:
        """Counters of one version."""
        model = self._models.get((tenant, name, version))
        return model.meter.statistics() if model is not None else Statistics()

    def load_of(self, tenant: str, name: str, version: str | None = None) -> ModelLoad | None:
        """A snapshot of the version a request would get, for routing; None where there is none."""
        model = self._models.get((tenant, name, version or self.active(tenant).get(name, "")))
        if model is None:
            return None
        now = self._clock.monotonic()
        load, stretch = model.queue.load(model.cost, now=now), factor(model.calibration, now=now)
        return ModelLoad(
            name=name,
            version=model.version,
            variant=model.variant,
            digest=model.digest,
            state=model.state,
            queued=model.queue.depth,
            running=model.queue.running,
            expected_wait=load.expected_wait * stretch,
            cost=model.cost,
            stretch=stretch,
        )

    def estimate(self, request: Request) -> int:
        """Tokens the request will cost, guessed without tokenizing; 0 for a model that is not loaded."""
        key = (request.tenant, request.model, request.version or self.active(request.tenant).get(request.model, ""))
        model = self._models.get(key)
        return _estimated(model, request) if model is not None else 0

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

    async def stream(self, request: Request) -> AsyncGenerator[Response, None]:
        """The answer of a one-item request in pieces."""
        if request.count != 1:
            raise Refused(
                "only one text can be streamed", kind=Refusal.UNPROCESSABLE, field="texts", value=request.count
            )
        model = self._model_of(request)
        began = self._clock.monotonic()
        sink = Streaming()
        try:
            admitted = self._admitted(model, request, began)
            with model.queue.reserve(admitted) as permit:
                prepared = await model.prepare(_items(request), request.parameters)
                model.submit(permit, prepared, sink, priority=request.priority, deadline=request.deadline)
                while True:
                    async with asyncio.timeout(self._left(request)):
                        result, timing, final = await sink.piece()
                    yield self._response(model, request, (result,), timing)
                    if final:
                        # Without the time its reader took.
                        model.took(admitted.predicted, self._clock.monotonic() - timing.queue - timing.compute)
                        break
        except TimeoutError as error:
            missed = deadline_missed()
            model.meter.failed(missed, self._clock.monotonic() - began)
            raise missed from error
        except BaseException as error:
            model.meter.failed(error, self._clock.monotonic() - began)
            raise
        model.meter.answered(self._clock.monotonic() - began, int(self._clock.wall() * 1000))

    async def _answer(self, model: LoadedModel, request: Request, began: float) -> Response:
        items = _items(request)
        admitted = self._admitted(model, request, began)
        with model.queue.reserve(admitted) as permit:
            gathering = Gathering(len(items))
            try:
                async with asyncio.timeout(self._left(request)):
                    prepared = await model.prepare(items, request.parameters)
                    model.submit(permit, prepared, gathering, priority=request.priority, deadline=request.deadline)
                    results = await gathering.future
            except TimeoutError as error:
                model.took(admitted.predicted, began)
                raise deadline_missed() from error
            model.took(admitted.predicted, began)
            return self._response(model, request, results, gathering.timing)

    def _admitted(self, model: LoadedModel, request: Request, now: float) -> Admitted:
        tokens = _estimated(model, request)
        ask = Ask(
            entries=len(_items(request)), tokens=tokens, bytes=request.body_bytes, seconds=predict(model.cost, tokens)
        )
        stretch = factor(model.calibration, now=now)
        verdict = admit(self._load(model, now), self._limits, ask, deadline=request.deadline, now=now, stretch=stretch)
        if isinstance(verdict, Shed):
            model.meter.shed(verdict.reason.value)
            raise Overloaded(
                f"too busy to answer in time ({verdict.reason.value})",
                retry_after=verdict.retry_after,
                code=verdict.reason.value,
            )
        return verdict

    def _load(self, model: LoadedModel, now: float) -> Load:
        """The bounds are over all models, the wait is that of this one."""
        entries = tokens = size = 0
        wait = 0.0
        for each in self._models.values():
            load = each.queue.load(each.cost, now=now)
            entries += load.entries
            tokens += load.tokens
            size += load.bytes
            if each is model:
                wait = load.expected_wait
        return Load(entries=entries, tokens=tokens, bytes=size, expected_wait=wait)

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


def _not_ready(name: str, version: str, state: ModelState, reason: str) -> Transient:
    why = f" ({reason})" if reason else ""
    return Transient(f"model {name}@{version} is {state.value}{why}", why=Unavailable.NOT_READY, retry_after=1.0)


def _estimated(model: LoadedModel, request: Request) -> int:
    return sum(model.task.estimate(item, request.parameters) for item in _items(request))


def _items(request: Request) -> tuple[Item, ...]:
    if request.texts is not None:
        if not request.texts:
            raise Refused("no text", kind=Refusal.UNPROCESSABLE, field="texts", value=[], allowed="at least one text")
        return request.texts
    return (request.tensors or {},)
