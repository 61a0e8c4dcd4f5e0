"""Settings of cloud-core: flags, `CLOUD_CORE_*`, a TOML file, defaults. The only place that reads the environment."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from shared.io import settings as mechanism
from shared.io.program import lifeline_of
from shared.io.web_door import Limits
from shared.protocol.errors import Refused
from shared.serving.trial.verdict import TrialLimits

PREFIX = "CLOUD_CORE_"
SQLITE = "sqlite+aiosqlite:///"
RANGES = (
    ("api_port", 0, 65535),
    ("gateway_port", 0, 65535),
    ("gateway_grpc_port", -1, 65535),
    ("replica_port", 0, 65535),
    ("replica_grpc_port", -1, 65535),
    ("mqtt_port", 0, 65535),
    ("mqtt_device_bytes_per_s", 1, 1 << 40),
    ("mqtt_part_bytes", 1024, 1 << 20),
    ("replicas", 0, 1024),
    ("replica_threads", 1, 1024),
    ("replica_lanes", 1, 1024),
    ("replica_memory_bytes", 1 << 20, 1 << 50),
    ("replica_memory_growth_bytes", 1 << 20, 1 << 50),
    ("http_connections", 1, 1 << 20),
    ("http_idle_s", 0.1, 86400.0),
    ("http_patience_s", 0.1, 86400.0),
    ("http_bodies_bytes", 1 << 20, 1 << 50),
    ("max_body_bytes", 1024, 1 << 31),
    ("access_token_s", 1.0, 366 * 86400.0),
    ("desired_valid_s", 1.0, 3660 * 86400.0),
    ("lost_after_s", 0.1, 366 * 86400.0),
    ("ingest_number", 1, 4),
    ("import_memory_bytes", 64 << 20, 1 << 50),
    ("import_seconds", 1.0, 30 * 86400.0),
    ("import_disk_bytes", 1 << 20, 1 << 60),
    ("trial_memory_bytes", 128 << 20, 1 << 50),
    ("trial_seconds", 1.0, 86400.0),
)
"""Numbers that are allowed, both ends included; NaN is in no range."""
IMPORT_INHERITS = frozenset({
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "MODELSCOPE_DOMAIN",
})  # fmt: skip
"""By name, so that a secret somebody adds to our environment never reaches a process that reads strangers' files."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set; a port of 0 means any free one."""

    data_dir: str = "./.tideline/cloud"
    """Artifacts, keys and logs."""
    chunk_store: str = "folder"
    """Where chunks of models are kept: `folder` (below data_dir), or `s3://bucket/prefix` with the extra `s3` and `AWS_*` variables."""
    database_url: str = "sqlite+aiosqlite:///./tideline.db"
    host: str = "127.0.0.1"
    api_port: int = 8080
    gateway_port: int = 8081
    gateway_grpc_port: int | None = None
    """gRPC port of the gateway; the one after its HTTP port where absent, -1 for no gRPC."""
    replica_port: int = 8200
    """HTTP port of replica 0; replica i listens on replica_port + 2i."""
    replica_grpc_port: int | None = None
    """gRPC port of replica 0, and 2i more for replica i; the one after each one's HTTP port where absent, -1 for no gRPC."""
    replica_host: str = "127.0.0.1"
    """Where replicas listen. They believe what the gateway says of tenants, so nobody else should reach them."""
    replica_name: str = ""
    """Name of the one replica this process is; empty for `replica-<index>`."""
    replica_url: str = ""
    """Where the gateway reaches it; empty for its own address and port."""
    replicas: int = 1
    """How many local replicas the supervisor runs."""
    replica_threads: int = 1
    """Cores that one run of a model may use in a replica."""
    replica_lanes: int = 1
    """Batches of one model that a replica computes at the same time."""
    replica_runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    """What runs ONNX programs in a replica; those for a GPU are always run by ONNX Runtime."""
    replica_precision: Literal["", "bf16", "fp16"] = ""
    """What FP32 programs are computed in by torch (bf16; fp16 on a GPU) and by OpenVINO (bf16); empty for FP32."""
    replica_memory_bytes: int | None = None
    """Memory that the programs of models may take in a replica; others are put out of memory for one that is asked for. Where
    absent, three fifths of a replica's part of what the machine or the control group leaves."""
    replica_memory_growth_bytes: int | None = None
    """How far a replica may grow beyond what its models should take before threads and session of one are made anew."""
    replica_variant: str = "cpu-fp32"
    """Variant a replica prefers; it takes another where a version lacks it."""
    mqtt_host: str = "127.0.0.1"
    mqtt_port: int = 1883
    mqtt_embedded: bool = True
    """Run the embedded broker; false when Mosquitto or another broker listens at mqtt_host:mqtt_port."""
    mqtt_device_bytes_per_s: int = 16 << 20
    """How fast models and trust metadata are sent to one device over MQTT at the most."""
    ingest_shared: bool = False
    """Take telemetry in turns with processes of the role `ingest`; needs a broker with shared subscriptions (Mosquitto, EMQX)."""
    ingest_number: int = 1
    """Which of the processes of the role `ingest` this is."""
    mqtt_part_bytes: int = 65536
    """Bytes of models in one message over MQTT at the most, whatever a device asks for: less than the broker takes in one packet."""
    mosquitto_dir: str = ""
    """With a Mosquitto broker: the folder where its password and access files are kept up to date; empty for none."""
    mosquitto_pid_file: str = ""
    """Whose process gets SIGHUP when those files change; empty for none."""
    public_host: str = ""
    """Host name devices are told at enrolment for API, gateway and broker; empty for `host`."""
    public_api_url: str = ""
    public_gateway_url: str = ""
    admin_password: str = ""
    """Password of the first admin of tenant `default` where it is made; empty makes one up and prints it once."""
    http_connections: int = 2048
    """HTTP connections at once; a new one takes the place of the one that was idle the longest."""
    http_idle_s: float = 75.0
    """How long a connection may take to send the whole head of its next request."""
    http_patience_s: float = 30.0
    """How long each further 64 KiB of a body, or of an answer, may take."""
    http_bodies_bytes: int = 256 << 20
    """What request bodies in flight may hold together; the first 64 KiB of each are free."""
    max_body_bytes: int = 16 << 20
    """Bytes of one inference request, over HTTP and gRPC."""
    access_token_s: float = 3600.0
    desired_valid_s: float = 30 * 86400.0
    lost_after_s: float = 90.0
    import_python: str = ""
    """Python of an environment with `tideline[import]`, which imports run in; empty for this program's own."""
    import_memory_bytes: int = 8 << 30
    """Memory of one import, all its processes together."""
    import_seconds: float = 3600.0
    import_disk_bytes: int = 32 << 30
    """What one import may write, its source included."""
    trial_memory_bytes: int = 4 << 30
    """Memory a variant may take while it is tried, before its version exists."""
    trial_seconds: float = 120.0
    """How long the trial of one variant may take."""
    log_level: str = "info"
    log_file: str = ""
    log_inputs: bool = False
    """Log input texts at debug level; off unless somebody asks for it."""

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.data_dir)

    @property
    def artifacts(self) -> Path:
        """Where chunks are kept, by tenant."""
        return self.data / "artifacts"

    @property
    def imports(self) -> Path:
        """Where what is imported lies while it is: sources by tenant, and a folder for the work."""
        return self.data / "imports"

    def import_chunks(self, tenant: str) -> Path:
        """Where one tenant's sources lie, in chunks."""
        return self.imports / tenant / "chunks"

    @property
    def hidden_from_imports(self) -> tuple[Path, ...]:
        """What no import may read: keys, other tenants' models, the registry, the broker's passwords."""
        database = self.database_url.removeprefix(SQLITE).partition("?")[0]
        files = [f"{database}{end}" for end in ("", "-wal", "-shm")] if self.database_url.startswith(SQLITE) else []
        return (self.data, *(Path(path) for path in (*files, self.mosquitto_dir) if path))

    @property
    def trials(self) -> Path:
        """Where bundles are laid out while they are tried."""
        return self.data / "trials"

    @property
    def http_limits(self) -> Limits:
        """What HTTP clients may take."""
        return Limits(
            connections=self.http_connections,
            idle_s=self.http_idle_s,
            patience_s=self.http_patience_s,
            bodies_bytes=self.http_bodies_bytes,
        )

    @property
    def trial_limits(self) -> TrialLimits:
        """Bounds of one trial."""
        return TrialLimits(memory_bytes=self.trial_memory_bytes, seconds=self.trial_seconds)

    def replica_ports(self, index: int) -> tuple[int, int | None]:
        """HTTP and gRPC port of replica `index`, as its settings say them."""
        http, grpc = self.replica_port, self.replica_grpc_port
        return (http + 2 * index if http else 0, grpc + 2 * index if grpc is not None and grpc > 0 else grpc)

    @property
    def secrets(self) -> Path:
        """Where keys are kept, mode 0700."""
        return self.data / "secrets"

    @property
    def trust_keys(self) -> Path:
        """Where keys of tenants' TUF repositories are kept."""
        return self.secrets / "trust"

    @property
    def advertised_host(self) -> str:
        """What devices are told."""
        return self.public_host or self.host

    @property
    def advertised_api_url(self) -> str:
        """What devices are told."""
        return self.public_api_url or f"http://{self.advertised_host}:{self.api_port}"

    @property
    def advertised_gateway_url(self) -> str:
        """What devices are told."""
        return self.public_gateway_url or f"http://{self.advertised_host}:{self.gateway_port}"


