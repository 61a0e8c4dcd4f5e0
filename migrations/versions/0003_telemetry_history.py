"""Telemetry: samples in the order they came, how far they were acknowledged, and history by windows."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "samples",
        sa.Column(
            "id",
            row_id,
            nullable=False,
            autoincrement=True,
            comment="visible in this order, so that a cursor misses none",
        ),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.Float, nullable=False, comment="by the cloud's clock"),
        sa.Column("groups", sa.Text, nullable=False, comment="JSON list: of the device, when the sample came"),
        sa.Column("sample", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_samples"),
        sa.UniqueConstraint("tenant", "device", "epoch", "seq", name="uq_samples_tenant"),
        sa.ForeignKeyConstraint(
            ["tenant", "device"], ["devices.tenant", "devices.device"], name="fk_samples_tenant_devices"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_samples_ended_at", "samples", ["ended_at"])
    op.create_index("ix_samples_device", "samples", ["tenant", "device", "ended_at"])
    op.execute(
        "INSERT INTO samples (tenant, device, epoch, seq, ended_at, groups, sample) "
        "SELECT tenant, device, epoch, seq, ended_at, '[]', sample FROM telemetry ORDER BY ended_at, device, epoch, seq"
    )
    op.create_table(
        "uplinks",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, comment="acknowledged up to here"),
        sa.Column("clock", sa.Text, nullable=False, comment="how far the device's clock is off"),
        sa.Column("heard_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "device", "epoch", name="pk_uplinks"),
        sa.ForeignKeyConstraint(
            ["tenant", "device"], ["devices.tenant", "devices.device"], name="fk_uplinks_tenant_devices"
        ),
    )
    op.drop_table("telemetry")
    for seconds in (10, 60, 3600):
        _create_history(f"history_{seconds}")


def downgrade() -> None:
    for seconds in (3600, 60, 10):
        op.drop_table(f"history_{seconds}")
    op.execute("DELETE FROM control WHERE key LIKE 'rolled-up/%'")
    op.drop_table("uplinks")
    op.create_table(
        "telemetry",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.Float, nullable=False),
        sa.Column("sample", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "device", "epoch", "seq", name="pk_telemetry"),
        sa.ForeignKeyConstraint(
            ["tenant", "device"], ["devices.tenant", "devices.device"], name="fk_telemetry_tenant_devices"
        ),
    )
    op.create_index("ix_telemetry_ended_at", "telemetry", ["ended_at"])
    op.execute(
        "INSERT INTO telemetry (tenant, device, epoch, seq, ended_at, sample) "
        "SELECT tenant, device, epoch, seq, ended_at, sample FROM samples"
    )
    op.drop_table("samples")


def _create_history(name: str) -> None:
    op.create_table(
        name,
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False, comment="tenant, group or device"),
        sa.Column("name", sa.String(64), nullable=False, comment="of the group or device"),
        sa.Column("started_at", sa.BigInteger, nullable=False, autoincrement=False, comment="of the window"),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("place", sa.String(64), nullable=False),
        sa.Column("cell", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant", "scope", "name", "started_at", "model", "version", "place", name=f"pk_{name}"
        ),
        postgresql_partition_by="RANGE (started_at)",
        sqlite_with_rowid=False,
    )
    op.create_index(f"ix_{name}_started_at", name, ["tenant", "scope", "started_at"])
