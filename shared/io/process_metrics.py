"""What every process tells of itself: CPU seconds and resident memory, read when somebody scrapes."""

from collections.abc import Iterator

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ProcessMetrics(Collector):
    """Register one with the process's registry."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        times = self._process.cpu_times()
        yield CounterMetricFamily(
            "tideline_process_cpu_seconds", "CPU seconds of this process", value=times.user + times.system
        )
        yield GaugeMetricFamily(
            "tideline_process_memory_bytes", "Resident memory of this process", value=self._process.memory_info().rss
        )