def read(flags: Mapping[str, object], file: Path | None = None) -> Settings:
    """Settings from all four sources.

    Raises:
        Refused: names the setting, its value and what is allowed.

    """
    settings = mechanism.load(Settings, prefix=PREFIX, flags=flags, environment=os.environ, file=file)
    for name, low, high in RANGES:
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise Refused("bad setting", field=name, value=value, allowed=f"{low} to {high}")
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise Refused("bad setting", field="log_level", value=settings.log_level, allowed="debug, info, warning, error")
    if settings.chunk_store != "folder" and not settings.chunk_store.startswith("s3://"):
        allowed = "folder, or s3://bucket/prefix"
        raise Refused("bad setting", field="chunk_store", value=settings.chunk_store, allowed=allowed)
    if not settings.database_url.startswith(("sqlite+aiosqlite://", "postgresql+asyncpg://")):
        allowed = "sqlite+aiosqlite:///… or postgresql+asyncpg://…"
        raise Refused("bad setting", field="database_url", value=settings.database_url, allowed=allowed)
    return settings


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment that hands these settings to a child process."""
    given = {name: getattr(settings, name) for name in settings.__struct_fields__}
    values = {PREFIX + name.upper(): _text(value) for name, value in given.items() if value is not None}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return kept | values


def environment_of_parent() -> dict[str, str]:
    """What this process inherited, for children that are configured by name."""
    return dict(os.environ)


def import_environment() -> dict[str, str]:
    """What an import inherits: how to find programs and the hub, and nothing that is secret or ours."""
    return {name: value for name, value in os.environ.items() if name in IMPORT_INHERITS}


def lifeline() -> int | None:
    """The pipe a supervisor passed to this process, if any."""
    return lifeline_of(dict(os.environ))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
