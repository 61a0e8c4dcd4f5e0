"""How the device is doing, and what it is; psutil reads files and may block, so callers sample off the event loop."""

import hashlib
import platform
from pathlib import Path

import psutil

from shared.protocol.reported import Hardware
from shared.protocol.telemetry import Host

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
"""CPU features that decide which variant runs well."""


class HostSampler:
    """Owner of what CPU usage is measured against: the sample before."""

    def __init__(self, folder: Path) -> None:
        """`folder` lies on the disk whose free space counts."""
        self._folder = folder
        self._process = psutil.Process()
        psutil.cpu_percent(interval=None)

    def sample(self) -> Host:
        """Now, with CPU since the sample before."""
        return Host(
            cpu=psutil.cpu_percent(interval=None) / 100.0,
            memory=psutil.virtual_memory().percent / 100.0,
            disk_free_bytes=psutil.disk_usage(str(self._folder)).free,
            agent_memory_bytes=self._process.memory_info().rss,
            temperature_c=_temperature(),
        )


def hardware() -> Hardware:
    """What this device is. Equal classes have measurements that compare: same architecture, model, features and cores."""
    features, model = _cpu()
    machine, cpus = platform.machine() or "unknown", psutil.cpu_count(logical=True) or 1
    kind = hashlib.sha256("|".join((machine, model, *features)).encode()).hexdigest()[:8]
    return Hardware(
        hardware_class=f"{machine}-{cpus}c-{kind}",
        machine=machine,
        cpus=cpus,
        memory_bytes=psutil.virtual_memory().total,
        features=features,
    )


def _cpu() -> tuple[tuple[str, ...], str]:
    """Features that matter, and the model's name, where Linux tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return (), platform.processor()
    facts = {
        name.strip(): value.strip()
        for line in text.split("\n\n", 1)[0].splitlines()
        for name, _, value in (line.partition(":"),)
    }
    known = set((facts.get("flags") or facts.get("Features") or "").split())
    return tuple(name for name in FEATURES if name in known), facts.get("model name", "")


def _temperature() -> float | None:
    """The hottest sensor in degrees Celsius, where the machine has any."""
    read = getattr(psutil, "sensors_temperatures", None)
    try:
        sensors = read() if read is not None else {}
    except OSError:
        return None
    return max((entry.current for group in sensors.values() for entry in group), default=None)
