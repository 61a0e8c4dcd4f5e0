"""Tables of telemetry: samples as devices sent them, how far each device's were acknowledged, and history rolled up from them.

A row of history holds what is known of one window and one selection: `scope` and `name` say whose (the tenant, a group, a
device), `model`, `version` and `place` of which requests (empty for what concerns the device itself). On PostgreSQL history is
partitioned by time (`partitions`). Whoever reads `metadata` from here has every table of the registry.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from cloud_core.store import tables
from cloud_core.store.tables import Id

metadata = tables.metadata

samples = sa.Table(
    "samples",
    metadata,
    sa.Column(
        "id", Id, primary_key=True, autoincrement=True, comment="visible in this order, so that a cursor misses none"
    ),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("device", sa.String(64), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.Float, nullable=False, comment="by the cloud's clock"),
    sa.Column("groups", sa.Text, nullable=False, comment="JSON list: of the device, when the sample came"),
    sa.Column("sample", sa.Text, nullable=False),
    sa.UniqueConstraint("tenant", "device", "epoch", "seq"),
    sa.ForeignKeyConstraint(["tenant", "device"], ["devices.tenant", "devices.device"]),
    sa.Index("ix_samples_ended_at", "ended_at"),
    sa.Index("ix_samples_device", "tenant", "device", "ended_at"),
    sqlite_autoincrement=True,
)

uplinks = sa.Table(
    "uplinks",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("epoch", sa.BigInteger, primary_key=True),
    sa.Column("seq", sa.BigInteger, comment="acknowledged up to here"),
    sa.Column("clock", sa.Text, nullable=False, comment="how far the device's clock is off"),
    sa.Column("heard_at", sa.Float, nullable=False),
    sa.ForeignKeyConstraint(["tenant", "device"], ["devices.tenant", "devices.device"]),
)


def _history(seconds: int) -> sa.Table:
    name = f"history_{seconds}"
    return sa.Table(
        name,
        metadata,
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("scope", sa.String(16), primary_key=True, comment="tenant, group or device"),
        sa.Column("name", sa.String(64), primary_key=True, comment="of the group or device"),
        sa.Column("started_at", sa.BigInteger, primary_key=True, autoincrement=False, comment="of the window"),
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("place", sa.String(64), primary_key=True),
        sa.Column("cell", sa.Text, nullable=False),
        sa.Index(f"ix_{name}_started_at", "tenant", "scope", "started_at"),
        postgresql_partition_by="RANGE (started_at)",
        sqlite_with_rowid=False,
    )


HISTORY: Mapping[int, sa.Table] = {seconds: _history(seconds) for seconds in (10, 60, 3600)}
"""By the length of their windows, in seconds."""
