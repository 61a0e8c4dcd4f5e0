"""Rollouts: what was asked and where it stands, the devices that came in, and every verdict with its numbers."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "rollouts",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("group", sa.String(64), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("why", sa.String(32), nullable=False),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("approved", sa.Integer, nullable=False),
        sa.Column("excused", sa.Integer, nullable=False),
        sa.Column("holds", sa.Boolean, nullable=False, comment="aborted: whether its devices keep the version"),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False, comment="of the state"),
        sa.Column("finished_at", sa.Float),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_rollouts"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_rollouts_tenant_tenants"),
    )
    op.create_index("ix_rollouts_tenant_created_at", "rollouts", ["tenant", "created_at", "id"])
    op.create_index("ix_rollouts_state", "rollouts", ["state"])
    is_open = sa.text("state IN ('awaiting_approval', 'paused', 'rolling_back', 'running')")
    op.create_index(
        "uq_rollouts_open",
        "rollouts",
        ["tenant", "model"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_table(
        "rollout_devices",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("rollout", sa.String(36), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("member", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "rollout", "device", name="pk_rollout_devices"),
        sa.ForeignKeyConstraint(
            ["tenant", "rollout"], ["rollouts.tenant", "rollouts.id"], name="fk_rollout_devices_tenant_rollouts"
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "device"], ["devices.tenant", "devices.device"], name="fk_rollout_devices_tenant_devices"
        ),
    )
    op.create_table(
        "rollout_verdicts",
        sa.Column("id", row_id, nullable=False, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("rollout", sa.String(36), nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rollout_verdicts"),
        sa.ForeignKeyConstraint(
            ["tenant", "rollout"], ["rollouts.tenant", "rollouts.id"], name="fk_rollout_verdicts_tenant_rollouts"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rollout_verdicts_rollout", "rollout_verdicts", ["tenant", "rollout", "id"])


def downgrade() -> None:
    op.drop_table("rollout_verdicts")
    op.drop_table("rollout_devices")
    op.drop_table("rollouts")
