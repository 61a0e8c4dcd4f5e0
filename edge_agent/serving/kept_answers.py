"""Between the policy and the response cache: which requests are looked up, what is found for them, which answers are kept.

A stream is never looked up nor kept, and neither is what the device does not serve itself: which bytes would answer there is
not known before they did.
"""

import msgspec

from edge_agent.control.applied import PolicyHolder
from edge_agent.decide import routing
from edge_agent.decide.routing import Ask, Cached, Reason
from edge_agent.serving.confidence import confidence_of
from shared.io.clock import Clock
from shared.protocol.policy import Rules, rules_for
from shared.protocol.reported import ModelState
from shared.serving.admission.model_load import ModelLoad
from shared.serving.answer import Request, Response, Where
from shared.serving.cache.response_cache import HIT, MISS, OVERLOAD, UNSURE, Identity, Kept, Place, ResponseCache
from shared.serving.catalog import Duration, Statistics


class Lookup:
    """One request's place in the cache, and what lay there; `seconds` is what looking took."""

    def __init__(self, place: Place, found: Kept | None, *, seconds: float) -> None:
        self.place = place
        self.found = found
        self.seconds = seconds


class KeptAnswers:
    """Uses the cache as the policy says."""

    def __init__(self, cache: ResponseCache, *, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock

    def look(self, request: Request, load: ModelLoad | None) -> Lookup | None:
        """Look for an answer of the version `load` is of; None where none may be kept."""
        if load is None or load.state is not ModelState.READY:
            return None
        began = self._clock.monotonic()
        identity = Identity(request.tenant, load.name, load.version, load.digest, load.variant)
        place = self._cache.place_of(request, identity)
        if place is None:
            return None
        found = self._cache.get(place)
        return Lookup(place, found, seconds=self._clock.monotonic() - began)

    def at_once(self, lookup: Lookup, ask: Ask, rules: Rules, *, now: float) -> Cached | None:
        """Whether what was found is the answer, before anybody is asked."""
        if lookup.found is not None:
            verdict = routing.at_once(ask, confidence_of(lookup.found.results), rules, now=now)
            if verdict is not None:
                return verdict
        if rules.cache_bytes is not None:
            # What is kept for overload alone is not looked for in vain.
            self._cache.looked(lookup.place.identity, MISS if lookup.found is None else UNSURE, lookup.seconds)
        return None

    def given(self, lookup: Lookup, found: Kept, request: Request, reason: Reason) -> Response:
        """What was found, as the answer to `request`."""
        identity = lookup.place.identity
        self._cache.looked(identity, HIT if reason is Reason.CACHE_HIT else OVERLOAD, lookup.seconds)
        return Response(
            id=request.id,
            model=identity.name,
            version=identity.version,
            variant=identity.variant,
            digest=identity.digest,
            task=found.task,
            results=found.results,
            where=Where.CACHE,
            why=reason.value,
        )

    def again(self, lookup: Lookup) -> Kept | None:
        """What lies there now: somebody else's answer may have come meanwhile."""
        return self._cache.get(lookup.place)

    def keep(self, lookup: Lookup, response: Response, rules: Rules) -> None:
        """Keep the answer if the looked-up version's very bytes gave it, wherever they ran."""
        if (response.version, response.digest, response.variant) != lookup.place.identity[2:]:
            return
        began = self._clock.monotonic()
        self._cache.put(lookup.place, response.results, response.task, most=rules.kept_bytes)
        self._cache.spent(lookup.place.identity, self._clock.monotonic() - began)

    def under(self, holder: PolicyHolder) -> None:
        """Another policy came into force: forget what it does not keep, and versions of which its generation knows nothing."""
        generation, policy = holder.generation, holder.policy
        digests = {model.digest for model in generation.models} if generation is not None else set()
        kept = [each for each in self._cache.identities if each.digest in digests]
        self._cache.bound({each: rules_for(policy, each.name).kept_bytes for each in kept})

    def counted(self, statistics: Statistics, tenant: str, name: str, version: str) -> Statistics:
        """`statistics` of a version's engine, with what was answered instead of it."""
        hits, misses = self._cache.counted(tenant, name, version)
        if hits.count == misses.count == 0:
            return statistics
        success = Duration(count=statistics.success.count + hits.count, ns=statistics.success.ns + hits.ns)
        return msgspec.structs.replace(statistics, success=success, cache_hit=hits, cache_miss=misses)
