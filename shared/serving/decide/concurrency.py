"""How much work of one model version may be under way at once: a limit that follows what requests take. Pure: state in, state out.

A limit on concurrency holds latency without knowing how fast the machine is: by Little's law, what may be under way divided by
what is answered per second is what each request takes. It adapts as Gradient2 does (Netflix/concurrency-limits, `Gradient2Limit`), a
descendant of TCP Vegas (Brakmo and Peterson 1995): with g = what a request should take / what it took, between 0.5 and 1, the limit
becomes limit * g, and grows by its square root where nothing takes too long. What differs, and why:

* **A request's own cost is the yardstick**, not the least time seen. Requests differ by orders of magnitude, and batching makes
  each slower while all of them get faster: against its time alone, a request in a full batch looks 20 times too slow, and the
  limit would fall below the batch that the throughput comes from. A request should take what it takes in an engine that is full and
  no more than full: one full batch of its like before it, and its own (`expected`), by the fitted cost model, plus `GRACE_S`.
  The cost model sees compute alone, so this yardstick cannot drift up with queueing (Envoy #11579, its `minRTT`), needs no
  probe that would drain the engine (Envoy #8337), and follows a slower machine within a few batches.
* **A floor**: `Capacity.least`, for each lane a full batch that runs and a full one that waits for it. Below it lanes would idle.
* **Slots, not requests**: one slot is a row of a full batch. A list of texts counts as many slots as it has texts, a long text as
  many as its padded tokens fill; one text and a list of one are alike.
* What the cost model leaves out of every request (tokenization, a biased fit) is learnt into `baseline`, only while no more than the
  floor is under way, where no queue can stand, and between 1 and `BASELINE_MOST`.
* The square root is added only where g is 1 (Netflix PR#134: the limit crept up at 0.8), the limit is left alone while less than half
  of it is used, requests that began before it last changed are left out, and a missed deadline is a g of 0.5 (Netflix #137: where
  every request ends at the same timeout, times look steady) taken from what was under way when it came in.
* A window ends after `SAMPLES` requests and `SPAN_S` seconds, whichever is later.
"""

import math
from enum import StrEnum

import msgspec

TOLERANCE = 1.5
"""How many times what it should take a request may take before the limit shrinks (Gradient2's default)."""
GRACE_S = 0.25
"""Waiting that nobody need be refused over, however short the computation: fast models are limited by this alone."""
LEAST_GRADIENT = 0.5
SMOOTHING = 0.4
"""Share of a shrinking that one window may do: a stall that happens once costs little. Growing is slow enough by itself."""
SAMPLES = 10
SPAN_S = 0.25
BASELINE_MOST = 4.0
BASELINE_WEIGHT = 0.1
OUTLIER = 10.0
"""A request counts as having taken at most this many times what it should have."""


class Why(StrEnum):
    """What the last window did to the limit."""

    UNTRIED = "untried"
    GROWN = "grown"
    SLOW = "slow"
    MISSED = "missed"
    UNUSED = "unused"


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What computes: `lanes` batches at once, each of at most `rows` rows and `tokens` padded tokens."""

    lanes: int = 1
    rows: int = 32
    tokens: int = 4096

    @property
    def least(self) -> float:
        """Slots that keep every lane in full batches: one that runs, one that waits for its end."""
        return 2.0 * self.lanes * self.rows

    def slots(self, entries: int, tokens: int) -> float:
        """What `entries` items of `tokens` padded tokens together fill."""
        return max(float(entries), tokens * self.rows / self.tokens)

    def full(self, entries: int, tokens: int) -> int:
        """Padded tokens of a full batch of items like these."""
        return min(self.tokens, max(1, self.rows * tokens // max(1, entries)))


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen since the last verdict: when its first request ended, how many, seconds taken and expected, slots at the most."""

    began: float = 0.0
    samples: int = 0
    missed: int = 0
    took: float = 0.0
    expected: float = 0.0
    peak: float = 0.0


