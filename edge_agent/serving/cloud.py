"""What this device knows of its cloud: breaker, estimates, budgets, announced pressure. One owner, event loop only."""

from collections import OrderedDict
from collections.abc import Callable

from edge_agent.decide import breaker as breakers
from edge_agent.decide import budget as budgets
from edge_agent.decide import estimate as estimates
from edge_agent.decide import exercise as exercises
from edge_agent.decide import window as windows
from edge_agent.decide.breaker import Breaker, RetryBudget, State
from edge_agent.decide.budget import Spent
from edge_agent.decide.estimate import Estimate
from edge_agent.decide.offload import offload
from edge_agent.decide.routing import Ask, Cached, Cloud, CloudState, Local, LocalState, Refuse
from edge_agent.decide.window import Window
from edge_agent.serving.paces import Paces
from shared.io.clock import Clock
from shared.protocol.policy import Rules
from shared.protocol.pressure import Pressure

MODELS = 64
"""Models whose estimates are kept; the one unused for longest goes."""
PATIENCE_S = 0.25
"""A caller with less time than this does not speak for the cloud's health."""
UNLIKELY = 0.05
"""A cloud that answers at all would be silent for so long no more often than this."""
Verdict = Local | Cloud | Cached | Refuse
NO_CLOUD = CloudState(permitted=False)


