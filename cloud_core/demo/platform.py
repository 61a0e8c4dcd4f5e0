"""The programs of the demo as real processes: one cloud, some edges, their ports, logs and deaths.

Everything is started by its own command line, exactly as a person would, and ends with this process: each child holds the
read end of a pipe whose other end closes when we are gone, however we go.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp
import msgspec

from cloud_core.supervisor import STATE_FILE, SupervisorState
from shared.io.free_ports import find_ports, is_free
from shared.io.program import LIFELINE
from shared.protocol.errors import Transient, Unavailable

HOST = "127.0.0.1"


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything listens; `edges[i]` is the HTTP port of edge i."""

    api: int
    gateway: int
    mqtt: int
    replica: int
    edges: tuple[int, ...]


def choose_ports(edges: int, *, usual: bool = True) -> tuple[Ports, list[str]]:
    """The contract's ports where they are free, others where not; and a sentence for each that is not the usual one.

    Without `usual`, any free ones: for platforms that stand beside each other. gRPC is on the port after HTTP's.
    """
    notes: list[str] = []
    taken: set[int] = set()

    def choose(what: str, wanted: int, *, adjacent: int = 1) -> int:
        fits = all(each not in taken and is_free(HOST, each) for each in range(wanted, wanted + adjacent))
        port = wanted if usual and fits else find_ports(HOST, adjacent, taken=taken)
        if usual and port != wanted:
            notes.append(f"port {wanted} for {what} is taken: using {port}")
        taken.update(range(port, port + adjacent))
        return port

    ports = Ports(
        api=choose("the API and dashboard", 8080),
        gateway=choose("the gateway", 8081, adjacent=2),
        mqtt=choose("MQTT", 1883),
        replica=choose("the replica", 8200, adjacent=2),
        edges=tuple(choose(f"edge {i + 1}", 8090 + 2 * i, adjacent=2) for i in range(edges)),
    )
    return ports, notes


class Child:
    """One process of ours: its command line, its log file, its life."""

    def __init__(self, name: str, argv: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._argv = list(argv)
        self._environment = dict(environment)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline: int | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches only us and the order of stopping is ours."""
        theirs, ours = os.pipe()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._argv,
                    env={**self._environment, LIFELINE: str(theirs)},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs,),
                    start_new_session=True,
                )
        finally:
            os.close(theirs)
        self._lifeline = ours

    async def stop(self, patience: float = 30.0) -> int:
        """SIGTERM, wait, SIGKILL after `patience` seconds; its exit status."""
        process = self._process
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience):
                await process.wait()
        except TimeoutError:
            await self.kill()
        self._close_lifeline()
        return process.returncode or 0

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self._close_lifeline()

    def tail(self, lines: int = 20) -> str:
        """The end of its log, for a report of what went wrong."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


ONE_CORE = {"EDGE_AGENT_LANES": "1", "EDGE_AGENT_THREADS": "1"}
"""Edges share this machine: a core each, and none is measured beside the others."""
ONLY_MQTT = {"EDGE_AGENT_TRANSPORT": "mqtt"}
"""An edge that gets its models over MQTT and asks nothing of the cloud over HTTP once it is enrolled."""


class Platform:
    """One cloud and some edges in one folder."""

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        *,
        environment: Mapping[str, str],
        admin_password: str,
        embedded_broker: bool = True,
    ) -> None:
        self.folder = folder
        self.ports = ports
        self.api = f"http://{HOST}:{ports.api}"
        self.gateway = f"http://{HOST}:{ports.gateway}"
        self._environment = {k: v for k, v in environment.items() if not k.startswith(("CLOUD_CORE_", "EDGE_AGENT_"))}
        self._cloud_settings = {
            "CLOUD_CORE_DATA_DIR": str(folder / "cloud"),
            "CLOUD_CORE_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'tideline.db'}",
            "CLOUD_CORE_API_PORT": str(ports.api),
            "CLOUD_CORE_GATEWAY_PORT": str(ports.gateway),
            "CLOUD_CORE_REPLICA_PORT": str(ports.replica),
            "CLOUD_CORE_MQTT_PORT": str(ports.mqtt),
            "CLOUD_CORE_MQTT_EMBEDDED": str(embedded_broker).lower(),
            "CLOUD_CORE_ADMIN_PASSWORD": admin_password,
        }
        self.cloud = self._new_cloud()
        self.edges: dict[str, Child] = {}

    def set_cloud(self, **settings: str) -> None:
        """Settings of the cloud beyond the usual, before it starts: `replicas="2"`."""
        self._cloud_settings |= {f"CLOUD_CORE_{name.upper()}": value for name, value in settings.items()}
        self.cloud = self._new_cloud()

    def _new_cloud(self) -> Child:
        return Child(
            "cloud-core",
            (sys.executable, "-m", "cloud_core", "serve"),
            environment=self._environment | self._cloud_settings,
            log=self.folder / "logs" / "cloud-core.log",
        )

    async def start_edge(self, name: str, *, token: str | None, settings: Mapping[str, str] | None = None) -> Child:
        """Start edge `name` on the next port; `token` enrols it where it is not enrolled yet. `settings`: other than `ONE_CORE`."""
        if name not in self.edges:
            own = {
                "EDGE_AGENT_STATE_DIR": str(self.folder / "edges" / name),
                "EDGE_AGENT_PORT": str(self.ports.edges[len(self.edges)]),
                "EDGE_AGENT_ENROL_URL": self.api,
                "EDGE_AGENT_ENROL_TOKEN": token or "",
                "EDGE_AGENT_TELEMETRY_INTERVAL_S": "2",
            }
            self.edges[name] = Child(
                name,
                (sys.executable, "-m", "edge_agent", "run"),
                environment=self._environment | own | dict(ONE_CORE if settings is None else settings),
                log=self.folder / "logs" / f"{name}.log",
            )
        await self.edges[name].start()
        return self.edges[name]

    def edge_url(self, name: str) -> str:
        """Where edge `name` answers."""
        return f"http://{HOST}:{self.ports.edges[list(self.edges).index(name)]}"

    def children_of_cloud(self) -> dict[str, int]:
        """Pids of the cloud's own children by name, as the supervisor wrote them."""
        file = self.folder / "cloud" / STATE_FILE
        if not file.exists():
            return {}
        state = msgspec.json.decode(file.read_bytes(), type=SupervisorState)
        return {name: child.pid for name, child in state.children.items() if child.pid}

    async def stop(self) -> None:
        """End everything in order: edges say goodbye while there is somebody to hear it."""
        await asyncio.gather(*(edge.stop() for edge in self.edges.values()))
        await self.cloud.stop()


async def wait_http(session: aiohttp.ClientSession, url: str, *, seconds: float, status: int = 200) -> None:
    """Until `url` answers with `status`.

    Raises:
        Transient: it did not within `seconds`.

    """
    last = "no answer"
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    async with session.get(url, timeout=aiohttp.ClientTimeout(total=5)) as answer:
                        if answer.status == status:
                            return
                        last = f"{answer.status} {(await answer.text())[:200]}"
                except (aiohttp.ClientError, TimeoutError) as error:
                    last = str(error)
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise Transient(
            f"{url} did not answer {status} within {seconds:g} s: {last}", why=Unavailable.UNREACHABLE
        ) from None
