"""The first registry: tenants and people, models, the fleet, desired and reported state, what happened."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

    op.create_table(
        "control",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_control"),
        comment="control_epoch, link_epoch and other facts of the whole control plane",
    )
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="pk_tenants"),
    )
    op.create_table(
        "users",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("disabled_at", sa.Float),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_users"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_users_tenant_tenants"),
    )
    op.create_table(
        "tokens",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("revoked_at", sa.Float),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_tokens"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_tokens_tenant_tenants"),
        sa.UniqueConstraint("token_hash", name="uq_tokens_token_hash"),
        comment="API tokens; only their SHA-256 is kept (they have 256 random bits)",
    )
    op.create_table(
        "models",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("deleted_at", sa.Float),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_models"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_models_tenant_tenants"),
    )
    op.create_table(
        "versions",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False, comment="the canonical bytes that were hashed"),
        sa.Column("published_by", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("deleted_at", sa.Float),
        sa.PrimaryKeyConstraint("tenant", "model", "version", name="pk_versions"),
        sa.ForeignKeyConstraint(
            ["tenant", "model"], ["models.tenant", "models.name"], name="fk_versions_tenant_models"
        ),
        sa.UniqueConstraint("tenant", "digest", name="uq_versions_tenant"),
    )
    op.create_table(
        "groups",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_groups"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_groups_tenant_tenants"),
    )
    op.create_table(
        "devices",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("deleted_at", sa.Float),
        sa.Column("enrol_token_hash", sa.String(64)),
        sa.Column("enrol_expires_at", sa.Float),
        sa.Column(
            "enrol_key",
            sa.String(64),
            comment="the key that used the token: it alone may ask again until it proved itself",
        ),
        sa.Column("enrolled_at", sa.Float),
        sa.Column("public_key", sa.String(64)),
        sa.Column("mqtt_password_hash", sa.String(256), comment="Mosquitto's form, $7$: PBKDF2-SHA512"),
        sa.Column("epoch", sa.BigInteger, comment="of the newest birth"),
        sa.Column("born_at", sa.Float),
        sa.Column("died_at", sa.Float),
        sa.Column("last_seen", sa.Float),
        sa.Column("agent_version", sa.String(64)),
        sa.Column("hardware", sa.Text),
        sa.Column("reported_epoch", sa.BigInteger),
        sa.Column("reported_seq", sa.BigInteger),
        sa.Column("reported", sa.Text),
        sa.Column("reported_at", sa.Float),
        sa.Column("telemetry", sa.Text),
        sa.Column("telemetry_at", sa.Float),
        sa.PrimaryKeyConstraint("tenant", "device", name="pk_devices"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_devices_tenant_tenants"),
        sa.UniqueConstraint("enrol_token_hash", name="uq_devices_enrol_token_hash"),
    )
    op.create_table(
        "group_members",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("group", sa.String(64), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "group", "device", name="pk_group_members"),
        sa.ForeignKeyConstraint(
            ["tenant", "group"],
            ["groups.tenant", "groups.name"],
            name="fk_group_members_tenant_groups",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "device"], ["devices.tenant", "devices.device"], name="fk_group_members_tenant_devices"
        ),
    )
    op.create_index("ix_group_members_device", "group_members", ["tenant", "device"])
    op.create_table(
        "policies",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("deleted_at", sa.Float),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_policies"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name="fk_policies_tenant_tenants"),
    )
    op.create_table(
        "assignments",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("group", sa.String(64), nullable=False),
        sa.Column("models", sa.Text, nullable=False, comment="JSON list of {name, version, variant?}"),
        sa.Column("policy", sa.String(64)),
        sa.Column("limits", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False, comment="highest wins where groups disagree"),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "group", name="pk_assignments"),
        sa.ForeignKeyConstraint(
            ["tenant", "group"], ["groups.tenant", "groups.name"], name="fk_assignments_tenant_groups"
        ),
    )
    op.create_table(
        "generations",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column(
            "content_digest",
            sa.String(64),
            nullable=False,
            comment="of models, policy and limits: equal means no new one",
        ),
        sa.Column("payload", sa.Text, nullable=False, comment="the exact text that was signed"),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "device", "epoch", "number", name="pk_generations"),
        sa.ForeignKeyConstraint(
            ["tenant", "device"], ["devices.tenant", "devices.device"], name="fk_generations_tenant_devices"
        ),
    )
    op.create_table(
        "outbox",
        sa.Column("id", row_id, nullable=False, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("payload", sa.Text, nullable=False, comment="body of the envelope"),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("sent_at", sa.Float),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_unsent", "outbox", ["sent_at", "id"])
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
    op.create_table(
        "replicas",
        sa.Column("replica", sa.String(64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False, comment="local, or an external OIP server"),
        sa.Column("models", sa.Text, nullable=False, comment="JSON list of {tenant, name, version, variant, state}"),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("replica", name="pk_replicas"),
    )
    op.create_table(
        "events",
        sa.Column("id", row_id, nullable=False, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("resource", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_tenant_id", "events", ["tenant", "id"])
    op.create_table(
        "audit",
        sa.Column("id", row_id, nullable=False, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("principal", sa.String(128), nullable=False),
        sa.Column("verb", sa.String(32), nullable=False),
        sa.Column("resource", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_tenant_id", "audit", ["tenant", "id"])
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name="pk_idempotency"),
    )


def downgrade() -> None:
    for table in (
        "idempotency", "audit", "events", "replicas", "telemetry", "outbox", "generations", "assignments", "policies",
        "group_members", "devices", "groups", "versions", "models", "tokens", "users", "tenants", "control",
    ):  # fmt: skip
        op.drop_table(table)
