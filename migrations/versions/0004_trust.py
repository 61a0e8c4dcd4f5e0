"""Trust: each tenant's TUF metadata."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "trust_metadata",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("content", sa.Text, nullable=False, comment="as it was signed"),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "role", "version", name="pk_trust_metadata"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_trust_metadata_tenant_tenants"),
    )


def downgrade() -> None:
    op.drop_table("trust_metadata")
