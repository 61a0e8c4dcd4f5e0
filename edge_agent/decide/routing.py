"""Routing: where is this request answered, and why?  Pure; well under 50 µs.

Invariants:

* a request with a privacy tag never leaves the device, in any mode, at a first attempt, a fall-back or an escalation;
* mode `local-only` never names the cloud, and `cloud-only` never the device;
* saturation is predicted completion against the deadline that is left, so one request may fit where another does not, or the
  device's own limit, past which it lets nothing in;
* mode `fastest` compares both places without their margins (`caution`), begins to use an idle cloud only for a gain, and counts
  what a request costs those behind it (`decide/displacement`): past saturation long ones are refused first, which answers more;
* a cloud that was too slow, or away, is asked again by what would be refused, one request at a time, unless it announces that it is late;
* where one place alone may answer, it is asked: its own admission sheds what must be shed;
* a kept answer stands in for one the policy would let stand, or, where the policy says so, for none at all.
"""

from enum import StrEnum

import msgspec

from shared.protocol.policy import Mode, OnOverload, Rules

LOCAL_ONLY_TAG = "local-only"
"""The tag that every policy honours (contract, section 3, `X-Tideline-Privacy`)."""

REFUSED_FOR = 0.25
"""Mode `fastest` keeps a request off the device where its time and this share of what it costs others exceed what is left."""
HYSTERESIS = 0.1
"""Mode `fastest` begins to use an idle cloud where it is faster by this share, and goes on while it is faster at all."""
DOUBT_S = 0.25
"""After this time without a word from the cloud, one request that would be refused asks it though it was too slow before."""


