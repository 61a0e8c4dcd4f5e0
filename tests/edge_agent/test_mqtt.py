"""Inference over MQTT, through a real agent process and a real broker that is not the fleet's."""

import asyncio
import json
import time
from pathlib import Path

import msgspec
import pytest

from edge_agent.control.identity import new_identity, save_identity
from tests.cloud_core.waiting import eventually, wait_for
from tests.edge_agent.control.test_identity import answer_for
from tests.edge_agent.integrator import Integrator, integrator, open_broker
from tests.edge_agent.test_agent import INPUT, Agent, program, run_once, running


def serving(tmp_path: Path, port: int, **settings: str) -> tuple[tuple[str, ...], dict[str, str]]:
    arguments = ("serve", str(program(tmp_path / "double.onnx")), "--port", "0")
    return arguments, {"EDGE_AGENT_MQTT_INFER_URL": f"mqtt://127.0.0.1:{port}", **settings}


def connections(agent: Agent) -> int:
    return agent.said.count("connected to the broker")


def test_an_integrator_is_answered_and_told_what_is_wrong(tmp_path: Path) -> None:
    async def main(agent: Agent, port: int) -> None:
        async with integrator(port, device="lamp") as app:
            answer = await app.ask("double", INPUT, id="r-1")
            assert (answer["kind"], answer["status"]) == ("infer-response", 200)
            assert answer["body"]["outputs"][0]["data"] == [2.0, 4.0]
            assert answer["x-request-id"] == "r-1"
            assert answer["x-tideline-where"] == "local"
            assert answer["x-tideline-model"].startswith("double@1.0.0/")
            status, _, story = await asyncio.to_thread(agent.ask, "GET", "/v1/why/r-1")
            assert (status, story["where"], story["outcome"]) == (200, "local", "ok")

            answer = await app.ask("triple", INPUT, id="r-2", **{"X-Request-Id": "mine"})
            assert (answer["status"], answer["body"]["code"], answer["body"]["field"]) == (404, "not-found", "model")
            assert answer["body"]["request_id"] == answer["x-request-id"] == "mine"
            assert "double" in answer["body"]["allowed"]

            for asked, status, field, body, beside in (
                ("w-1", 400, "body", [1], {}),
                ("w-2", 422, "body", {"text": "hello"}, {}),
                ("w-3", 400, "X-Tideline-Deadline-Ms", INPUT, {"x-tideline-deadline-ms": "soon"}),
                ("w-4", 400, "x-tideline-priority", INPUT, {"x-tideline-priority": [1]}),
                ("w-5", 400, "X-Tideline-Privacy", INPUT, {"x-tideline-privacy": "x" * 200}),
                ("w-6", 400, "inputs[0].data", {"inputs": [{**INPUT["inputs"][0], "data": [1.0]}]}, {}),
            ):
                answer = await app.ask("double", body, id=asked, **beside)
                assert (answer["status"], answer["body"].get("field")) == (status, field), answer
            for asked, beside in (("late", {"x-tideline-deadline-ms": 0}), ("old", {"expires_at": 1.0})):
                answer = await app.ask("double", INPUT, id=asked, **beside)
                assert (answer["status"], answer["body"]["code"]) == (504, "deadline-missed"), answer

            answer = await app.ask("double", INPUT, id="far", expires_at=time.time() + 60)
            assert answer["status"] == 200
            await unanswerable(agent, app)

    with open_broker(tmp_path) as broker:
        arguments, settings = serving(tmp_path, broker.port, EDGE_AGENT_MQTT_INFER_DEVICE="lamp")
        with running(*arguments, folder=tmp_path, **settings) as agent:
            wait_for(lambda: connections(agent))
            asyncio.run(main(agent, broker.port))
            assert agent.end() == 0
            assert "Traceback" not in agent.said


async def unanswerable(agent: Agent, app: Integrator) -> None:
    """What names nobody to be told is counted, and harms nobody."""
    nobody = {name: value for name, value in app.envelope(INPUT, id="n").items() if name != "client"}
    elsewhere = app.envelope(INPUT, id="n", client="a/b/+")
    other = app.envelope(INPUT, id="n", kind="desired")
    newer = app.envelope(INPUT, id="n", v="2.0")
    for payload in (b"", b"{", *(json.dumps(each).encode() for each in (nobody, elsewhere, other, newer))):
        await app.send("double", payload)
    await app.send("double", json.dumps(app.envelope(INPUT, id="kept")).encode())

    async def counted() -> bool:
        _, _, metrics = await asyncio.to_thread(agent.ask, "GET", "/metrics")
        return 'tideline_mqtt_messages_total{outcome="refused",topic="infer-request"} 6.0' in metrics

    await eventually(counted)
    await app.told("kept")


