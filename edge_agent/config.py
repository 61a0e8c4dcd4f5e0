"""Settings of edge-agent: flags, `EDGE_AGENT_*`, a TOML file, defaults. The only place that reads the environment."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shared.io import settings as mechanism
from shared.io.program import lifeline_of
from shared.protocol.errors import Refused
from shared.serving.trial.verdict import TrialLimits

PREFIX = "EDGE_AGENT_"
RANGES = (
    ("port", 0, 65535),
    ("grpc_port", -1, 65535),
    ("threads", 1, 1024),
    ("queue_tokens", 512, 1 << 40),
    ("spool_bytes", 100_000, 1 << 50),
    ("mqtt_keepalive_s", 1, 65535),
    ("telemetry_interval_s", 0.1, 86400.0),
    ("drain_s", 0.0, 3600.0),
    ("trial_memory_bytes", 128 << 20, 1 << 50),
    ("trial_seconds", 1.0, 86400.0),
)
"""Numbers that are allowed, both ends included; NaN is in no range."""


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
    variant: str = "cpu-int8"
    """Variant preferred where the cloud leaves the choice; another where a version lacks it."""
    threads: int = 1
    """ONNX Runtime threads of each session."""
    queue_tokens: int = 65536
    """Hard bound on the tokens that may wait, over all models."""
    telemetry_interval_s: float = 10.0
    spool_bytes: int = 16_000_000
    drain_s: float = 10.0
    """How long a shutdown waits for requests in flight."""
    mqtt_keepalive_s: int = 15
    trial_memory_bytes: int = 4 << 30
    """Memory a model may take while it is tried in a process of its own, before it is loaded for the first time."""
    trial_seconds: float = 120.0
    """How long a trial may take."""
    log_level: str = "info"
    log_file: str = ""
    log_inputs: bool = False
    """Log input texts at debug level; off unless somebody asks for it."""

    @property
    def state(self) -> Path:
        """The state folder."""
        return Path(self.state_dir)

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
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise Refused("bad setting", field="log_level", value=settings.log_level, allowed="debug, info, warning, error")
    return settings


def lifeline() -> int | None:
    """The pipe a supervisor passed to this process, if any."""
    return lifeline_of(dict(os.environ))
