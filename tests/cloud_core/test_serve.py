"""`cloud-core serve` as people start it: real processes, real kills."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from cloud_core.cli import cli
from cloud_core.supervisor import STATE_FILE, ChildState, SupervisorState
from shared.io.free_ports import find_ports
from tests.cloud_core.test_supervisor import gone
from tests.cloud_core.waiting import wait_for

NAMES = ("broker", "api", "gateway", "loops", "replica-0")


class Cloud:
    """One data folder and its ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        first = find_ports("127.0.0.1", 6)  # gRPC is on the port after HTTP's, of the gateway and of the replica
        gateway, api, mqtt, replica = first, first + 2, first + 3, first + 4
        self.api, self.gateway = f"http://127.0.0.1:{api}", f"http://127.0.0.1:{gateway}"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOUD_CORE_")} | {
            "CLOUD_CORE_DATA_DIR": str(self.data),
            "CLOUD_CORE_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'registry.db'}",
            "CLOUD_CORE_API_PORT": str(api),
            "CLOUD_CORE_GATEWAY_PORT": str(gateway),
            "CLOUD_CORE_MQTT_PORT": str(mqtt),
            "CLOUD_CORE_REPLICA_PORT": str(replica),
        }
        self.started: list[subprocess.Popen[bytes]] = []

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "cloud_core", *words]

    def serve(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(self.argv("serve"), env=self.environment, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def children(self, pid: int) -> dict[str, ChildState] | None:
        """The children of supervisor `pid`, once all of them listen."""
        with contextlib.suppress(OSError):
            state = msgspec.json.decode((self.data / STATE_FILE).read_bytes(), type=SupervisorState)
            if state.pid == pid and all(state.children[name].url for name in NAMES):
                return state.children
        return None

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


def status_of(url: str, token: str | None = None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def test_the_whole_control_plane_survives_kills_and_stops_in_order(machine: Cloud) -> None:
    first = machine.serve()
    before = wait_for(lambda: machine.children(first.pid), within=60)
    assert "its password, shown only this once" in machine.log()
    for name in NAMES:
        url = before[name].url
        for path in ("/live", "/health", "/metrics", "/metrics/json"):
            assert status_of(f"{url}{path}") == 200, (name, path)
    wait_for(lambda: status_of(f"{machine.gateway}/ready") == 200, within=30)
    wait_for(lambda: status_of(f"{before['loops'].url}/ready") == 200, within=30)

    made = machine.run("token", "create", "tester", "--role", "client", "--json")
    assert made.returncode == 0, made.stderr
    token = json.loads(made.stdout)["token"]
    assert status_of(f"{machine.gateway}/v1/models", token) == 200
    assert status_of(f"{machine.gateway}/v1/models", "nonsense") == 401
    again = machine.run("serve")
    assert again.returncode == 1
    assert len(again.stderr.strip().splitlines()) == 1
    assert "data_dir" in again.stderr

    killed = before["gateway"].pid
    os.kill(killed or 0, signal.SIGKILL)

    def restarted() -> bool:
        found = machine.children(first.pid)
        return found is not None and found["gateway"].pid != killed and found["gateway"].restarts == 1

    wait_for(restarted, within=40)
    wait_for(lambda: status_of(f"{machine.gateway}/v1/models", token) == 200, within=20)

    first.kill()
    first.wait()
    pids = [child.pid or 0 for child in (machine.children(first.pid) or before).values()]
    second = machine.serve()
    after = wait_for(lambda: machine.children(second.pid), within=60)
    assert all(gone(pid) for pid in pids)
    assert after["api"].url == before["api"].url == machine.api
    wait_for(lambda: status_of(f"{machine.gateway}/v1/models", token) == 200, within=20)

    second.send_signal(signal.SIGTERM)
    assert second.wait(40) == 0
    stopped = [
        json.loads(line)["child"]
        for line in machine.log().splitlines()
        if line.startswith("{") and json.loads(line)["event"] == "child stopped"
    ]
    assert set(stopped[:2]) == {"api", "gateway"}
    assert stopped[2:] == ["replica-0", "loops", "broker"]
    state = msgspec.json.decode((machine.data / STATE_FILE).read_bytes(), type=SupervisorState)
    assert all(child.pid is None and child.last_exit == 0 for child in state.children.values())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("serve", "--port", "70000"), "api_port"),
        (("serve", "--database-url", "mysql://x"), "database_url"),
        (("serve", "--replicas", "-1"), "replicas"),
        (("serve", "--config", "/nowhere.toml"), "config"),
        (("serve", "--role", "loops", "--port", "1"), "--port"),
        (("serve", "--role", "cook"), "cook"),
        (("replica", "--index", "-1"), "--index"),
    ],
)
def test_a_bad_setting_is_one_line_and_status_2(words: tuple[str, ...], says: str) -> None:
    done = CliRunner().invoke(cli, list(words))
    assert done.exit_code == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_people_and_tokens_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_CORE_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'registry.db'}")

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, list(words))

    assert run("migrate").exit_code == 0
    assert json.loads(run("migrate", "--json").stdout) == {"migrated": True}
    made = run("user", "add", "ann", "--role", "operator", "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["name"] == "ann"
    twice = run("user", "add", "ann")
    assert twice.exit_code == 1
    assert "there is a user of that name" in twice.stderr
    assert len(twice.stderr.splitlines()) == 1
    unknown = run("token", "create", "x", "--role", "cook")
    assert unknown.exit_code == 2
    assert "allowed: admin" in unknown.stderr
