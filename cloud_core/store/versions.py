"""Published model versions: immutable, known by the digest of their manifest, deleted softly."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, every, first, insert
from shared.bundle.manifest import Manifest, parse_manifest

_T = tables.versions


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version; `manifest` is the text whose SHA-256 is `digest`."""

    model: str
    version: str
    digest: str
    manifest: str
    published_by: str
    created_at: float

    @property
    def parsed(self) -> Manifest:
        """The manifest as a value."""
        return parse_manifest(self.manifest.encode())


async def publish(
    connection: Connection,
    tenant: str,
    *,
    model: str,
    version: str,
    digest: str,
    manifest: str,
    published_by: str,
    now: float,
) -> bool:
    """Store a version; False when the version stands with other content. The same content again, or back from deletion, is fine."""
    statement = (
        insert(connection, _T)
        .values(
            tenant=tenant,
            model=model,
            version=version,
            digest=digest,
            manifest=manifest,
            published_by=published_by,
            created_at=now,
        )
        .on_conflict_do_update(
            index_elements=[_T.c.tenant, _T.c.model, _T.c.version],
            set_={"deleted_at": None},
            where=sa.and_(_T.c.digest == digest, _T.c.deleted_at.is_not(None)),
        )
    )
    if await changed(connection, statement) > 0:
        await _event(connection, tenant, model, version, kind="published", now=now)
        return True
    held = await get(connection, tenant, model, version)
    return held is not None and held.digest == digest


async def get(connection: Connection, tenant: str, model: str, version: str, *, lock: bool = False) -> Version | None:
    """One version that is not deleted. `lock` keeps it from being deleted until this transaction ends."""
    statement = _present(tenant).where(_T.c.model == model, _T.c.version == version)
    return await first(connection, statement.with_for_update(read=True) if lock else statement, Version)


async def digest_of(connection: Connection, tenant: str, model: str, version: str) -> str | None:
    """The digest a version has, or had: one that is deleted keeps its name."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.model == model, _T.c.version == version)
    found: str | None = (await connection.execute(sa.select(_T.c.digest).where(own))).scalar_one_or_none()
    return found


async def by_digest(connection: Connection, tenant: str, digest: str) -> Version | None:
    """The version whose manifest has this digest, deleted or not: a device may still run it."""
    statement = sa.select(*columns(_T, Version)).where(_T.c.tenant == tenant, _T.c.digest == digest)
    return await first(connection, statement, Version)


async def of_model(connection: Connection, tenant: str, model: str) -> list[Version]:
    """All versions of one model, oldest first."""
    statement = _present(tenant).where(_T.c.model == model)
    return await every(connection, statement.order_by(_T.c.created_at, _T.c.version), Version)


async def names_of(connection: Connection, tenant: str, models: Sequence[str]) -> list[tuple[str, str]]:
    """(model, version) of some models, oldest first, without the manifests."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.model.in_(models), _T.c.deleted_at.is_(None))
    statement = sa.select(_T.c.model, _T.c.version).where(own).order_by(_T.c.model, _T.c.created_at, _T.c.version)
    return [(model, version) for model, version in (await connection.execute(statement)).all()]


async def everywhere(connection: Connection, tenant: str) -> list[Version]:
    """All versions of a tenant that are not deleted, for the loops and replicas."""
    return await every(connection, _present(tenant).order_by(_T.c.model, _T.c.created_at, _T.c.version), Version)


async def delete(connection: Connection, tenant: str, model: str, version: str, *, now: float) -> bool:
    """Hide a version; False if there is none."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.model == model, _T.c.version == version, _T.c.deleted_at.is_(None))
    found = await changed(connection, sa.update(_T).where(own).values(deleted_at=now)) > 0
    if found:
        await _event(connection, tenant, model, version, kind="deleted", now=now)
    return found


def _present(tenant: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(*columns(_T, Version)).where(_T.c.tenant == tenant, _T.c.deleted_at.is_(None))


async def _event(connection: Connection, tenant: str, model: str, version: str, *, kind: str, now: float) -> None:
    await events.append(connection, tenant, kind=kind, resource="versions", name=f"{model}@{version}", now=now)
