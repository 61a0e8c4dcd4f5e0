"""Exercise: a small share of what the device would answer goes to the cloud, so that what is known of the way there is true.  Pure.

Without it, an idle device learns of a dead cloud, or of one that came back, from the first request that has nowhere else to go:
nobody probes an open breaker, and estimates are of hours ago.

Invariants:

* of `n` eligible requests at most `share * n` go, and never the first ones of a device: they must be earned;
* a request goes only where the device could still answer it after the cloud did not (`decide/timeouts`);
* never on a metered link, never what is private, never what the policy bars, and never of the second half of a budget.
"""

import msgspec

from edge_agent.decide import timeouts
from edge_agent.decide.budget import smallest
from edge_agent.decide.routing import (
    Ask,
    Cached,
    Cloud,
    CloudState,
    Local,
    LocalState,
    Reason,
    Refuse,
    bar_of,
    is_private,
)
from shared.protocol.policy import CloudBudget, Rules

DRAWN = 0.1
"""Of the requests that come once one was earned: devices that earn alike do not go alike."""
OVERDUE = 1.5
"""With so many earned, a request goes however much slower the cloud is."""
MOST = 2.0
OURS = frozenset({Reason.LOCAL_MEETS_DEADLINE, Reason.LOCAL_FASTER})
"""Reasons for which a request stays here though it could go."""


class Credit(msgspec.Struct, frozen=True):
    """Requests that may go: each eligible one earns its share of one."""

    earned: float = 0.0


def earn(credit: Credit, rules: Rules) -> Credit:
    """After an eligible request."""
    return Credit(min(MOST, credit.earned + rules.exercise_share))


def spend(credit: Credit) -> Credit:
    """After one went."""
    return Credit(credit.earned - 1.0)


def is_eligible(
    verdict: Local | Cloud | Cached | Refuse,
    ask: Ask,
    local: LocalState | None,
    cloud: CloudState,
    rules: Rules,
    *,
    now: float,
) -> bool:
    """Whether a request that was to be answered by the device, for `verdict`, could as well go to the cloud.

    Args:
        verdict: what routing said.
        ask: the request.
        local: the device's prediction.
        cloud: what is known of the cloud.
        rules: the policy for this model.
        now: monotonic seconds.

    """
    if not isinstance(verdict, Local) or verdict.reason not in OURS or not rules.exercise_share or local is None:
        return False
    if is_private(ask, rules) or not cloud.admitted or not _is_plenty(cloud.budget_left, rules.cloud_budget):
        return False
    if bar_of(cloud, rules) is not None:
        return False
    until = timeouts.with_reserve(ask.deadline, local.completion, now=now)
    return until < ask.deadline and now + cloud.completion < until


def exercise(credit: Credit, local: LocalState, cloud: CloudState, *, u: float) -> Cloud | None:
    """Whether an eligible request goes; `u` in [0, 1) is its draw. Whoever loses least by it goes first, but not for ever."""
    if credit.earned < 1.0:
        return None
    here, there = local.completion + local.displaced, cloud.completion
    drawn = DRAWN if credit.earned >= OVERDUE or here >= there else DRAWN * here / there
    return Cloud(Reason.EXERCISE) if u < drawn else None


def _is_plenty(left: int | None, budget: CloudBudget) -> bool:
    """Whether less than half of the (smaller) budget is used: the rest is for those who need it."""
    most = smallest(budget)
    return left is None or most is None or left * 2 > most
