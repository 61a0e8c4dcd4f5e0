"""Every table of the registry; those of telemetry are in `telemetry_tables`.

Each row belongs to a tenant; times are Unix seconds, documents are JSON text.

The same definitions serve SQLite and PostgreSQL. What the tables mean:

* desired state is `generations` (the newest per device is the level) with `outbox` rows that publishing depends on;
* reported state is `devices.reported`, newest by (epoch, seq);
* `events` is what changed, in order: the dashboard's stream, and the loops' signal that something is to be done.
"""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite numbers rows by itself only for INTEGER PRIMARY KEY."""

control = sa.Table(
    "control",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    comment="control_epoch, link_epoch and other facts of the whole control plane",
)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("created_at", sa.Float, nullable=False),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.tenant"), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("disabled_at", sa.Float),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.tenant"), primary_key=True),
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("revoked_at", sa.Float),
    comment="API tokens; only their SHA-256 is kept (they have 256 random bits)",
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.tenant"), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("description", sa.Text, nullable=False, default=""),
    sa.Column("revision", sa.Integer, nullable=False, default=1),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("deleted_at", sa.Float),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("manifest", sa.Text, nullable=False, comment="the canonical bytes that were hashed"),
    sa.Column("published_by", sa.String(128), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("deleted_at", sa.Float),
    sa.ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"]),
    sa.UniqueConstraint("tenant", "digest"),
)

imports = sa.Table(
    "imports",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.tenant"), primary_key=True),
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("request", sa.Text, nullable=False, comment="what was asked, files and their chunks included"),
    sa.Column("requested_by", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("step", sa.String(64), nullable=False, default=""),
    sa.Column("done", sa.Float, nullable=False, default=0.0, comment="of all work, 0 to 1"),
    sa.Column("detail", sa.Text, nullable=False, default=""),
    sa.Column("error", sa.Text, comment="why it failed"),
    sa.Column("digest", sa.String(64), comment="of the version it made"),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Index("ix_imports_state", "state", "created_at"),
    sa.Index("ix_imports_tenant_created_at", "tenant", "created_at", "id"),
    sa.Index(
        "uq_imports_live",
        "tenant",
        "model",
        "version",
        unique=True,
        sqlite_where=sa.text("state IN ('queued', 'in_progress')"),
        postgresql_where=sa.text("state IN ('queued', 'in_progress')"),
    ),
)

groups = sa.Table(
    "groups",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.tenant"), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("description", sa.Text, nullable=False, default=""),
    sa.Column("revision", sa.Integer, nullable=False, default=1),
    sa.Column("created_at", sa.Float, nullable=False),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.tenant"), primary_key=True),
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("description", sa.Text, nullable=False, default=""),
    sa.Column("revision", sa.Integer, nullable=False, default=1),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("deleted_at", sa.Float),
    # enrolment
    sa.Column("enrol_token_hash", sa.String(64), unique=True),
    sa.Column("enrol_expires_at", sa.Float),
    sa.Column(
        "enrol_key", sa.String(64), comment="the key that used the token: it alone may ask again until it proved itself"
    ),
    sa.Column("enrolled_at", sa.Float),
    sa.Column("public_key", sa.String(64)),
    sa.Column("mqtt_password_hash", sa.String(256), comment="Mosquitto's form, $7$: PBKDF2-SHA512"),
    # presence, owned by the loops
    sa.Column("epoch", sa.BigInteger, comment="of the newest birth"),
    sa.Column("born_at", sa.Float),
    sa.Column("died_at", sa.Float),
    sa.Column("last_seen", sa.Float),
    sa.Column("agent_version", sa.String(64)),
    sa.Column("hardware", sa.Text),
    # reported, owned by the loops
    sa.Column("reported_epoch", sa.BigInteger),
    sa.Column("reported_seq", sa.BigInteger),
    sa.Column("reported", sa.Text),
    sa.Column("reported_at", sa.Float),
    # newest telemetry, owned by the loops
    sa.Column("telemetry", sa.Text),
    sa.Column("telemetry_at", sa.Float),
)

group_members = sa.Table(
    "group_members",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("group", sa.String(64), primary_key=True),
    sa.Column("device", sa.String(64), primary_key=True),
    sa.ForeignKeyConstraint(["tenant", "group"], ["groups.tenant", "groups.name"], ondelete="CASCADE"),
    sa.ForeignKeyConstraint(["tenant", "device"], ["devices.tenant", "devices.device"]),
    sa.Index("ix_group_members_device", "tenant", "device"),
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("tenant", sa.ForeignKey("tenants.tenant"), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False, default=1),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("deleted_at", sa.Float),
)

assignments = sa.Table(
    "assignments",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("group", sa.String(64), primary_key=True),
    sa.Column("models", sa.Text, nullable=False, comment="JSON list of {name, version, variant?}"),
    sa.Column("policy", sa.String(64)),
    sa.Column("limits", sa.Text, nullable=False, default="{}"),
    sa.Column("priority", sa.Integer, nullable=False, default=0, comment="highest wins where groups disagree"),
    sa.Column("revision", sa.Integer, nullable=False, default=1),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.ForeignKeyConstraint(["tenant", "group"], ["groups.tenant", "groups.name"]),
)

generations = sa.Table(
    "generations",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("device", sa.String(64), primary_key=True),
    sa.Column("epoch", sa.BigInteger, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column(
        "content_digest", sa.String(64), nullable=False, comment="of models, policy and limits: equal means no new one"
    ),
    sa.Column("payload", sa.Text, nullable=False, comment="the exact text that was signed"),
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("signature", sa.String(128), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.ForeignKeyConstraint(["tenant", "device"], ["devices.tenant", "devices.device"]),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("device", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("payload", sa.Text, nullable=False, comment="body of the envelope"),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("sent_at", sa.Float),
    sa.Index("ix_outbox_unsent", "sent_at", "id"),
)

replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("replica", sa.String(64), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False, comment="local, or an external OIP server"),
    sa.Column(
        "models", sa.Text, nullable=False, default="[]", comment="JSON list of {tenant, name, version, variant, state}"
    ),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("resource", sa.String(64), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("data", sa.Text, nullable=False, default="{}"),
    sa.Index("ix_events_tenant_id", "tenant", "id"),
    sqlite_autoincrement=True,
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("principal", sa.String(128), nullable=False),
    sa.Column("verb", sa.String(32), nullable=False),
    sa.Column("resource", sa.String(64), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("detail", sa.Text, nullable=False, default="{}"),
    sa.Index("ix_audit_tenant_id", "tenant", "id"),
    sqlite_autoincrement=True,
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(128), primary_key=True),
    sa.Column("request_hash", sa.String(64), nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