def test_a_retained_request_is_nobodys_and_a_lost_broker_is_found_again(tmp_path: Path) -> None:
    async def leave(port: int) -> None:
        async with integrator(port) as app:
            await app.send("double", json.dumps(app.envelope(INPUT, id="kept")).encode(), retain=True)

    async def ask(port: int, id: str) -> None:
        async with integrator(port) as app:
            assert (await app.ask("double", INPUT, id=id))["status"] == 200
            assert [each["correlation_id"] for each in app.heard] == [id]

    with open_broker(tmp_path) as broker:
        asyncio.run(leave(broker.port))
        arguments, settings = serving(tmp_path, broker.port)
        with running(*arguments, folder=tmp_path, **settings) as agent:
            wait_for(lambda: "must not be retained" in agent.said)
            asyncio.run(ask(broker.port, "one"))
            assert agent.ask("GET", "/v1/why/kept")[0] == 404
            broker.stop()
            wait_for(lambda: "connection to the broker lost" in agent.said)
            assert agent.ask("POST", "/v2/models/double/infer", INPUT)[0] == 200
            broker.start()
            wait_for(lambda: connections(agent) == 2)
            asyncio.run(ask(broker.port, "two"))
            assert agent.end() == 0


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("mqtt_infer_url", "http://127.0.0.1:1", "mqtt_infer_url"),
        ("mqtt_infer_url", "mqtt://user:secret@127.0.0.1", "mqtt_infer_url"),
        ("mqtt_infer_url", "mqtt://127.0.0.1:99999", "mqtt_infer_url"),
        ("mqtt_infer_in_flight", "0", "mqtt_infer_in_flight"),
    ],
)
def test_a_bad_broker_ends_it_with_one_line(tmp_path: Path, setting: str, value: str, named: str) -> None:
    model = program(tmp_path / "double.onnx")
    code, _, err = run_once("serve", str(model), folder=tmp_path, **{f"EDGE_AGENT_{setting.upper()}": value})
    assert code == 2, err
    assert named in err
    assert "secret" not in err
    assert len(err.strip().splitlines()) == 1


def test_an_enrolled_device_answers_under_its_name_while_its_cloud_is_gone(tmp_path: Path) -> None:
    async def ask(port: int) -> None:
        async with integrator(port, tenant="default", device="lamp-1") as app:
            answer = await app.ask("any", {"text": "a"}, id="one")
            assert (answer["status"], answer["body"]["field"]) == (404, "model")

    state = tmp_path / "state"
    identity = new_identity(state)
    # Nobody listens where its cloud and its own broker are said to be.
    answer = answer_for("http://127.0.0.1:1")
    nowhere = msgspec.structs.replace(answer.broker, port=1)
    save_identity(state, msgspec.structs.replace(identity, enrolment=msgspec.structs.replace(answer, broker=nowhere)))
    arguments = ("run", "--state-dir", str(state), "--port", "0")
    with open_broker(tmp_path) as broker:
        settings = {"EDGE_AGENT_MQTT_INFER_URL": f"mqtt://127.0.0.1:{broker.port}"}
        with running(*arguments, folder=tmp_path, **settings) as agent:
            wait_for(lambda: connections(agent))
            asyncio.run(ask(broker.port))
            link = agent.ask("GET", "/health")[2]["link"]
            assert (link["enrolled"], link["connected"]) == (True, False)
            assert agent.end() == 0
            assert "Traceback" not in agent.said


def test_an_agent_ends_before_it_ever_had_a_name_or_a_broker(tmp_path: Path) -> None:
    arguments = ("run", "--state-dir", str(tmp_path / "s"), "--port", "0", "--enrol-url", "http://127.0.0.1:1")
    settings = {"EDGE_AGENT_MQTT_INFER_URL": "mqtt://127.0.0.1:1", "EDGE_AGENT_ENROL_TOKEN": "t"}
    with running(*arguments, folder=tmp_path, **settings) as agent:
        assert agent.ask("GET", "/live")[0] == 200
        assert agent.end() == 0
        assert "stop timed out" not in agent.said
    arguments, settings = serving(tmp_path, 1)
    with running(*arguments, folder=tmp_path, **settings) as agent:
        wait_for(lambda: "broker not reachable" in agent.said)
        assert agent.ask("POST", "/v2/models/double/infer", INPUT)[0] == 200
        assert agent.end() == 0
        assert "stop timed out" not in agent.said
