"""Turning requests away before their bodies are read, where nobody but this device could answer them, and it is full.

Only what holds whatever the body says counts: the policy keeps the request here (privacy, mode) or bars the cloud at present, no
kept answer and no smaller model could stand in, and the device's own admission would shed the smallest of requests, or the event loop
cannot answer all that come (`decide/overrun`). A share of overflow that the cloud takes now is no bar: such requests are read, and routed.
"""

import msgspec

from edge_agent.control.applied import PolicyHolder
from edge_agent.decide import routing
from edge_agent.decide.routing import Ask, CloudState, Local, Reason, Refuse
from edge_agent.serving.accounts import Accounts
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.refusal import error_of
from edge_agent.serving.rules_in_force import RulesInForce
from edge_agent.serving.trip import Trip
from shared.io.clock import Clock
from shared.io.loop_lag import LATE_S, LoopLag
from shared.protocol.errors import Unavailable
from shared.protocol.policy import Mode, Rules
from shared.serving.admission.entrance import TurnedAway
from shared.serving.answer import Request, Where
from shared.serving.decide import overrun
from shared.serving.engine import Engine
from shared.serving.metrics import outcome_of


class EarlyRefusal:
    """What the HTTP face asks before it reads."""

    def __init__(
        self,
        engine: Engine,
        cloud: CloudTarget,
        holder: PolicyHolder,
        accounts: Accounts,
        *,
        lag: LoopLag,
        clock: Clock,
    ) -> None:
        self.lag = lag
        self._engine = engine
        self._cloud = cloud
        self._holder = holder
        self._accounts = accounts
        self._clock = clock
        self._rules = RulesInForce(holder, changed=lambda: None)

    def __call__(self, request: Request) -> None:
        """Look at the headers of `request`.

        Raises:
            Overloaded: it is turned away.
            Transient: its deadline passed while it waited for the event loop.

        """
        now = self._clock.monotonic()
        if request.deadline is not None and request.deadline <= now:
            self._expired(request, request.deadline, now=now)
            raise error_of(Reason.EXPIRED, None, local=False, u=0.0)
        lost = self.lag.ahead()
        models = self._engine.entrance.crowded(request, late=lost >= LATE_S)
        if not models:
            return
        names = {model.name for model in models}
        # Whichever model it means, its rules may give it more time than those of another.
        most = max(self._rules.of(name).deadline_ms for name in names) / 1e3
        deadline = request.deadline if request.deadline is not None else now + most
        ask = Ask(deadline=deadline, privacy=routing.tags_of(request.privacy))
        reasons = {name: self._kept_here(request, ask, name, now=now) for name in names}
        if None in reasons.values():
            return
        dated = msgspec.structs.replace(request, deadline=deadline - lost)
        entrance = self._engine.entrance
        turned = entrance.early(models, dated, now=now) or entrance.overrun(models, overrun.share(self.lag.standing()))
        reason = None if turned is None else reasons[turned.model.name]
        if turned is not None and reason is not None:
            self._told(dated, ask, turned, reason, now=now)
            raise turned.error

    def _kept_here(self, request: Request, ask: Ask, name: str, *, now: float) -> Reason | None:
        """Why nobody but the device could answer with model `name`; None where somebody could."""
        rules = self._rules.of(name)
        if (
            rules.mode is Mode.CLOUD_ONLY
            or rules.kept_bytes
            or rules.smaller
            or (rules.split and request.version is None)
        ):
            return None
        verdict = routing.after_local_failure(ask, self._bars(name, rules), rules, now=now)
        return verdict.reason if isinstance(verdict, Refuse) else None

    def _bars(self, name: str, rules: Rules) -> CloudState:
        """What is known of the cloud, without what varies from one request to the next."""
        known = self._cloud.state(name, rules)
        return CloudState(permitted=known.permitted, budget_left=known.budget_left, policy_age=known.policy_age)

    def _told(self, request: Request, ask: Ask, turned: TurnedAway, reason: Reason, *, now: float) -> None:
        """Count it, and remember why, as of every request that the device's admission sheds."""
        model, error = turned.model, turned.error
        self._engine.entrance.turn_away(turned)
        meant = msgspec.structs.replace(request, model=model.name, version=model.version)
        trip = self._trip(meant, ask, Local(reason), known=True, now=now)
        outcome = outcome_of(error)
        self._accounts.asked(trip, Where.LOCAL, reason, outcome, began=now, error=error.message)
        self._accounts.ended(trip, None, outcome)

    def _expired(self, request: Request, deadline: float, *, now: float) -> None:
        """Count it, and remember why, as of every request that routing finds expired."""
        known = self._engine.entrance.knows(request)
        ask = Ask(deadline=deadline, privacy=routing.tags_of(request.privacy))
        trip = self._trip(request, ask, Refuse(Reason.EXPIRED), known=known, now=now)
        self._accounts.ended(trip, None, Unavailable.DEADLINE.value)

    def _trip(self, request: Request, ask: Ask, verdict: Local | Refuse, *, known: bool, now: float) -> Trip:
        trip = Trip(
            request,
            rules=self._rules.of(request.model),
            ask=ask,
            began=now,
            at=self._clock.wall(),
            known=known,
            generation=self._holder.generation,
        )
        trip.decided(verdict, None, None, breaker=self._cloud.breaker.value)
        self._accounts.decided(trip)
        return trip
