"""What an idle device costs the network: an agent with the three shipped models, default interval, and its MQTT connection alone.

Bytes and segments are the kernel's own count of the connection (`ss`); on the wire each segment has 52 bytes more: IPv4, TCP and its
timestamps, acknowledgements without data included. Everything counts that passes in the time, keepalives too.
"""

import asyncio
import os
import re
import secrets
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import aiohttp

from bench import rounds
from bench.result import Result
from cloud_core.demo.fleet import Fleet, fleetctl, is_converged
from cloud_core.demo.platform import ONE_CORE, Platform, choose_ports, wait_http
from cloud_core.models.shipped import shipped_models
from edge_agent.config import Settings

EDGE = "edge-1"
MODELS = ("sentiment-zh", "ner-zh", "embed-zh")
SEGMENT_BYTES = 20 + 20 + 12
"""IPv4 and TCP headers, and TCP's timestamps."""
SETTLE_S, SECONDS = 45.0, 240.0
"""Twelve times two intervals of ten seconds, so that where the window begins matters little."""
QUICK_SETTLE_S, QUICK_SECONDS = 5.0, 40.0


class Traffic(NamedTuple):
    """Of one TCP connection, as its client counts."""

    bytes_up: int
    bytes_down: int
    segments_up: int
    segments_down: int

    @property
    def up(self) -> int:
        """Bytes on the wire from the device."""
        return self.bytes_up + SEGMENT_BYTES * self.segments_up

    @property
    def down(self) -> int:
        """Bytes on the wire to the device."""
        return self.bytes_down + SEGMENT_BYTES * self.segments_down


def run() -> Result:
    """Start a platform with one edge, let it idle, count."""
    return asyncio.run(_run())


async def _run() -> Result:
    settle, seconds = (QUICK_SETTLE_S, QUICK_SECONDS) if rounds.is_quick() else (SETTLE_S, SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        before, after = await _idled(Path(folder), settle=settle, seconds=seconds)
    up, down = after.up - before.up, after.down - before.down
    return Result(
        name="telemetry_idle",
        metrics={
            "up_kbit_per_s": up * 8 / 1000 / seconds,
            "down_kbit_per_s": down * 8 / 1000 / seconds,
            "up_payload_bytes": after.bytes_up - before.bytes_up,
            "down_payload_bytes": after.bytes_down - before.bytes_down,
            "up_segments": after.segments_up - before.segments_up,
            "down_segments": after.segments_down - before.segments_down,
            "seconds": seconds,
        },
        goals={"up_kbit_per_s": ("<=", 0.25), "down_kbit_per_s": ("<=", 0.25)},
        notes=(f"one agent, {len(MODELS)} models, no request, embedded broker, loopback; {SEGMENT_BYTES} B a segment",),
    )


async def _idled(folder: Path, *, settle: float, seconds: float) -> tuple[Traffic, Traffic]:
    """The connection's counters before and after the device idled."""
    ports, _ = choose_ports(1, usual=False)
    password = secrets.token_urlsafe()
    platform = Platform(folder, ports, environment=os.environ, admin_password=password)
    async with aiohttp.ClientSession() as session:
        fleet = Fleet(session, platform.api)
        try:
            await platform.cloud.start()
            await wait_http(session, f"{platform.api}/ready", seconds=90)
            await fleet.login(password)
            for model in shipped_models():
                if model.name in MODELS:
                    arguments = ("models", "publish", str(model))
                    await fleetctl(
                        *arguments, url=platform.api, token=fleet.token, environment=os.environ, folder=folder
                    )
            await fleet.call("POST", "/groups", {"name": "idle"})
            made = await fleet.call("POST", "/devices", {"device": EDGE, "groups": ["idle"]})
            own = {**ONE_CORE, "EDGE_AGENT_TELEMETRY_INTERVAL_S": str(Settings().telemetry_interval_s)}
            await platform.start_edge(EDGE, token=made["enrol_token"], settings=own)
            await fleet.call("PUT", "/policies/near", {"mode": "local-first", "deadline_ms": 1000})
            models = [{"name": name, "version": "1.0.0"} for name in MODELS]
            await fleet.call("PUT", "/assignments/idle", {"models": models, "policy": "near"})
            await fleet.wait(lambda devices: is_converged(devices[EDGE]), seconds=120, what="convergence")
            await asyncio.sleep(settle)
            pid = platform.edges[EDGE].pid
            before = await asyncio.to_thread(_traffic, pid, ports.mqtt)
            await asyncio.sleep(seconds)
            return before, await asyncio.to_thread(_traffic, pid, ports.mqtt)
        finally:
            for edge in platform.edges.values():
                await edge.stop()
            await platform.cloud.stop()


def _traffic(pid: int | None, port: int) -> Traffic:
    """What the kernel counted of the process's connection to `port`.

    Raises:
        RuntimeError: there is not exactly one such connection.

    """
    said = subprocess.run(
        ["ss", "-HtinpO", "state", "established", f"dport = :{port}"],
        capture_output=True,
        text=True,
        check=True,
    )
    own = [line for line in said.stdout.splitlines() if f"pid={pid}," in line]
    if len(own) != 1:
        raise RuntimeError(f"{len(own)} connections of process {pid} to port {port}")

    def number(name: str) -> int:
        found = re.search(rf"\b{name}:(\d+)", own[0])
        return int(found.group(1)) if found else 0

    return Traffic(number("bytes_sent"), number("bytes_received"), number("segs_out"), number("segs_in"))
