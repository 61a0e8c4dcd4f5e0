"""Settings of edge-agent: flags, `EDGE_AGENT_*`, a TOML file, defaults. The only place that reads the environment."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from edge_agent.decide.arranging import Fixed, Wishes
from shared.io import settings as mechanism
from shared.io.program import lifeline_of
from shared.io.web_door import Limits
from shared.protocol import names
from shared.protocol.errors import Refused
from shared.serving.trial.verdict import TrialLimits

PREFIX = "EDGE_AGENT_"
IDLE, OFF = "idle", "off"
RANGES = (
    ("port", 0, 65535),
    ("grpc_port", -1, 65535),
    ("threads", 1, 1024),
    ("lanes", 1, 1024),
    ("memory_bytes", 1 << 20, 1 << 50),
    ("memory_growth_bytes", 1 << 20, 1 << 50),
    ("tune_after_idle_s", 0.0, 30 * 86400.0),
    ("tune_max_load", 0.0, 1.0),
    ("tune_seconds", 0.5, 3600.0),
    ("queue_tokens", 512, 1 << 40),
    ("busy_poll_us", 0, 10_000),
    ("spool_bytes", 100_000, 1 << 50),
    ("mqtt_keepalive_s", 1, 65535),
    ("mqtt_part_bytes", 1024, 1 << 20),
    ("download_min_bytes_per_s", 1, 1 << 40),
    ("mqtt_infer_in_flight", 1, 1024),
    ("telemetry_interval_s", 0.1, 86400.0),
    ("drain_s", 0.0, 3600.0),
    ("http_connections", 1, 1 << 20),
    ("http_idle_s", 0.1, 86400.0),
    ("http_patience_s", 0.1, 86400.0),
    ("http_bodies_bytes", 1 << 20, 1 << 50),
    ("grpc_message_s", 0.1, 86400.0),
    ("max_body_bytes", 1024, 1 << 31),
    ("trial_memory_bytes", 128 << 20, 1 << 50),
    ("trial_seconds", 1.0, 86400.0),
)
"""Numbers that are allowed, both ends included; NaN is in no range."""


class Transport(StrEnum):
    """How models and trust metadata come."""

    AUTO = "auto"
    """HTTP, and MQTT while HTTP is away for a minute."""
    HTTP = "http"
    MQTT = "mqtt"
    """Nothing is asked over HTTP then, the gateway neither."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set; a port of 0 means any free one."""

    state_dir: str = "./.tideline/edge"
    host: str = "127.0.0.1"
    port: int = 8090
    grpc_port: int | None = None
    """gRPC port; the one after `port` where absent, -1 for no gRPC."""
    uds: str = ""
    """Path of a Unix socket to listen on besides; empty for none."""
    enrol_url: str = ""
    """cloud-core's API, for `run` on a device that is not enrolled yet; with `enrol_token`."""
    enrol_token: str = ""
    variant: str | None = None
    """Variant preferred where the cloud leaves the choice; where absent, the one measured best here, else `cpu-int8`."""
    threads: int | None = None
    """Cores that one run of a model may use; where absent, what was measured best, else what suits the device."""
    lanes: int | None = None
    """Batches of one model that are computed at the same time; where absent, as `threads`."""
    tune: str = IDLE
    """When it is measured how models run best here: `idle`, while nobody asks anything, or `off`."""
    tune_after_idle_s: float = 60.0
    """How long nobody must have asked anything before."""
    tune_max_load: float = 0.3
    """The share of the processor that anybody may use then."""
    tune_seconds: float = 20.0
    """How long measuring one version may take."""
    busy_poll_us: int = 500
    """How long the agent waits awake for a next request where they come that fast one after another; 0 for never."""
    dedicated: bool = False
    """Nothing but this agent computes on the device: threads that spin while they wait may be tried."""
    memory_bytes: int | None = None
    """Memory that the programs of models may take; others are put out of memory for one that is asked for. Where absent, three
    fifths of what the machine or the control group leaves the agent. A generation may set less."""
    memory_growth_bytes: int | None = None
    """How far the agent may grow beyond what its models should take before threads and session of one are made anew."""
    pinned: str = ""
    """Names of models that are never put out of memory, separated by commas."""
    queue_tokens: int = 65536
    """Hard bound on the tokens that may wait, over all models."""
    telemetry_interval_s: float = 10.0
    spool_bytes: int = 16_000_000
    drain_s: float = 10.0
    """How long a shutdown waits for requests in flight."""
    http_connections: int = 2048
    """Connections at once, over HTTP and over gRPC; over HTTP a new one takes the place of the one idle the longest."""
    http_idle_s: float = 75.0
    """How long a connection may take to send the whole head of its next request."""
    http_patience_s: float = 30.0
    """How long each further 64 KiB of a body, or of an answer, may take."""
    http_bodies_bytes: int = 256 << 20
    """What request bodies in flight may hold together; the first 64 KiB of each are free."""
    grpc_message_s: float = 120.0
    """How long the message of a gRPC call may take to come."""
    max_body_bytes: int = 16 << 20
    """Bytes of one inference request, over HTTP and gRPC."""
    mqtt_keepalive_s: int = 15
    transport: Transport = Transport.AUTO
    """How models and trust metadata come: `http`, `mqtt` or `auto`."""
    mqtt_part_bytes: int = 65536
    """Bytes of models in one message over MQTT; brokers on the way may allow less."""
    download_min_bytes_per_s: int = 1024
    """What downloads slower than this, on the average of half a minute, is given up on and tried again later."""
    metered: bool = False
    """The link to the cloud costs by the byte: nothing goes there only to see how it is."""
    mqtt_infer_url: str = ""
    """Broker on which integrators ask for inference, `mqtt://host:port` or `mqtts://host:port`; empty for none."""
    mqtt_infer_username: str = ""
    mqtt_infer_password: str = ""
    mqtt_infer_ca: str = ""
    """File of the certificates that broker is believed by; where empty, the system's."""
    mqtt_infer_device: str = "edge"
    """The device's level in topics where it was never enrolled."""
    mqtt_infer_in_flight: int = 64
    """Requests over MQTT that are computed at once."""
    trial_memory_bytes: int = 4 << 30
    """Memory a model may take while it is tried in a process of its own, before it is loaded for the first time."""
    trial_seconds: float = 120.0
    """How long a trial may take."""
    log_level: str = "info"
    log_file: str = ""
    log_inputs: bool = False
    """Log input texts at debug level; off unless somebody asks for it."""

    @property
    def pinned_models(self) -> frozenset[str]:
        """Names."""
        return frozenset(name.strip() for name in self.pinned.split(",") if name.strip())

    @property
    def state(self) -> Path:
        """The state folder."""
        return Path(self.state_dir)

    @property
    def wishes(self) -> Wishes:
        """What is set about how models run on this device."""
        fixed = Fixed(lanes=self.lanes, threads=self.threads)
        return Wishes(fixed=fixed, dedicated=self.dedicated, seconds=self.tune_seconds)

    @property
    def tunes_itself(self) -> bool:
        """Whether it is measured without being asked: not where nothing is left to be chosen."""
        return self.tune == IDLE and not self.wishes.fixed.everything

    @property
    def http_limits(self) -> Limits:
        """What HTTP clients may take."""
        return Limits(
            connections=self.http_connections,
            idle_s=self.http_idle_s,
            patience_s=self.http_patience_s,
            bodies_bytes=self.http_bodies_bytes,
        )

    def infer_broker(self) -> tuple[str, int, bool]:
        """Host and port of the integrators' broker, and whether it speaks TLS.

        Raises:
            Refused: the URL is none.

        """
        given, allowed = (
            self.mqtt_infer_url,
            "mqtt://host[:port] or mqtts://host[:port]; user and password have settings",
        )
        try:
            url = urlsplit(given)
            port = url.port
        except ValueError as error:
            raise Refused("bad setting", field="mqtt_infer_url", value=given, allowed=allowed) from error
        extra = url.username or url.password or url.query or url.fragment or url.path.strip("/")
        if url.scheme not in ("mqtt", "mqtts") or not url.hostname or extra or port == 0:
            # What is refused is shown: a password in it is not.
            shown = given.rpartition("@")[2]
            raise Refused("bad setting", field="mqtt_infer_url", value=shown, allowed=allowed)
        secure = url.scheme == "mqtts"
        return url.hostname, port or (8883 if secure else 1883), secure

    @property
    def trial_limits(self) -> TrialLimits:
        """Bounds of one trial."""
        return TrialLimits(memory_bytes=self.trial_memory_bytes, seconds=self.trial_seconds)

    @property
    def bundles(self) -> Path:
        """Where model versions are installed, by manifest digest."""
        return self.state / "bundles"


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
    if settings.tune not in (IDLE, OFF):
        raise Refused("bad setting", field="tune", value=settings.tune, allowed=f"{IDLE}, {OFF}")
    if settings.mqtt_infer_url:
        settings.infer_broker()
        names.checked("slug", settings.mqtt_infer_device, field="mqtt_infer_device")
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise Refused("bad setting", field="log_level", value=settings.log_level, allowed="debug, info, warning, error")
    return settings


def lifeline() -> int | None:
    """The pipe a supervisor passed to this process, if any."""
    return lifeline_of(dict(os.environ))
