"""Hedging: when is the other place asked as well, while the first has not answered?  Pure.

Invariants:

* a private request has no second place; nor has any in `local-only` and `cloud-only`;
* only what may be computed twice is: nobody hedges an answer that is drawn by chance;
* a hedge is a second attempt: it needs one of the retry budget, and what `decide/routing` asks of any second attempt (breaker,
  budgets, pressure, lease);
* a hedge that could not make the deadline is not begun;
* the device's last chance to answer for a silent cloud is a fall-back, and needs no retry.

After "The Tail at Scale" (Dean and Barroso, 2013): a second copy after the 95th percentile costs a twentieth more at the most.
"""

from edge_agent.decide.routing import (
    Ask,
    Cloud,
    CloudState,
    Local,
    LocalState,
    Reason,
    Refuse,
    after_cloud_failure,
    after_local_failure,
    is_private,
)
from shared.protocol.policy import Mode, Rules

LAST_CHANCE = 1.5
"""Of the device's predicted completion: with no more time than this, it answers now or not at all."""
UNSEEN_SHARE = 0.5
"""While nothing is known of how fast a place answers, it gets this share of the time that is left."""


def patience(ask: Ask, rules: Rules, *, p95: float | None, repeatable: bool, now: float) -> float | None:
    """Seconds the place asked first has to itself; None where there is no hedge.

    Args:
        ask: the request.
        rules: the policy for its model.
        p95: what was observed of the place asked first, in seconds; None while too little was.
        repeatable: whether it may be computed twice.
        now: monotonic seconds.

    """
    if rules.hedge_after_ms is None or not repeatable or is_private(ask, rules):
        return None
    if rules.mode in (Mode.LOCAL_ONLY, Mode.CLOUD_ONLY):
        return None
    left = ask.deadline - now
    usual = left * UNSEEN_SHARE if p95 is None else p95
    after = usual if isinstance(rules.hedge_after_ms, str) else rules.hedge_after_ms / 1e3
    return after if after < left else None


def beside_local(ask: Ask, cloud: CloudState, rules: Rules, *, now: float) -> Cloud | Refuse:
    """Whether the cloud is asked beside the device, which was asked first and has not answered."""
    verdict = after_local_failure(ask, cloud, rules, now=now)
    return Cloud(Reason.HEDGED) if isinstance(verdict, Cloud) else verdict


def beside_cloud(ask: Ask, local: LocalState | None, cloud: CloudState, rules: Rules, *, now: float) -> Local | Refuse:
    """Whether the device is asked beside the cloud, which was asked first and has not answered.

    Without a retry left it is asked when it could hardly make the deadline later: that is the fall-back, which is not charged.
    """
    if not cloud.retries_left and (local is None or ask.deadline - now > LAST_CHANCE * local.completion):
        return Refuse(Reason.RETRIES_EXHAUSTED)
    if local is not None and local.full:
        return Refuse(Reason.LOCAL_SATURATED)
    verdict = after_cloud_failure(ask, local, rules, now=now)
    return Local(Reason.HEDGED) if isinstance(verdict, Local) else verdict
