"""Tables of rollouts: what was asked and where it stands, the devices that came in, and every verdict with its numbers.

Whoever reads `metadata` from here has every table of the registry.
"""

import sqlalchemy as sa

from cloud_core.decide.rollout_spec import OPEN
from cloud_core.store import trust_tables
from cloud_core.store.tables import Id

metadata = trust_tables.metadata
IS_OPEN = sa.text("state IN ({})".format(", ".join(f"'{state.value}'" for state in sorted(OPEN))))

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.tenant"), primary_key=True),
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("group", sa.String(64), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, default=0),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("why", sa.String(32), nullable=False),
    sa.Column("wave", sa.Integer, nullable=False, default=0),
    sa.Column("approved", sa.Integer, nullable=False, default=0),
    sa.Column("excused", sa.Integer, nullable=False, default=-1),
    sa.Column(
        "holds", sa.Boolean, nullable=False, default=True, comment="aborted: whether its devices keep the version"
    ),
    sa.Column("revision", sa.Integer, nullable=False, default=1),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False, comment="of the state"),
    sa.Column("finished_at", sa.Float),
    sa.Index("ix_rollouts_tenant_created_at", "tenant", "created_at", "id"),
    sa.Index("ix_rollouts_state", "state"),
    sa.Index("uq_rollouts_open", "tenant", "model", unique=True, sqlite_where=IS_OPEN, postgresql_where=IS_OPEN),
)

rollout_devices = sa.Table(
    "rollout_devices",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("rollout", sa.String(36), primary_key=True),
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("member", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["tenant", "rollout"], ["rollouts.tenant", "rollouts.id"]),
    sa.ForeignKeyConstraint(["tenant", "device"], ["devices.tenant", "devices.device"]),
)

rollout_verdicts = sa.Table(
    "rollout_verdicts",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("rollout", sa.String(36), nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["tenant", "rollout"], ["rollouts.tenant", "rollouts.id"]),
    sa.Index("ix_rollout_verdicts_rollout", "tenant", "rollout", "id"),
    sqlite_autoincrement=True,
)