class Reason(StrEnum):
    """Why a request went where it went: the answer's `X-Tideline-Why`, and a label of `tideline_route_total`."""

    MODE = "mode"
    PRIVACY = "privacy"
    LOCAL_MEETS_DEADLINE = "local-meets-deadline"
    LOCAL_SATURATED = "local-saturated"
    LOCAL_ABSENT = "local-absent"
    LOCAL_FASTER = "local-faster"
    LOCAL_FAILED = "local-failed"
    CLOUD_FASTER = "cloud-faster"
    CLOUD_SATURATED = "cloud-saturated"
    CLOUD_UNREACHABLE = "cloud-unreachable"
    CLOUD_FAILED = "cloud-failed"
    BUDGET_EXHAUSTED = "budget-exhausted"
    RETRIES_EXHAUSTED = "retries-exhausted"
    POLICY_STALE = "policy-stale"
    BOTH_LATE = "both-late"
    EXPIRED = "expired"
    CONFIDENT = "confident"
    LOW_CONFIDENCE = "low-confidence"
    CACHE_HIT = "cache-hit"
    NOBODY_ANSWERED = "nobody-answered"
    HEDGED = "hedged"
    EXERCISE = "exercise"
    SMALLER_MODEL = "smaller-model"


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a request before any work: its deadline on the monotonic clock, and its privacy tags."""

    deadline: float
    privacy: frozenset[str] = frozenset()


class LocalState(msgspec.Struct, frozen=True, kw_only=True):
    """What the device predicts for this very request, in seconds: the wait for its turn, and its own compute.

    `full`: as much of this model is under way as may be, and the device lets nothing more of it in now. `caution` is how much of
    the two is there to be sure: a deadline is held against all of it, another place against the rest. `displaced` is how much longer
    those who follow would wait, all together (`decide/displacement`).
    """

    expected_wait: float
    service: float
    full: bool = False
    caution: float = 0.0
    displaced: float = 0.0

    @property
    def completion(self) -> float:
        """Seconds until it would be answered here."""
        return self.expected_wait + self.service


class CloudState(msgspec.Struct, frozen=True, kw_only=True):
    """What the device knows of its cloud.

    `permitted` is the breaker's word (False also where no gateway is known), `retry_in` the seconds until it may change, `doubted`
    whether one that would be refused may find out before;
    `estimate` round trip and service, mean and deviation, None while nothing was measured, `caution` the deviation in it;
    `budget_left` None is unlimited;
    `retries_left` whether the retry budget has one; `policy_age` the seconds since the control plane was last heard.
    `announced_wait` is what the gateway last told the whole fleet, in seconds; `admitted` whether this request is in the share
    of overflow it wants, and there is room beside what this device has under way already.
    `untold` the seconds since something was learnt of how long it takes; 0 while an answer is awaited.
    """

    permitted: bool
    estimate: float | None = None
    caution: float = 0.0
    announced_wait: float = 0.0
    admitted: bool = True
    untold: float = 0.0
    doubted: bool = False
    retry_in: float = 1.0
    budget_left: int | None = None
    retries_left: bool = True
    policy_age: float = 0.0

    @property
    def completion(self) -> float:
        """Seconds until it would be answered there; 0 while nothing is known, so that something becomes known."""
        return max(self.estimate or 0.0, self.announced_wait)


class Local(msgspec.Struct, frozen=True):
    """Answer it on the device."""

    reason: Reason


class Cloud(msgspec.Struct, frozen=True):
    """Hand it to the gateway."""

    reason: Reason


class Cached(msgspec.Struct, frozen=True):
    """Give the answer that was kept for the same input."""

    reason: Reason


class Refuse(msgspec.Struct, frozen=True):
    """Nobody answers it now; `retry_after` in seconds where waiting can help."""

    reason: Reason
    retry_after: float | None = None


class Keep(msgspec.Struct, frozen=True):
    """The local answer stands."""

    reason: Reason


class Escalate(msgspec.Struct, frozen=True):
    """The cloud is asked too, and its answer wins."""

    reason: Reason


def tags_of(header: str | None) -> frozenset[str]:
    """The tags in an `X-Tideline-Privacy` value: separated by commas, case and blanks ignored."""
    if not header:
        return frozenset()
    return frozenset(tag for part in header.split(",") if (tag := part.strip().lower()))


def is_private(ask: Ask, rules: Rules) -> bool:
    """Whether the request must stay on the device."""
    return bool(ask.privacy) and (LOCAL_ONLY_TAG in ask.privacy or not ask.privacy.isdisjoint(rules.privacy_tags))


def at_once(ask: Ask, confidence: float | None, rules: Rules, *, now: float) -> Cached | None:
    """Whether a kept answer is given before anybody is asked; None where somebody is.

    It must be one the policy would let stand if the device gave it now: a cascade asks the cloud about those it is unsure of.
    `confidence` is the least of the kept answer's, None where it has none.
    """
    if rules.cache_bytes is None or rules.kept_bytes == 0 or ask.deadline <= now:
        return None
    if rules.mode is Mode.CASCADE and rules.confidence_below is not None and confidence is not None:
        return Cached(Reason.CACHE_HIT) if confidence >= rules.confidence_below else None
    return Cached(Reason.CACHE_HIT)


def route(
    ask: Ask, local: LocalState | None, cloud: CloudState, rules: Rules, *, now: float, kept: bool = False
) -> Local | Cloud | Cached | Refuse:
    """Where the request is answered first.

    Args:
        ask: the request.
        local: the device's prediction; None where the device does not serve the model.
        cloud: what is known of the cloud.
        rules: the policy for this model.
        now: monotonic seconds, the clock of `ask.deadline`.
        kept: whether an answer to the same input was kept, of whatever age and confidence.

    """
    left = ask.deadline - now
    if left <= 0:
        return Refuse(Reason.EXPIRED)
    private = is_private(ask, rules)
    if private or rules.mode is Mode.LOCAL_ONLY:
        if local is None:
            return Refuse(Reason.LOCAL_ABSENT)
        return Local(Reason.PRIVACY if private else Reason.MODE)
    barred = bar_of(cloud, rules)
    if rules.mode is Mode.CLOUD_ONLY:
        return Cloud(Reason.MODE) if barred is None else Refuse(barred, cloud.retry_in)
    if local is None:
        return Cloud(Reason.LOCAL_ABSENT) if barred is None else Refuse(barred, cloud.retry_in)
    verdict = _weigh(local, cloud, rules, left=left, barred=barred)
    if isinstance(verdict, Refuse) and after_everyone(rules, kept=kept) is not None:
        return Cached(verdict.reason)
    return verdict


def is_sure(confidence: float | None, rules: Rules) -> bool:
    """Whether the device's answer stands by itself; `confidence` is the least of the answer's, None where it has none."""
    if rules.mode is not Mode.CASCADE or rules.confidence_below is None or confidence is None:
        return True
    return confidence >= rules.confidence_below


def after_local(ask: Ask, confidence: float | None, cloud: CloudState, rules: Rules, *, now: float) -> Keep | Escalate:
    """Whether a cascade asks the cloud as well; `confidence` is the least of the answer's, None where it has none."""
    if rules.mode is not Mode.CASCADE or rules.confidence_below is None or confidence is None:
        return Keep(Reason.MODE)
    if is_sure(confidence, rules):
        return Keep(Reason.CONFIDENT)
    again = after_local_failure(ask, cloud, rules, now=now)
    return Escalate(Reason.LOW_CONFIDENCE) if isinstance(again, Cloud) else Keep(again.reason)


