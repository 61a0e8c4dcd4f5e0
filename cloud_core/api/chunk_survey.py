"""`GET /api/v1/chunks`: what the tenant's store holds, and what the next garbage collection may take of it. Nothing is removed."""

import msgspec

from cloud_core.api.chunks import PATH
from cloud_core.api.routes import Call, Needs, Reply, Route, Scope
from cloud_core.decide.access import Resource, Verb
from cloud_core.decide.spare_chunks import GRACE_S, Amount
from cloud_core.store.needed_chunks import looked_over


class ChunkSurvey(msgspec.Struct, frozen=True, kw_only=True):
    """Chunks that a version, a device or a rollout needs; those put less than `grace_s` ago; and those that may go."""

    needed: Amount
    young: Amount
    spare: Amount
    grace_s: float


async def surveyed(call: Call) -> Reply:
    """Look the store over."""
    found = await looked_over(call.api.engine, call.api.artifacts(call.tenant), call.tenant, now=call.now, known={})
    answer = ChunkSurvey(needed=found.needed, young=found.young, spare=found.collectable, grace_s=GRACE_S)
    return Reply(value=answer)


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    return (
        Route(
            method="GET", path=PATH, access=Needs(Verb.READ, Resource.CHUNKS), scope=Scope.NONE, run=surveyed,
            summary="What the store holds, and what garbage collection may take", answer=ChunkSurvey,
        ),
    )  # fmt: skip
