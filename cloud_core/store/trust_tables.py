"""The table of TUF metadata. Whoever reads `metadata` from here has every table of the registry.

Roots are kept for ever: a device that was away for years follows them one by one. Of the rest the newest few are kept.
"""

import sqlalchemy as sa

from cloud_core.store import telemetry_tables

metadata = telemetry_tables.metadata

trust = sa.Table(
    "trust_metadata",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.tenant"), primary_key=True),
    sa.Column("role", sa.String(16), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("content", sa.Text, nullable=False, comment="as it was signed"),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
