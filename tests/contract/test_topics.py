"""Section 5, row by row."""

import pytest

from shared.protocol.topics import TOPICS, Role, parse, topic

CLOUD, DEVICE, INTEGRATOR = Role.CLOUD, Role.DEVICE, Role.INTEGRATOR
TABLE = [
    # Topic, who writes, who reads, retained, QoS.
    ("tideline/v1/state", CLOUD, {CLOUD, DEVICE, INTEGRATOR}, True, 1),
    ("tideline/v1/t/pressure", CLOUD, {CLOUD, DEVICE}, True, 0),
    ("tideline/v1/t/d/desired", CLOUD, {DEVICE}, True, 1),
    ("tideline/v1/t/d/birth", DEVICE, {CLOUD}, False, 1),
    ("tideline/v1/t/d/death", DEVICE, {CLOUD}, False, 1),
    ("tideline/v1/t/d/reported", DEVICE, {CLOUD}, False, 1),
    ("tideline/v1/t/d/telemetry", DEVICE, {CLOUD}, False, 1),
    ("tideline/v1/t/d/telemetry/ack", CLOUD, {DEVICE}, False, 0),  # ADR 19
    ("tideline/v1/t/d/command", CLOUD, {DEVICE}, False, 1),
    ("tideline/v1/t/d/command/result", DEVICE, {CLOUD}, False, 1),
    ("tideline/v1/t/d/trust/get", DEVICE, {CLOUD}, False, 1),
    ("tideline/v1/t/d/trust/root.json", CLOUD, {DEVICE}, False, 1),
    ("tideline/v1/t/d/chunks/get", DEVICE, {CLOUD}, False, 1),
    ("tideline/v1/t/d/chunks/" + "0" * 64, CLOUD, {DEVICE}, False, 1),
    ("tideline/v1/t/d/infer/m/request", INTEGRATOR, {DEVICE}, False, 1),
    ("tideline/v1/t/d/infer/m/response/c", DEVICE, {INTEGRATOR}, False, 1),
]


@pytest.mark.parametrize(("text", "writer", "readers", "retained", "qos"), TABLE, ids=[row[0] for row in TABLE])
def test_the_row_is_the_contracts(text: str, writer: Role, readers: set[Role], retained: bool, qos: int) -> None:
    found = parse(text)
    assert found is not None
    row = found.row
    assert (row.writer, set(row.readers), row.retained, row.qos) == (writer, readers, retained, qos)
    assert topic(row.name, tenant="t", device="d", free=found.free) == text


def test_there_are_no_other_rows() -> None:
    named = [parse(text) for text, *_ in TABLE]
    assert {found.row.name for found in named if found is not None} == {row.name for row in TOPICS}
    assert len(TABLE) == len(TOPICS)


@pytest.mark.parametrize(
    "text",
    ["", "tideline", "tideline/v1", "tideline/v2/state", "tideline/v1/t/d", "tideline/v1/t/d/desired/x", "t/d/desired"],
)
def test_nothing_else_is_a_topic(text: str) -> None:
    assert parse(text) is None
