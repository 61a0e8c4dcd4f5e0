"""What the loops count; device ids are never a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

CONVERGENCE_BUCKETS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 21600, 86400)


class LoopMetrics:
    """The loops' part of `/metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.devices = Gauge("tideline_devices", "Devices by presence.", ["state"], registry=registry)
        self.convergence = Histogram(
            "tideline_convergence_seconds",
            "From a generation's making to its device's report of having applied it.",
            buckets=CONVERGENCE_BUCKETS,
            registry=registry,
        )
        self.messages = Counter(
            "tideline_mqtt_messages",
            "Messages by kind and what became of them.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.generations = Counter("tideline_generations", "New generations by reason.", ["reason"], registry=registry)
        self.blocked = Gauge(
            "tideline_devices_blocked", "Devices whose assignments contradict themselves.", registry=registry
        )
        self.rollout_devices = Gauge(
            "tideline_rollout_devices", "Devices of open rollouts by state.", ["rollout", "state"], registry=registry
        )
        self.outbox = Gauge("tideline_outbox_depth", "Messages owed to devices and not yet sent.", registry=registry)

    def count(self, kind: str, outcome: str, messages: int = 1) -> None:
        """So many messages more."""
        self.messages.labels(kind, outcome).inc(messages)
