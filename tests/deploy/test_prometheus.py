"""A real Prometheus: it reads what cloud-core says of itself, and the alert rules fire on what they are for."""

import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from shared.io.free_ports import find_ports
from tests.cloud_core.test_serve import Cloud
from tests.cloud_core.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
ALERTS = {
    "TidelineAgentsSilent", "TidelineSpoolDrops", "TidelineReplicaDown", "TidelineShedHigh", "TidelineTrustExpiring",
    "TidelineLatencyOverObjective", "TidelineTelemetryBehind",
}  # fmt: skip


def program(name: str) -> str:
    """Where Debian's package puts it; the tests that need it are skipped where nobody may install it."""
    found = shutil.which(name)
    if found is None:
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            subprocess.run([ROOT / "tests" / "install_system.sh", "prometheus"], check=True, capture_output=True)
        found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed and cannot be: Debian's package prometheus")
    return found


def test_every_metric_of_the_rules_is_one_that_is_exported() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "cloud_core").rglob("*.py"))
    named = set(re.findall(r"\btideline_\w+", RULES.read_text()))
    assert named
    for name in named:
        assert f'"{re.sub("_(total|bucket)$", "", name)}"' in sources, name


@pytest.mark.slow
def test_the_alert_rules_are_sound_and_fire(tmp_path: Path) -> None:
    promtool = program("promtool")
    subprocess.run([promtool, "check", "rules", str(RULES)], check=True, capture_output=True, text=True)
    shutil.copy(RULES, tmp_path / "alerts.yml")
    cases = (Path(__file__).parent / "alerts_test.yml").read_text().replace("RULES", "alerts.yml")
    (tmp_path / "test.yml").write_text(cases)
    done = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "test.yml")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


@contextlib.contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[str]:
    """A Prometheus that scrapes these addresses by job, every second, with the alert rules; its own address."""
    jobs = "".join(
        f"  - {{job_name: {job}, static_configs: [{{targets: ['{where}']}}]}}\n" for job, where in targets.items()
    )
    config = folder / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{RULES}']\nscrape_configs:\n{jobs}"
    )
    port = find_ports("127.0.0.1")
    command = [
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def asked(url: str) -> Any:
    """The data of an answer; None while there is none."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5.0) as answer:
        return json.load(answer)["data"]
    return None


@pytest.mark.slow
def test_a_real_prometheus_reads_every_process(machine: Cloud, tmp_path: Path) -> None:
    program("prometheus")
    pid = machine.serve().pid
    children = wait_for(lambda: machine.children(pid), within=90)
    targets = {
        f"tideline-{name}".replace("-0", ""): child.url.removeprefix("http://") for name, child in children.items()
    }
    with prometheus(tmp_path, targets) as url:

        def query(text: str) -> list[Any]:
            found = asked(f"{url}/api/v1/query?query={quote(text)}")
            return found["result"] if found else []

        wait_for(lambda: {one["metric"]["job"] for one in query("up == 1")} == set(targets), within=60)
        wait_for(lambda: len(query("tideline_devices")) == 4, within=30)
        (rules,) = asked(f"{url}/api/v1/rules")["groups"]
        wait_for(lambda: all(rule["health"] == "ok" for rule in asked(f"{url}/api/v1/rules")["groups"][0]["rules"]))
        assert {rule["name"] for rule in rules["rules"]} == ALERTS
        # Labels are bounded: none of cloud-core's names a device.
        assert query('{device!="", job="tideline-loops"}') == []
        assert query("tideline_telemetry_rollup_behind")