class Concurrency(msgspec.Struct, frozen=True, kw_only=True):
    """`limit` in slots, None until the first window ended; `since` (monotonic seconds) is when it last changed."""

    limit: float | None = None
    baseline: float = 1.0
    since: float = -math.inf
    why: Why = Why.UNTRIED
    window: Window = Window()


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One request that ended: when it began, what it took, what it should have (both in seconds), slots under way with it.

    `missed`: it was given up at its deadline.
    """

    began: float
    seconds: float
    expected: float
    in_flight: float
    missed: bool = False


def expected(full: float, alone: float) -> float:
    """Seconds a request should take where the engine is full and no more: `full` for a full batch of its like, `alone` for itself.

    Both as the cost model predicts them; 0 while it knows nothing.
    """
    return full + max(full, alone)


def limit_of(concurrency: Concurrency, capacity: Capacity, *, full: float) -> float:
    """Slots that may be under way now, never fewer than `capacity.least`.

    Before the first window it is what the cost model says a full engine answers within `TOLERANCE` times what a request
    should take (Little's law); where that knows nothing either, there is none but the hard bounds.
    """
    limit = concurrency.limit
    if limit is None and full > 0.0:
        limit = TOLERANCE * (expected(full, full) + GRACE_S) * capacity.lanes * capacity.rows / full
    return math.inf if limit is None else max(capacity.least, limit)


def observed(concurrency: Concurrency, sample: Sample, capacity: Capacity, *, full: float, now: float) -> Concurrency:
    """After one more request ended. `full`: seconds of a full batch of its like; without it nothing is learnt."""
    if not (full > 0.0 and sample.expected > 0.0 and sample.seconds >= 0.0) or sample.began < concurrency.since:
        return concurrency
    if sample.missed and sample.seconds < sample.expected:
        # It was given less time than it needs in an engine that is well: that tells of its caller.
        return concurrency
    window, due = concurrency.window, sample.expected + GRACE_S
    window = Window(
        began=window.began if window.samples else now,
        samples=window.samples + 1,
        missed=window.missed + sample.missed,
        took=window.took + min(sample.seconds, OUTLIER * due),
        expected=window.expected + due,
        peak=max(window.peak, sample.in_flight),
    )
    if window.samples < SAMPLES or now - window.began < SPAN_S:
        return msgspec.structs.replace(concurrency, window=window)
    return _judged(concurrency, window, limit_of(concurrency, capacity, full=full), capacity, now=now)


def _judged(concurrency: Concurrency, window: Window, limit: float, capacity: Capacity, *, now: float) -> Concurrency:
    ratio = window.took / window.expected
    baseline = _baseline(concurrency.baseline, ratio, window, capacity)
    if window.peak < limit / 2 and not window.missed:
        return Concurrency(limit=limit, baseline=baseline, since=concurrency.since, why=Why.UNUSED)
    missed = window.missed / window.samples
    slow = min(1.0, max(LEAST_GRADIENT, TOLERANCE * baseline / ratio)) if ratio > 0.0 else 1.0
    gradient = (1.0 - missed) * slow + missed * LEAST_GRADIENT
    if gradient >= 1.0:
        return Concurrency(limit=limit + math.sqrt(limit), baseline=baseline, since=now, why=Why.GROWN)
    top = min(limit, window.peak) if window.missed else limit
    shrunk = top * (1.0 - SMOOTHING * (1.0 - gradient))
    why = Why.MISSED if window.missed else Why.SLOW
    return Concurrency(limit=max(capacity.least, shrunk), baseline=baseline, since=now, why=why)


def _baseline(baseline: float, ratio: float, window: Window, capacity: Capacity) -> float:
    if window.peak > capacity.least or window.missed:
        # Whatever is slow now may be the queue's doing; that it is faster than the baseline says cannot be.
        return max(1.0, min(baseline, ratio))
    return min(BASELINE_MOST, max(1.0, baseline + BASELINE_WEIGHT * (ratio - baseline)))
