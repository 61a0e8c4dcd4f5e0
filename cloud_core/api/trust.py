"""`/api/v1/trust`: the tenant's TUF repository: how it stands, new keys, and metadata that was signed where its keys are.

`/device/v1/trust/{file}`: its metadata, as devices read it.
"""

import msgspec
from aiohttp import hdrs, web

from cloud_core.api.routes import Call, Needs, Reply, Route, Scope, absent
from cloud_core.decide.access import Resource, Verb
from cloud_core.store import events
from cloud_core.trust.metadata import root_of
from cloud_core.trust.repository import ONLINE, Standing
from cloud_core.trust.wire import NOTHING, Documents, PublicKeys, Roles, RoleView, TrustView, Upload, given
from shared.protocol.errors import Refused
from shared.protocol.topics import Path
from shared.protocol.trust import ROLES, ROOT, TARGETS

PATH = "/api/v1/trust"
MAX_UPLOAD = 16 << 20


async def shown(call: Call) -> Reply:
    """How the repository stands."""
    return Reply(value=_view(await call.api.trust.standing(call.connection, call.tenant)))


async def documents(call: Call) -> Reply:
    """The root and targets that are in force, and what targets should name."""
    standing = await call.api.trust.standing(call.connection, call.tenant)
    held = {
        role: msgspec.Raw(standing.files[role].content.encode()) if role in standing.files else NOTHING
        for role in (ROOT, TARGETS)
    }
    return Reply(value=Documents(root=held[ROOT], targets=held[TARGETS], wanted=tuple(sorted(standing.wanted))))


async def kept(call: Call) -> Reply:
    """Make the repository where there is none, and sign what is to be signed."""
    await call.api.trust.keep(call.connection, call.tenant, now=call.now)
    return await _answered(call, "kept")


async def rotated(call: Call) -> Reply:
    """A new key for each of the roles, where all that has to be signed is signed here."""
    await call.api.trust.rotate(call.connection, call.tenant, _checked(call.body, ROLES), now=call.now)
    return await _answered(call, "rotated")


async def online_keys(call: Call) -> Reply:
    """New keys of the control plane, for a root that is made and signed elsewhere."""
    made = await call.api.trust.online_keys(call.tenant, _checked(call.body, ONLINE))
    return Reply(
        value=PublicKeys(
            keys={role: key.to_dict() for role, key in made.items()},
            ids={role: key.keyid for role, key in made.items()},
        ),
        status=201,
        name="keys",
    )


async def uploaded(call: Call) -> Reply:
    """Take a root, targets, or both, that were signed elsewhere."""
    body: Upload = call.body
    root, targets = given(body.root), given(body.targets)
    if root is None and targets is None:
        raise Refused("nothing to take", field="body", allowed="root, targets or both")
    await call.api.trust.accept(call.connection, call.tenant, root=root, targets=targets, now=call.now)
    return await _answered(call, "uploaded")


async def metadata(call: Call) -> web.StreamResponse:
    """A metadata file; a device verifies it, whoever brought it."""
    name = call.segment("file")
    data = await call.api.trust.file(call.connection, call.tenant, name)
    if data is None:
        raise absent("metadata", name)
    return web.Response(body=data, content_type="application/json", headers={hdrs.CACHE_CONTROL: "private, no-cache"})


async def _answered(call: Call, kind: str) -> Reply:
    view = _view(await call.api.trust.standing(call.connection, call.tenant))
    versions = {role: each.version for role, each in view.roles.items()}
    await events.append(
        call.connection, call.tenant, kind=kind, resource="trust", name="repository", now=call.now, data=versions
    )
    return Reply(value=view, name="repository", detail={"versions": versions})


def _checked(body: Roles, allowed: tuple[str, ...]) -> tuple[str, ...]:
    for i, role in enumerate(body.roles):
        if role not in allowed:
            raise Refused("no such role", field=f"roles[{i}]", value=role, allowed=", ".join(allowed))
    if not body.roles:
        raise Refused("no role", field="roles", allowed=", ".join(allowed))
    return tuple(dict.fromkeys(body.roles))


def _view(standing: Standing) -> TrustView:
    root = root_of(standing.files[ROOT].content.encode()).signed
    roles = {}
    for role in ROLES:
        stored = standing.files.get(role)
        roles[role] = RoleView(
            version=None if stored is None else stored.version,
            expires_at=None if stored is None else stored.expires_at,
            keys=tuple(root.roles[role].keyids),
            threshold=root.roles[role].threshold,
            held=role in standing.held,
        )
    unsigned = standing.unsigned
    return TrustView(roles=roles, targets=len(standing.wanted) - len(unsigned), unsigned=tuple(unsigned))


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, create, update = (Needs(verb, Resource.TRUST) for verb in (Verb.READ, Verb.CREATE, Verb.UPDATE))
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=shown,
            summary="The TUF repository: versions, expiries, whose keys are here, what waits for a signature",
            answer=TrustView,
        ),
        Route(
            method="GET", path=PATH + "/documents", access=read, scope=Scope.READ, run=documents,
            summary="What somebody who signs elsewhere works from", answer=Documents,
        ),
        Route(
            method="POST", path=PATH, access=create, scope=Scope.WRITE, run=kept,
            summary="Make the repository where there is none, and sign what is to be signed", answer=TrustView,
        ),
        Route(
            method="POST", path=PATH + "/rotate", access=update, scope=Scope.WRITE, run=rotated, body=Roles,
            max_body=4096, summary="A new key for each of some roles", answer=TrustView,
        ),
        Route(
            method="POST", path=PATH + "/keys", access=create, scope=Scope.WRITE, run=online_keys, body=Roles,
            max_body=4096, status=201, summary="New online keys, for a root that is signed elsewhere", answer=PublicKeys,
        ),
        Route(
            method="PUT", path=PATH, access=update, scope=Scope.WRITE, run=uploaded, body=Upload, max_body=MAX_UPLOAD,
            summary="Take root and targets metadata that was signed elsewhere", answer=TrustView,
        ),
        Route(
            method="GET", path=Path.TRUST, access=Needs(Verb.READ, Resource.CONTENT), scope=Scope.READ, run=metadata,
            summary="A file of the tenant's TUF metadata", media=("application/json",),
        ),
    )  # fmt: skip
