"""Section 8: the metric names, on the process that knows, with bounded labels."""

import re

import pytest

from tests.cloud_core.waiting import wait_for
from tests.contract.conftest import Door
from tests.contract.test_http_inference import INFER, TEXT, oip
from tests.e2e.scene import EDGES

EVERYWHERE = {"tideline_process_cpu_seconds_total": set(), "tideline_process_memory_bytes": set()}
VERSION = {"model", "version"}
COMPUTES = {
    "tideline_requests_total": VERSION | {"where", "outcome"},
    "tideline_request_seconds": VERSION | {"where"},
    "tideline_queue_seconds": VERSION,
    "tideline_compute_seconds": VERSION,
    "tideline_batch_size": VERSION,
    "tideline_queue_depth": VERSION,
    "tideline_concurrency_limit": VERSION,
    "tideline_concurrency_in_flight": VERSION,
    "tideline_shed_total": {"reason"},
    "tideline_model_state": VERSION | {"state"},
}
EDGE = COMPUTES | {
    "tideline_route_total": {"where", "reason"},
    "tideline_breaker_state": {"state"},
    "tideline_convergence_seconds": set(),
    "tideline_telemetry_dropped_total": {"reason"},
    "tideline_cache_total": {"result"},
    "tideline_cache_evicted_total": set(),
    "tideline_cache_bytes": set(),
    "tideline_cache_entries": set(),
    "tideline_shadow_total": VERSION | {"result", "reason"},
}
GATEWAY = {
    "tideline_requests_total": VERSION | {"where", "outcome"},
    "tideline_request_seconds": VERSION | {"where"},
    "tideline_route_total": {"where", "reason"},
    "tideline_replica_outstanding": {"replica"},
}
LOOPS = {"tideline_devices": {"state"}, "tideline_convergence_seconds": set()}
SILENT = {
    "tideline_shed_total",
    "tideline_telemetry_dropped_total",
    "tideline_shadow_total",
}
"""Counted by a label that nothing has had to count yet: named, without a sample."""


def samples(text: str) -> dict[str, list[dict[str, str]]]:
    """Labels of every sample, by name; buckets, counts and sums under their histogram's name."""
    found: dict[str, list[dict[str, str]]] = {}
    histograms = set(re.findall(r"^# TYPE (\S+) histogram$", text, re.MULTILINE))
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels = re.fullmatch(r"([a-zA-Z0-9_:]+)(?:\{(.*)\})? \S+", line).groups()  # type: ignore[union-attr]
        base = re.sub(r"_(bucket|count|sum|created)$", "", name)
        pairs = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or ""))
        pairs.pop("le", None)
        found.setdefault(base if base in histograms else name, []).append(pairs)
    return found


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        ("edge-1", EDGE),
        ("replica-0", COMPUTES),
        ("gateway", GATEWAY),
        ("loops", LOOPS),
        ("api", {}),
        ("broker", {}),
    ],
)
def test_names_and_labels(doors: dict[str, Door], gateway: Door, process: str, expected: dict[str, set[str]]) -> None:
    assert doors["edge-1"].post(INFER, oip(TEXT)).status == 200
    assert gateway.post(INFER, oip(TEXT)).status == 200
    text = doors[process].metrics()
    found = samples(text)
    for name, labels in (EVERYWHERE | expected).items():
        assert f"# TYPE {name} " in text, name
        if name not in SILENT:
            assert found.get(name), name
        for each in found.get(name, ()):
            assert each.keys() == labels, name
    assert all(name.startswith("tideline_") for name in found)


def test_labels_of_the_cloud_are_bounded(doors: dict[str, Door], gateway: Door) -> None:
    """No device, tenant or request is a label, and no name a caller made up is one."""
    loops = doors["loops"]
    wait_for(lambda: sum_of(loops.metrics(), 'tideline_devices{state="online"}') >= len(EDGES), within=60)
    for door in (gateway, doors["edge-1"]):
        door.post("/v2/models/made-up-name/infer", oip(TEXT), X_Request_Id="made-up-id")
        door.post("/predict", {"model": "made-up-name", "text": TEXT})
        door.get("/made-up-path")
    for name, door in doors.items():
        values = {value for rows in samples(door.metrics()).values() for labels in rows for value in labels.values()}
        assert not {value for value in values if "made-up" in value}, name
        if not name.startswith("edge"):
            assert not {value for value in values if any(edge in value for edge in EDGES)}, name


def sum_of(text: str, start: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start))
