"""What this device knows of its cloud: breaker, estimates, budgets, announced pressure. One owner, event loop only."""

from collections import OrderedDict
from collections.abc import Callable

from edge_agent.decide import breaker as breakers
from edge_agent.decide import budget as budgets
from edge_agent.decide import estimate as estimates
from edge_agent.decide import window as windows
from edge_agent.decide.breaker import Breaker, RetryBudget, State
from edge_agent.decide.budget import Spent
from edge_agent.decide.estimate import Estimate
from edge_agent.decide.offload import offload
from edge_agent.decide.routing import CloudState
from edge_agent.decide.window import Window
from shared.io.clock import Clock
from shared.protocol.policy import Rules
from shared.protocol.pressure import Pressure

MODELS = 64
"""Models whose estimates are kept; the one unused for longest goes."""
PATIENCE_S = 0.25
"""A caller with less time than this does not speak for the cloud's health."""
NO_CLOUD = CloudState(permitted=False)


class CloudTarget:
    """The one cloud target."""

    def __init__(self, *, clock: Clock, draw: Callable[[], float]) -> None:
        self._clock = clock
        self._draw = draw
        self._breaker = Breaker()
        self._retries = RetryBudget()
        self._spent = Spent()
        self._estimates: OrderedDict[str, Estimate] = OrderedDict()
        self._pressure: Pressure | None = None
        self._window = Window()
        self._outstanding = 0
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
    def breaker(self) -> State:
        """The breaker's state."""
        return self._breaker.state

    def announced(self, pressure: Pressure) -> None:
        """The gateway told the fleet of its headroom."""
        self._pressure = pressure

    def state(self, model: str, rules: Rules) -> CloudState:
        """A snapshot for one decision about `model`."""
        if not self._exists:
            return NO_CLOUD
        now, wall = self._clock.monotonic(), self._clock.wall()
        told = offload(self._pressure, model, wall=wall, u=self._draw())
        return CloudState(
            permitted=breakers.permits(self._breaker, now=now),
            estimate=estimates.predicted(self._estimates.get(model), now=now),
            announced_wait=told.wait,
            admitted=told.admitted and windows.has_room(self._window, self._outstanding),
            retry_in=max(0.1, breakers.retry_in(self._breaker, now=now)),
            budget_left=budgets.left(self._spent, rules.cloud_budget, wall=wall),
            retries_left=self._retries.has_one,
            policy_age=self._silence() if rules.offline_lease_s is not None else 0.0,
        )

    def asked(self) -> None:
        """A new request came in, wherever it goes: it earns its share of a second attempt."""
        self._retries = self._retries.earned()

    def retried(self) -> None:
        """A second attempt is made."""
        self._retries = self._retries.spent()

    def sent(self) -> None:
        """A request goes to the gateway now; exactly one of the methods below tells how it ended."""
        self._breaker = breakers.passed(self._breaker)
        self._spent = budgets.spend(self._spent, wall=self._clock.wall())
        self._outstanding += 1

    def answered(self, model: str, seconds: float) -> None:
        """The gateway answered with a result after `seconds`."""
        self._window = windows.widened(self._window, outstanding=self._outstanding)
        self._outstanding -= 1
        self._breaker = breakers.succeeded(self._breaker)
        self._learn(model, seconds)

    def refused(self) -> None:
        """The gateway is there and refused the request: nothing is learnt of how long an answer takes."""
        self._outstanding -= 1
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
        """No answer within `seconds`: late in any case, and a failure unless the caller gave it hardly any time."""
        self._learn(model, seconds)
        self._narrow(seconds)
        if seconds >= PATIENCE_S:
            self.failed()
        else:
            self.abandoned()

    def abandoned(self) -> None:
        """The caller went away first."""
        self._outstanding -= 1
        self._breaker = breakers.abandoned(self._breaker)

    def _narrow(self, seconds: float) -> None:
        now = self._clock.monotonic()
        self._window = windows.narrowed(self._window, sent_at=now - seconds, now=now)

    def _learn(self, model: str, seconds: float) -> None:
        known = self._estimates.pop(model, None)
        self._estimates[model] = estimates.observed(known, seconds, now=self._clock.monotonic())
        if len(self._estimates) > MODELS:
            self._estimates.popitem(last=False)
