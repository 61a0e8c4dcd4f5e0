"""The engine's entrance: asks `decide/admission` about a request, and tells those it turns away when to come back.

Invariants:

* the verdict and the permit made of it are one step: nothing here awaits;
* what is refused before its body is read would have been refused with it: only what holds for a request of any size counts.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from shared.io.clock import Clock
from shared.protocol.errors import Overloaded
from shared.protocol.reported import ModelState
from shared.serving.answer import Request
from shared.serving.decide.admission import Admitted, Ask, Limits, Load, Shed, ShedReason, admit, spread
from shared.serving.decide.cost import predict
from shared.serving.decide.residency import Key
from shared.serving.memory.residency import Residency
from shared.serving.metrics import EngineMetrics
from shared.serving.versions.loaded import LoadedModel


class TurnedAway(NamedTuple):
    """A request that is not worth reading: which version it meant, or could mean, and what its caller is told."""

    model: LoadedModel
    error: Overloaded


class Entrance:
    """Loop's thread only. `draw`, from [0, 1), spreads those who are asked to come back."""

    def __init__(
        self,
        models: Mapping[Key, LoadedModel],
        residency: Residency,
        *,
        active: Callable[[str], Mapping[str, str]],
        limits: Limits,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        """`active`: the version by name that a tenant's unversioned requests get."""
        self._models = models
        self._active = active
        self._residency = residency
        self._limits = limits
        self._clock = clock
        self._draw = draw

    def admitted(self, model: LoadedModel, request: Request, *, entries: int, tokens: int, now: float) -> Admitted:
        """Let `request` in.

        Raises:
            Overloaded: it may not enter now.

        """
        ask = model.limiter.ask(entries, tokens, request.body_bytes, model.cost)
        verdict = self._verdict(model, ask, deadline=request.deadline, now=now)
        if isinstance(verdict, Shed):
            if verdict.reason is ShedReason.DEADLINE:
                self._residency.wish(model)
            model.meter.shed(verdict.reason.value)
            raise _overloaded(verdict)
        return verdict

    def knows(self, request: Request) -> bool:
        """Whether the version `request` names, or would get, is loaded."""
        version = request.version or self._active(request.tenant).get(request.model, "")
        return (request.tenant, request.model, version) in self._models

    def is_crowded(self, tenant: str) -> bool:
        """Whether a full batch waits for any version of `tenant`."""
        return any(owner == tenant and _is_crowded(model) for (owner, _, _), model in self._models.items())

    def crowded(self, request: Request, *, late: bool = False) -> Sequence[LoadedModel]:
        """The versions that `request` can mean, of which only the headers are known, if each is worth judging it by; else none.

        Looked at for every request, so it must cost nothing where there is room: a version counts where a full batch waits for
        it, or anything does while the event loop is `late`. One that idles reads what it is asked in any case: else a prediction
        that is too long would never be put right.
        """
        if request.model:
            version = request.version or self._active(request.tenant).get(request.model, "")
            model = self._models.get((request.tenant, request.model, version))
            return (model,) if model is not None and _is_crowded(model, late=late) else ()
        meant = [model for (tenant, _, _), model in self._models.items() if tenant == request.tenant]
        return meant if all(_is_crowded(model, late=late) for model in meant) else ()

    def early(self, models: Sequence[LoadedModel], request: Request, *, now: float) -> TurnedAway | None:
        """Judge a request of which only the headers are known (`body_bytes` as declared), and that can mean any of `models`.

        None where its body could matter: one of them would let in the least there is to ask for.
        """
        least: tuple[LoadedModel, Shed] | None = None
        for model in models:
            cost = model.cost
            company = predict(cost, model.limiter.company(cost))
            ask = Ask(bytes=request.body_bytes, seconds=predict(cost, 1), company=company)
            verdict = self._verdict(model, ask, deadline=request.deadline, now=now)
            if not isinstance(verdict, Shed):
                return None
            if least is None or verdict.retry_after < least[1].retry_after:
                least = model, verdict
        return None if least is None else TurnedAway(least[0], _overloaded(least[1]))

    def overrun(self, models: Sequence[LoadedModel], share: float) -> TurnedAway | None:
        """Turn away `share` of the requests that can mean any of `models`, whatever else holds: the event loop cannot answer them all."""
        if not models or share <= self._draw():
            return None
        shed = Shed(reason=ShedReason.LOOP, retry_after=spread(0.0, u=self._draw()))
        return TurnedAway(models[0], _overloaded(shed))

    def watched(self, model: LoadedModel, metrics: EngineMetrics) -> LoadedModel:
        """The model, with its limit and what is under way of it shown from now on."""

        def in_flight() -> float:
            return model.limiter.in_flight(model.queue.load(model.cost, now=self._clock.monotonic()))

        metrics.limited(model.name, model.version, limit=lambda: model.limiter.limit, in_flight=in_flight)
        return model

    def story(self) -> list[dict[str, object]]:
        """What `/health` tells: of every version how many slots are under way and may be, and what last moved the limit."""
        now, found = self._clock.monotonic(), []
        for (tenant, name, version), model in sorted(self._models.items()):
            limit, stretch = model.limiter.limit, model.limiter.stretch(now=now)
            found.append(
                {
                    "tenant": tenant,
                    "name": name,
                    "version": version,
                    "in_flight": round(model.limiter.in_flight(model.queue.load(model.cost, now=now)), 1),
                    "limit": round(limit, 1) if math.isfinite(limit) else None,
                    "least": model.limiter.capacity.least,
                    "why": model.limiter.concurrency.why,
                    "stretch": round(stretch.factor, 3),
                    "margin_ms": round(stretch.margin * 1e3, 1),
                }
            )
        return found

    def turn_away(self, turned: TurnedAway) -> None:
        """Count it as what it is: a request that was shed."""
        turned.model.meter.shed(turned.error.code)
        turned.model.meter.failed(turned.error, 0.0)

    def _verdict(self, model: LoadedModel, ask: Ask, *, deadline: float | None, now: float) -> Admitted | Shed:
        own = model.queue.load(model.cost, now=now)
        everything = own
        if len(self._models) > 1:
            everything = _sum(model, own, self._models.values(), now)
        limiter = model.limiter
        if not model.residence.open:
            wait = own.expected_wait + self._residency.expected(model, now)
            everything = Load(
                entries=everything.entries, tokens=everything.tokens, bytes=everything.bytes, expected_wait=wait
            )
        return admit(
            everything,
            self._limits,
            ask,
            deadline=deadline,
            now=now,
            stretch=limiter.stretch(now=now),
            own=limiter.own(own, shared=len(self._models) > 1),
            u=self._draw(),
        )


def _is_crowded(model: LoadedModel, *, late: bool = False) -> bool:
    if model.state is not ModelState.READY or not model.residence.open:
        return False
    return model.queue.has_batch or (late and not model.queue.is_idle)


def _sum(model: LoadedModel, own: Load, models: Iterable[LoadedModel], now: float) -> Load:
    """The bounds are over all models, the wait is that of this one."""
    entries, tokens, size = own.entries, own.tokens, own.bytes
    for each in models:
        if each is not model:
            load = each.queue.load(each.cost, now=now)
            entries += load.entries
            tokens += load.tokens
            size += load.bytes
    return Load(entries=entries, tokens=tokens, bytes=size, expected_wait=own.expected_wait)


def _overloaded(shed: Shed) -> Overloaded:
    reason = shed.reason.value
    return Overloaded(f"too busy to answer in time ({reason})", retry_after=shed.retry_after, code=reason)