class CloudTarget:
    """The one cloud target."""

    def __init__(
        self,
        *,
        clock: Clock,
        draw: Callable[[], float],
        metered: bool = False,
        price: Callable[[], float] = lambda: 0.0,
        spent: Spent = Spent(),  # noqa: B008 - a frozen value
    ) -> None:
        """`metered`: what goes to the cloud costs money by the byte, and only what must goes.

        `price` of a request now; `spent` of the budget before this process started.
        """
        self._clock = clock
        self._draw = draw
        self._metered = metered
        self._credit = exercises.Credit()
        self._breaker = Breaker()
        self._retries = RetryBudget()
        self._spent = spent
        self._price = price
        self._paces = Paces()
        self._estimates: OrderedDict[str, Estimate] = OrderedDict()
        self._pressure: Pressure | None = None
        self._window = Window()
        self._outstanding = 0
        self._asked_at = 0.0
        self._doubt = 1.0
        self._exists = False
        self._silence: Callable[[], float] = lambda: 0.0

    def enrolled(self, *, silence: Callable[[], float]) -> None:
        """There is a gateway; `silence` tells the seconds since the control plane was last heard."""
        self._exists = True
        self._silence = silence

    @property
    def exists(self) -> bool:
        """Whether this device has a cloud at all."""
        return self._exists

    @property
    def spent(self) -> Spent:
        """What was spent of the budget, in the newest minute and day."""
        return self._spent

    @property
    def breaker(self) -> State:
        """The breaker's state."""
        return self._breaker.state

    def announced(self, pressure: Pressure) -> None:
        """The gateway told the fleet of its headroom."""
        self._pressure = pressure

    def state(self, model: str, rules: Rules, *, size: float = 0.0) -> CloudState:
        """A snapshot for one decision about a request for `model` of `size` bytes, 0 where that is not known."""
        if not self._exists:
            return NO_CLOUD
        now, wall = self._clock.monotonic(), self._clock.wall()
        told = offload(self._pressure, model, wall=wall, u=self._draw())
        known = self._estimates.get(model)
        estimate = estimates.predicted(known, now=now, size=size)
        if estimate is None and self._outstanding:
            # Nobody has answered yet, so it takes at least as long as the first has been waiting.
            estimate = now - self._asked_at
        return CloudState(
            permitted=breakers.permits(self._breaker, now=now),
            doubted=breakers.doubted(self._breaker, now=now),
            estimate=estimate,
            caution=estimates.caution(known, now=now),
            announced_wait=told.wait,
            admitted=told.admitted and windows.has_room(self._window, self._outstanding),
            untold=now - known.at if known is not None and self._outstanding == 0 else 0.0,
            retry_in=max(
                0.1,
                breakers.retry_in(self._breaker, now=now),
                budgets.renewed_in(self._spent, rules.cloud_budget, wall=wall),
            ),
            budget_left=budgets.left(self._spent, rules.cloud_budget, wall=wall),
            retries_left=self._retries.has_one,
            policy_age=self._silence() if rules.offline_lease_s is not None else 0.0,
        )

    def exercise(
        self, verdict: Verdict, ask: Ask, local: LocalState | None, cloud: CloudState, rules: Rules, *, now: float
    ) -> Verdict:
        """`verdict`, or instead of the device the cloud, for the few requests that keep what is known of it true."""
        if not self._exists or self._metered or local is None:
            return verdict
        if not exercises.is_eligible(verdict, ask, local, cloud, rules, now=now):
            return verdict
        self._credit = exercises.earn(self._credit, rules)
        instead = exercises.exercise(self._credit, local, cloud, u=self._draw())
        if instead is None:
            return verdict
        self._credit = exercises.spend(self._credit)
        return instead

    def asked(self) -> None:
        """A new request came in, wherever it goes: it earns its share of a second attempt."""
        self._retries = self._retries.earned()

    def retried(self) -> None:
        """A second attempt is made."""
        self._retries = self._retries.spent()

    def sent(self) -> None:
        """A request goes to the gateway now; exactly one of the methods below tells how it ended."""
        self._breaker = breakers.passed(self._breaker)
        self._spent = budgets.spend(self._spent, wall=self._clock.wall(), price=self._price())
        if self._outstanding == 0:
            self._asked_at = self._clock.monotonic()
        self._outstanding += 1

    def answered(self, model: str, seconds: float, *, size: float = 0.0) -> None:
        """The gateway answered a request of `size` bytes with a result after `seconds`."""
        self._window = windows.answered(
            self._window, outstanding=self._outstanding, seconds=seconds, now=self._clock.monotonic()
        )
        self._outstanding -= 1
        self._doubt = 1.0
        self._breaker = breakers.succeeded(self._breaker)
        self._paces.answered(model, seconds)
        self._learn(model, seconds, size)

    def refused(self) -> None:
        """The gateway is there and refused the request: nothing is learnt of how long an answer takes."""
        self._outstanding -= 1
        self._doubt = 1.0
        self._breaker = breakers.succeeded(self._breaker)

    def shed(self, seconds: float) -> None:
        """The gateway is there and has no room."""
        self._narrow(seconds)
        self.refused()

    def failed(self) -> None:
        """No working gateway was found."""
        self._outstanding -= 1
        self._breaker = breakers.failed(self._breaker, now=self._clock.monotonic(), u=self._draw())

    def ran_late(self, model: str, seconds: float) -> None:
        """No answer within `seconds`: late, and a failure, unless the caller gave it less time than answers take."""
        if seconds < PATIENCE_S or not self._is_mute(model, seconds):
            # It was given less than an answer usually takes.
            self.abandoned()
            return
        if self._breaker.state is State.CLOSED:
            # An outage tells nothing of how long answers take.
            self._learn(model, seconds)
            self._narrow(seconds)
        self.failed()

    def overtaken(self, model: str, seconds: float) -> None:
        """The device answered first: after `seconds` there was no answer, and there would have been one after more than that.

        A failure where the cloud seems mute: otherwise one that accepts and never answers would cost every request the time of a hedge,
        since nobody waits for it to run late.
        """
        if not self._is_mute(model, seconds):
            self.abandoned()
            return
        self._learn(model, seconds)
        self.failed()

    def p95(self, model: str) -> float | None:
        """Seconds in which nineteen of twenty answers came; None while too few did."""
        return self._paces.p95(model)

    def abandoned(self) -> None:
        """The caller went away first."""
        self._outstanding -= 1
        self._breaker = breakers.abandoned(self._breaker)

    def _is_mute(self, model: str, seconds: float) -> bool:
        """After another silence of `seconds`: would a cloud that answers hardly have been silent each time since it was last heard?"""
        beyond = self._paces.beyond(model, seconds)
        self._doubt *= beyond if beyond is not None else float(seconds < PATIENCE_S)
        return self._doubt <= UNLIKELY

    def _narrow(self, seconds: float) -> None:
        now = self._clock.monotonic()
        self._window = windows.narrowed(self._window, sent_at=now - seconds, now=now)

    def _learn(self, model: str, seconds: float, size: float = 0.0) -> None:
        known = self._estimates.pop(model, None)
        self._estimates[model] = estimates.observed(known, seconds, now=self._clock.monotonic(), size=size)
        if len(self._estimates) > MODELS:
            self._estimates.popitem(last=False)
