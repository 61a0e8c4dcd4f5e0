"""Which waiting requests form the next batch. Pure: a snapshot in, ids out.

Rules, in order:

1. an entry whose deadline has passed is dropped: late work is wasted work;
2. entries are ranked by effective priority, then by age; every `AGING` seconds of waiting lift an entry by one level,
   so a steady stream of urgent requests cannot starve the rest;
3. the first-ranked entry is always in the batch: whatever its length, it makes progress;
4. among the entries at the head of the ranking, those nearest to it in length fill the batch, because a padded batch
   costs rows x longest; the batch never exceeds the budget of rows or padded tokens unless the first entry alone does;
5. entries of different groups, such as arrays whose shapes do not agree, never share a batch;
6. lanes that are idle at the same moment share what waits evenly: two half batches at once are done before one whole.
"""

import heapq
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from shared.serving.decide.cost import Cost, predict

AGING = 0.5
"""Seconds of waiting that make up for one level of priority."""
WINDOW = 4
"""How many batches' worth of the head of the ranking may be regrouped by length."""
LOWEST = 100


class DropReason(StrEnum):
    """Why an entry was dropped before compute."""

    EXPIRED = "expired"


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One waiting entry: `rows` rows of `tokens` tokens each, such as the windows of a long text.

    `priority` is OIP's (0 default, 1 highest); times on one monotonic clock, in seconds. Only entries of one `group` may be
    computed together.
    """

    id: int
    tokens: int
    rows: int = 1
    priority: int = 0
    enqueued_at: float = 0.0
    deadline: float | None = None
    group: str = ""

    @property
    def padded(self) -> int:
        """What it costs alone, in tokens."""
        return self.rows * self.tokens


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one batch: padded tokens (rows x longest) and rows."""

    tokens: int = 4096
    rows: int = 32


GPU = Budget(tokens=16384, rows=64)
"""What a graphics card is worth: it computes this about as fast as a tenth of it."""
LEAST = 512
"""Padded tokens of a batch that any program is given: products of matrices with some hundred rows are as fast as they get."""
WORTH_S = 0.2
"""Beyond `LEAST`, a batch takes no longer than this: it is done no sooner than two after each other, and whoever comes waits for all."""


def bounded(own: Budget, *, rows: int | None, tokens: int | None, alone: bool, generates: bool = False) -> Budget:
    """The bounds of a version's batches: the engine's `own` where nothing else was chosen; `alone`: its items share none.

    Where nobody chose, they begin at `LEAST` (`worth` says how they go on), but for generators: each of their steps computes one token
    a row, however many were reserved for it.
    """
    return Budget(
        rows=1 if alone else rows or own.rows,
        tokens=tokens or (own.tokens if generates else min(own.tokens, LEAST)),
    )


def worth(now: Budget, most: int, cost: Cost) -> Budget:
    """The bounds after one more batch: tokens are doubled, to `most`, or halved, to `LEAST`, as batches would take less time or more.

    A quarter either way is left between the two, so that a fit that wavers does not move them to and fro.
    """
    if 2 * now.tokens <= most and 0.0 < predict(cost, 2 * now.tokens) <= 0.75 * WORTH_S:
        return Budget(tokens=2 * now.tokens, rows=now.rows)
    if now.tokens >= 2 * LEAST and predict(cost, now.tokens) > 1.25 * WORTH_S:
        return Budget(tokens=now.tokens // 2, rows=now.rows)
    return now


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that leaves without being computed, and why."""

    id: int
    reason: DropReason


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What to compute next, and what to drop."""

    ids: tuple[int, ...] = ()
    dropped: tuple[Drop, ...] = ()
    padded: int = 0
    """rows x longest of what is computed."""


def next_batch(waiting: Sequence[Waiting], budget: Budget, *, now: float, idle: int = 1) -> Batch:
    """The next batch from what waits; empty only when nothing but expired entries waits.

    `idle` is how many lanes are free to take one, the asking one included: they share what waits.
    """
    dropped = tuple(
        Drop(id=entry.id, reason=DropReason.EXPIRED)
        for entry in waiting
        if entry.deadline is not None and entry.deadline <= now
    )
    live = [entry for entry in waiting if entry.deadline is None or entry.deadline > now]
    if not live:
        return Batch(dropped=dropped)
    bound = min(budget.rows, -(-sum(entry.rows for entry in live) // idle)) if idle > 1 else budget.rows
    first, *others = heapq.nsmallest(bound * WINDOW, live, key=_rank)
    chosen, longest, rows = [first], first.tokens, first.rows
    # Nearest in length first: shorter ones cost what the first one costs anyway, longer ones stretch every row.
    alike = (entry for entry in others if entry.group == first.group)
    for entry in sorted(alike, key=lambda entry: abs(entry.tokens - first.tokens)):
        if rows >= bound:
            break
        stretched, more = max(longest, entry.tokens), rows + entry.rows
        if more <= bound and stretched * more <= budget.tokens:
            chosen.append(entry)
            longest, rows = stretched, more
    return Batch(ids=tuple(entry.id for entry in chosen), dropped=dropped, padded=longest * rows)


def _rank(entry: Waiting) -> tuple[float, int]:
    # OIP: 0 is the default and stands between 1, the highest, and everything lower; larger numbers come later.
    # All entries age alike, so the ranking of two never changes: waiting lifts an entry over those that come after it.
    level = 1.5 if entry.priority == 0 else float(min(max(entry.priority, 1), LOWEST))
    return level + entry.enqueued_at / AGING, entry.id
