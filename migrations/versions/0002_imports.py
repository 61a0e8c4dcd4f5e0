"""Imports: models on their way from a source to a version."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("request", sa.Text, nullable=False, comment="what was asked, files and their chunks included"),
        sa.Column("requested_by", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("step", sa.String(64), nullable=False),
        sa.Column("done", sa.Float, nullable=False, comment="of all work, 0 to 1"),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("error", sa.Text, comment="why it failed"),
        sa.Column("digest", sa.String(64), comment="of the version it made"),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_imports"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_imports_tenant_tenants"),
    )
    op.create_index("ix_imports_state", "imports", ["state", "created_at"])
    op.create_index("ix_imports_tenant_created_at", "imports", ["tenant", "created_at", "id"])
    live = sa.text("state IN ('queued', 'in_progress')")
    op.create_index(
        "uq_imports_live",
        "imports",
        ["tenant", "model", "version"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )


def downgrade() -> None:
    op.drop_table("imports")
