"""`/api/v1/tenants`: a caller sees its own tenant and no other; tenants are made on the control plane's own machine."""

import msgspec

from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope
from cloud_core.decide.access import Resource, Verb

PATH = "/api/v1/tenants"


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant."""

    tenant: str


async def listed(call: Call) -> Reply:
    """The caller's tenant."""
    return Reply(value=Page(items=(TenantView(tenant=call.tenant),)))


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    return (
        Route(
            method="GET", path=PATH, access=Needs(Verb.READ, Resource.TENANTS), scope=Scope.NONE, run=listed,
            summary="The caller's tenant", answer=Page[TenantView],
        ),
    )  # fmt: skip
