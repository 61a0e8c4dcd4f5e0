"""Kept answers: one shelf per loaded version, bounded in bytes, the least recently used goes first.

Invariants:

* an answer is found only under the tenant, name, version, digest and variant that gave it: bytes that change are another shelf;
* what a shelf weighs is measured, the bookkeeping included, and never more than it may;
* inputs are here as keyed hashes alone, under a secret that lives and ends with the process; nothing is written or logged.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge

from shared.io.tallies import Counts
from shared.serving.answer import Request, Result
from shared.serving.cache.input_key import input_key, input_size
from shared.serving.cache.kept_size import owned, size_of
from shared.serving.catalog import Duration
from shared.serving.decide.caching import bypass

BOOKKEEPING = 300
"""Bytes an entry costs beside its answer: key, slots, links of the order, and what allocators round up."""
HIT, MISS, UNSURE, OVERLOAD, BYPASSED, TOO_LARGE = "hit", "miss", "unsure", "overload", "bypassed", "too-large"
"""Results of looking, and of keeping: `unsure` was there but not sure enough, `overload` was used because nobody could answer."""


class Identity(NamedTuple):
    """Whose answers a shelf holds."""

    tenant: str
    name: str
    version: str
    digest: str
    variant: str


class Place(NamedTuple):
    """Where the answer to one request lies, or would lie."""

    identity: Identity
    key: bytes


class Kept(NamedTuple):
    """One answer: its results and task, and what it weighs, in bytes."""

    results: tuple[Result, ...]
    task: str
    size: int


class _Shelf:
    def __init__(self) -> None:
        self.kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.size = 0
        self.hits = Duration()
        self.misses = Duration()


class CacheMetrics:
    """What the cache counts (contract, section 8), on the registry the program hands in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.looked = Counts(
            "tideline_cache", "Requests by what the response cache had for them", ("result",), registry=registry
        )
        self.evicted = Counts("tideline_cache_evicted", "Kept answers that had to go", registry=registry)
        self.bytes = Gauge("tideline_cache_bytes", "What kept answers weigh in memory", registry=registry)
        self.entries = Gauge("tideline_cache_entries", "Kept answers", registry=registry)
        for result in (HIT, MISS):
            # Both are there from the start, so that a rate can be taken of them.
            self.looked.labels(result)
        self.evicted.labels()


class ResponseCache:
    """Owner of every kept answer of a process; loop's thread only."""

    def __init__(self, *, secret: bytes, metrics: CacheMetrics) -> None:
        self._secret = secret
        self._metrics = metrics
        self._shelves: dict[Identity, _Shelf] = {}

    def place_of(self, request: Request, identity: Identity) -> Place | None:
        """Where the request's answer would lie; None where none may be kept, which is counted."""
        key = None
        if bypass(request.parameters, size=input_size(request)) is None:
            key = input_key(request, self._secret)
        if key is None:
            self._metrics.looked.labels(BYPASSED).inc()
            return None
        return Place(identity, key)

    def get(self, place: Place) -> Kept | None:
        """What was kept there; it is the most recently used now. Whether it is used is counted by `looked`."""
        shelf = self._shelves.get(place.identity)
        kept = shelf.kept.get(place.key) if shelf is not None else None
        if shelf is None or kept is None:
            return None
        shelf.kept.move_to_end(place.key)
        return kept

    def looked(self, identity: Identity, result: str, seconds: float) -> None:
        """A request met `result`; looking took `seconds`."""
        self._metrics.looked.labels(result).inc()
        shelf = self._shelves.setdefault(identity, _Shelf())
        if result in (HIT, OVERLOAD):
            shelf.hits = _one_more(shelf.hits, seconds)
        else:
            shelf.misses = _one_more(shelf.misses, seconds)

    def spent(self, identity: Identity, seconds: float) -> None:
        """Keeping an answer after a miss took `seconds`."""
        shelf = self._shelves.get(identity)
        if shelf is not None:
            shelf.misses = Duration(count=shelf.misses.count, ns=shelf.misses.ns + int(seconds * 1e9))

    def put(self, place: Place, results: Sequence[Result], task: str, *, most: int) -> bool:
        """Keep `results` there, within `most` bytes for the whole shelf; whether they are kept."""
        size = size_of(tuple(results)) + BOOKKEEPING
        if size > most:
            self._metrics.looked.labels(TOO_LARGE).inc()
            return False
        shelf = self._shelves.setdefault(place.identity, _Shelf())
        before = shelf.kept.pop(place.key, None)
        shelf.kept[place.key] = Kept(owned(results), task, size)
        self._weighs(shelf, size - (before.size if before is not None else 0), 1 if before is None else 0)
        self._trim(shelf, most)
        return True

    def bound(self, most: Mapping[Identity, int]) -> None:
        """Hold every shelf to its bytes in `most`, and forget the shelves it does not name."""
        for identity in [each for each in self._shelves if each not in most]:
            gone = self._shelves.pop(identity)
            self._weighs(gone, -gone.size, -len(gone.kept))
        for identity, shelf in self._shelves.items():
            self._trim(shelf, most[identity])

    @property
    def identities(self) -> tuple[Identity, ...]:
        """Whose shelves there are."""
        return tuple(self._shelves)

    def counted(self, tenant: str, name: str, version: str) -> tuple[Duration, Duration]:
        """Hits and misses of one version: how many, and nanoseconds of looking and keeping."""
        wanted = (tenant, name, version)
        shelves = [shelf for identity, shelf in self._shelves.items() if identity[:3] == wanted]
        return _sum([shelf.hits for shelf in shelves]), _sum([shelf.misses for shelf in shelves])

    def _trim(self, shelf: _Shelf, most: int) -> None:
        while shelf.size > most:
            _, oldest = shelf.kept.popitem(last=False)
            self._weighs(shelf, -oldest.size, -1)
            self._metrics.evicted.labels().inc()

    def _weighs(self, shelf: _Shelf, size: int, entries: int) -> None:
        shelf.size += size
        self._metrics.bytes.inc(size)
        self._metrics.entries.inc(entries)


def _sum(durations: Sequence[Duration]) -> Duration:
    return Duration(count=sum(each.count for each in durations), ns=sum(each.ns for each in durations))


def _one_more(duration: Duration, seconds: float) -> Duration:
    return Duration(count=duration.count + 1, ns=duration.ns + int(seconds * 1e9))