def after_local_failure(ask: Ask, cloud: CloudState, rules: Rules, *, now: float) -> Cloud | Refuse:
    """Whether the cloud may answer what the device could not: a retry, so the retry budget is asked as well."""
    if is_private(ask, rules):
        return Refuse(Reason.PRIVACY)
    if rules.mode is Mode.LOCAL_ONLY:
        return Refuse(Reason.MODE)
    barred = bar_of(cloud, rules)
    if barred is not None:
        return Refuse(barred, cloud.retry_in)
    if not cloud.retries_left:
        return Refuse(Reason.RETRIES_EXHAUSTED)
    if not cloud.admitted:
        return Refuse(Reason.CLOUD_SATURATED, cloud.announced_wait)
    if now + cloud.completion >= ask.deadline:
        return Refuse(Reason.BOTH_LATE)
    return Cloud(Reason.LOCAL_FAILED)


def after_cloud_failure(ask: Ask, local: LocalState | None, rules: Rules, *, now: float) -> Local | Refuse:
    """Whether the device can still answer in time what the cloud could not."""
    if rules.mode is Mode.CLOUD_ONLY:
        return Refuse(Reason.MODE)
    if local is None:
        return Refuse(Reason.LOCAL_ABSENT)
    if now + local.completion >= ask.deadline:
        return Refuse(Reason.BOTH_LATE, max(0.0, local.completion - (ask.deadline - now)))
    return Local(Reason.CLOUD_FAILED)


def after_everyone(rules: Rules, *, kept: bool) -> Cached | None:
    """Whether a kept answer is given after whoever was asked had no room or ran late; None where the caller is told so."""
    wanted = kept and rules.kept_bytes > 0 and rules.on_overload is OnOverload.CACHED
    return Cached(Reason.NOBODY_ANSWERED) if wanted else None


def _weigh(
    local: LocalState, cloud: CloudState, rules: Rules, *, left: float, barred: Reason | None
) -> Local | Cloud | Refuse:
    if barred is None and not cloud.admitted:
        barred = Reason.CLOUD_SATURATED
    here, there = local.completion, cloud.completion
    local_late, cloud_late = local.full or here >= left, there >= left
    if rules.mode is Mode.FASTEST:
        local_late = local_late or here + REFUSED_FOR * local.displaced >= left
        if barred is None and not cloud_late:
            own = here - local.caution
            gain = own + local.displaced - (there - cloud.caution)
            if local_late or gain > (HYSTERESIS * own if cloud.untold > 0.0 else 0.0):
                return Cloud(Reason.CLOUD_FASTER)
            return Local(Reason.LOCAL_FASTER)
    if not local_late:
        return Local(barred if barred is not None and rules.mode is Mode.FASTEST else Reason.LOCAL_MEETS_DEADLINE)
    if barred is None and (not cloud_late or (cloud.untold >= DOUBT_S and cloud.announced_wait < left)):
        # Late by what the cloud once took, and nobody is under way to tell otherwise: this one finds out, where it would be refused.
        return Cloud(Reason.LOCAL_SATURATED)
    if barred is Reason.CLOUD_UNREACHABLE and cloud.doubted and cloud.admitted and cloud.budget_left != 0:
        return Cloud(Reason.LOCAL_SATURATED)
    wait = max(here - left, local.expected_wait if local.full else 0.0)
    return Refuse(Reason.BOTH_LATE if barred is None else barred, wait)


def bar_of(cloud: CloudState, rules: Rules) -> Reason | None:
    """Why the cloud may not be asked at all; None if it may."""
    if rules.offline_lease_s is not None and cloud.policy_age > rules.offline_lease_s:
        return Reason.POLICY_STALE
    if not cloud.permitted:
        return Reason.CLOUD_UNREACHABLE
    if cloud.budget_left is not None and cloud.budget_left <= 0:
        return Reason.BUDGET_EXHAUSTED
    return None
