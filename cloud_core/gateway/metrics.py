"""The gateway's metrics (contract, section 8). Labels are bounded: models, versions and replicas come from the registry."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cloud_core.gateway.fleet import Fleet
from shared.io.mqtt import Outcome
from shared.serving.answer import Where
from shared.serving.metrics import EngineMetrics


class GatewayMetrics:
    """Counts requests and the balancer's verdicts; what replicas have outstanding is read when somebody scrapes."""

    def __init__(self, registry: CollectorRegistry, fleet: Fleet) -> None:
        self._requests = EngineMetrics(registry)
        self._routes = Counter(
            "tideline_route", "The balancer's verdicts by reason", ("where", "reason"), registry=registry
        )
        self._pressure = Counter(
            "tideline_pressure_published", "Pressure messages by reason", ("reason",), registry=registry
        )
        self._messages = Counter(
            "tideline_mqtt_messages", "Messages by topic and outcome", ("topic", "outcome"), registry=registry
        )
        registry.register(_Outstanding(fleet))

    def request(self, model: str, version: str, *, outcome: str, seconds: float) -> None:
        """One request ended."""
        self._requests.answered(model, version, Where.CLOUD, outcome, seconds)
        if outcome == "shed":
            self._requests.shed.labels("replica-overloaded").inc()

    def verdict(self, reason: str) -> None:
        """The balancer decided once."""
        self._routes.labels(Where.CLOUD.value, reason).inc()

    def told_pressure(self, reason: str) -> None:
        """A pressure message went out."""
        self._pressure.labels(reason).inc()

    def message(self, topic: str, outcome: Outcome) -> None:
        """One MQTT message came; none is expected."""
        self._messages.labels(topic, outcome.value).inc()


class _Outstanding(Collector):
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauge = GaugeMetricFamily(
            "tideline_replica_outstanding", "Predicted tokens sent to a replica and not answered", labels=("replica",)
        )
        for name, member in self._fleet.members.items():
            gauge.add_metric((name,), member.outstanding)
        yield gauge
