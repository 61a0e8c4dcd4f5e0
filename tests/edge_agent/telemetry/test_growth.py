import pytest
from prometheus_client import CollectorRegistry

from edge_agent.telemetry.growth import Growth
from shared.protocol.telemetry import RELATIVE_ERROR, histogram_of, quantile
from shared.serving.cache.response_cache import HIT, CacheMetrics
from shared.serving.metrics import EngineMetrics


def test_only_what_was_added_since_is_told() -> None:
    registry = CollectorRegistry()
    metrics, looks = EngineMetrics(registry), CacheMetrics(registry)
    growth = Growth(metrics, looks)
    assert (growth.work({}), growth.cache()) == ((), {})
    for seconds in (0.001, 0.002, 0.004):
        metrics.compute.labels("m", "1.0.0").observe(seconds)
    metrics.queue.labels("m", "1.0.0").observe(0.0)
    metrics.batch_size.labels("m", "1.0.0").observe(8)
    looks.looked.labels(HIT).inc()
    (work,) = growth.work({})
    assert (work.model, work.version) == ("m", "1.0.0")
    assert (work.compute.count, work.compute.sum) == (3, pytest.approx(0.007))
    assert quantile(work.compute, 0.5) == pytest.approx(0.002, rel=RELATIVE_ERROR + 1e-9)
    assert (work.queue.count, work.sizes.count) == (1, 1)
    assert quantile(work.sizes, 0.5) == pytest.approx(8, rel=RELATIVE_ERROR + 1e-9)
    assert growth.cache() == {HIT: 1}
    assert (growth.work({}), growth.cache()) == ((), {})
    metrics.compute.labels("m", "1.0.0").observe(2.0)
    metrics.compute.labels("n", "2.0.0").observe(3.0)
    assert [(each.model, each.compute.count, each.queue.count) for each in growth.work({})] == [
        ("m", 1, 0),
        ("n", 1, 0),
    ]


def test_confidence_joins_the_version_s_work() -> None:
    growth = Growth(EngineMetrics(CollectorRegistry()))
    (work,) = growth.work({("m", "1"): histogram_of([0.9])})
    assert (work.model, work.confidence.count, work.compute.count) == ("m", 1, 0)


def test_nothing_is_counted_twice_or_left_out() -> None:
    metrics = EngineMetrics(CollectorRegistry())
    growth, cell = Growth(metrics), metrics.compute.labels("m", "1")
    told = 0
    for i in range(100):
        cell.observe(i / 1000)
        if i % 7 == 0:
            told += sum(each.compute.count for each in growth.work({}))
    assert told + sum(each.compute.count for each in growth.work({})) == 100
