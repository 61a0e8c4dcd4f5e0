"""How the device is doing, and what it is; psutil reads files and may block, so callers sample off the event loop."""

import asyncio
import hashlib
import platform
from pathlib import Path

import psutil

from edge_agent.telemetry.accelerators import Accelerators
from shared.io.processor import processor
from shared.protocol.reported import Hardware
from shared.protocol.telemetry import Host


class HostSampler:
    """Owner of what CPU usage is measured against: the sample before."""

    def __init__(self, folder: Path) -> None:
        """`folder` lies on the disk whose free space counts."""
        self._folder = folder
        self._process = psutil.Process()
        self._accelerators = Accelerators()
        psutil.cpu_percent(interval=None)

    def sample(self) -> Host:
        """Now, with CPU since the sample before."""
        disk = psutil.disk_usage(str(self._folder))
        return Host(
            cpu=round(psutil.cpu_percent(interval=None) / 100.0, 4),
            memory=round(psutil.virtual_memory().percent / 100.0, 4),
            disk_free_bytes=disk.free,
            agent_memory_bytes=self._process.memory_info().rss,
            temperature_c=_temperature(),
            disk_total_bytes=disk.total,
            gpus=self._accelerators.look(),
        )


def hardware() -> Hardware:
    """What this device is. Equal classes have measurements that compare: same architecture, model, features and cores."""
    model, features = processor()
    machine, cpus = platform.machine() or "unknown", psutil.cpu_count(logical=True) or 1
    kind = hashlib.sha256("|".join((machine, model, *features)).encode()).hexdigest()[:8]
    return Hardware(
        hardware_class=f"{machine}-{cpus}c-{kind}",
        machine=machine,
        cpus=cpus,
        memory_bytes=psutil.virtual_memory().total,
        features=features,
    )


async def processor_used(seconds: float = 1.0) -> float:
    """The share of the processor anybody uses during the next `seconds`, 0 to 1."""
    before = psutil.cpu_times()
    await asyncio.sleep(seconds)
    after = psutil.cpu_times()
    passed = sum(after) - sum(before)
    return 1.0 - (after.idle - before.idle) / passed if passed > 0.0 else 0.0


def _temperature() -> float | None:
    """The hottest sensor in degrees Celsius, where the machine has any."""
    read = getattr(psutil, "sensors_temperatures", None)
    try:
        sensors = read() if read is not None else {}
    except OSError:
        return None
    return max((entry.current for group in sensors.values() for entry in group), default=None)
