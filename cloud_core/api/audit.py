"""`/api/v1/audit`: who did what, newest first."""

import msgspec

from cloud_core.api.paging import QUERY, after_of, limit_of, page_of
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, document
from cloud_core.decide.access import Resource, Verb
from cloud_core.store import audit
from cloud_core.store.audit import Entry
from shared.protocol.errors import Refused

PATH = "/api/v1/audit"


class AuditView(msgspec.Struct, frozen=True, kw_only=True):
    """One act."""

    id: int
    at: float
    principal: str
    verb: str
    resource: str
    name: str
    detail: msgspec.Raw | None


async def listed(call: Call) -> Reply:
    """A page of acts."""
    limit, after = limit_of(call), after_of(call)
    if after and not after.isdecimal():
        raise Refused("not a cursor of this list", field="cursor", value=after, allowed="`next` of a page")
    before = int(after[:18]) if after else None
    found = await audit.page(call.connection, call.tenant, before=before, limit=limit + 1)
    return Reply(value=page_of(found, limit, key=lambda entry: str(entry.id), view=_view))


def _view(entry: Entry) -> AuditView:
    return AuditView(
        id=entry.id,
        at=entry.at,
        principal=entry.principal,
        verb=entry.verb,
        resource=entry.resource,
        name=entry.name,
        detail=document(entry.detail),
    )


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    return (
        Route(
            method="GET", path=PATH, access=Needs(Verb.READ, Resource.AUDIT), scope=Scope.READ, run=listed, query=QUERY,
            summary="Who did what, newest first", answer=Page[AuditView],
        ),
    )  # fmt: skip
