"""Section 3: what every process tells of itself, and inference through the gateway."""

import openai
import pytest
import tritonclient.http as triton

from tests.cloud_core.waiting import wait_for
from tests.contract.conftest import Door
from tests.contract.test_clients import texts
from tests.contract.test_http_inference import INFER, LONG, TEXT, oip
from tests.contract.test_http_refusals import check_envelope
from tests.e2e.scene import Scene

PROCESSES = ("api", "gateway", "loops", "broker", "replica-0", "edge-1", "edge-2")


def test_every_process_tells_how_it_is(doors: dict[str, Door]) -> None:
    assert set(PROCESSES) <= doors.keys()
    instances = set()
    for name in PROCESSES:
        door = doors[name]
        wait_for(lambda door=door: door.get("/ready").status == 200, within=60)
        ready = door.get("/ready").json
        assert (ready["ready"], ready["reasons"]) == (True, []), name
        assert isinstance(ready["models"], list)
        for path in ("/live", "/healthz"):
            assert (door.get(path).status, door.get(path).json) == (200, {"live": True}), name
        health = door.get("/health").json
        assert {"status", "instance", "pid", "uptime_s", "ready", "reasons", "models"} <= health.keys(), name
        assert health["status"] == "ok"
        instances.add((health["instance"], health["pid"]))
        text = door.get("/metrics")
        assert text.headers["Content-Type"].startswith("text/plain; version=")
        listed = door.get("/metrics/json").json
        process = listed["tideline_process_memory_bytes"]
        assert process.keys() == {"type", "help", "samples"}, name
        assert process["samples"][0].keys() == {"name", "labels", "value"}
        assert door.get("/nowhere").json["code"] == "not-found", name
        assert door.get("/live", X_Request_Id="live-1").headers["X-Request-Id"] == "live-1", name
    assert len(instances) == len(PROCESSES)
    replicas = doors["gateway"].get("/health").json["replicas"]
    assert [(each["replica"], each["live"]) for each in replicas] == [("replica-0", True)]


def test_the_gateway_answers_as_an_edge_does(gateway: Door, platform: Scene) -> None:
    answer = gateway.post(INFER, oip(TEXT, id="mine"), X_Request_Id="gateway-1")
    assert answer.status == 200, answer.body
    assert (answer.json["id"], answer.json["model_name"]) == ("mine", "sentiment-zh")
    assert answer.headers["X-Request-Id"] == "gateway-1"
    assert answer.headers["X-Tideline-Where"] == "cloud"
    assert answer.headers["X-Tideline-Model"].startswith("sentiment-zh@1.0.0/")
    assert float(answer.headers["X-Tideline-Compute-Ms"]) > 0
    assert gateway.get("/v1/why/gateway-1").json["outcome"] == "ok"
    plain = gateway.post("/predict", {"task_type": "sentiment", "input_text": TEXT}).json
    assert (plain["where"], plain["result"]["label"]) == ("cloud", "正面")
    for path, body, status in (
        (INFER, oip(LONG), 422),
        (INFER, b"{", 400),
        ("/v2/models/nope/infer", oip(TEXT), 404),
        ("/predict", {"model": "nope", "input_text": TEXT}, 404),
        ("/v1/embeddings", {"model": "sentiment-zh", "input": TEXT}, 422),
    ):
        refused = gateway.post(path, body)
        assert refused.status == status, refused.body
        check_envelope(path, refused)
    assert gateway.post(INFER, oip(TEXT), X_Tideline_Deadline_Ms="0").status in (429, 504)
    for path in (INFER, "/v1/embeddings", "/predict"):
        stranger = gateway.post(path, {}, Authorization="")
        assert (stranger.status, stranger.headers["WWW-Authenticate"]) == (401, "Bearer")
        check_envelope(path, stranger)


def test_unmodified_clients_through_the_gateway(gateway: Door, platform: Scene) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=platform.fleet.token, max_retries=0) as ai:
        assert [model.id for model in ai.models.list()] == ["sentiment-zh"]
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="wrong", max_retries=0) as ai,
        pytest.raises(openai.AuthenticationError),
    ):
        ai.models.list()
    client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}", network_timeout=60, connection_timeout=60)
    assert client.is_server_ready()
    # The client writes into the headers it is given.
    result = client.infer("sentiment-zh", [texts(TEXT, binary=True)], headers=dict(gateway.headers))
    assert result.as_numpy("label")[0].decode() == "正面"
    assert client.is_model_ready("sentiment-zh", headers=dict(gateway.headers))
    client.close()


def test_fleetctl_and_edge_agent_end_as_the_contract_says(platform: Scene, doors: dict[str, Door]) -> None:
    """Where a command needs the platform: 3 what permission refuses, 0 what is done."""
    from tests.contract.test_command_lines import run

    told = run(
        "fleetctl", "--url", platform.platform.api, "models", "list", "--json", FLEETCTL_TOKEN=platform.fleet.token
    )
    assert told.status == 0, told.err
    assert told.json[0]["name"] == "sentiment-zh"
    assert run("fleetctl", "--url", platform.platform.api, "models", "list", FLEETCTL_TOKEN="wrong").status == 3
    login = ("login", "--password-stdin", "--config-missing")
    assert run("fleetctl", *login).status == 2
    edge = doors["edge-1"].url
    for command in (("status", "--url", edge), ("infer", "sentiment-zh", TEXT, "--url", edge)):
        done = run("edge-agent", *command, "--json")
        assert done.status == 0, done.err
        assert isinstance(done.json, dict)
        assert run("edge-agent", *command).out.strip()
    assert run("edge-agent", "infer", "nope", TEXT, "--url", edge).status == 1
    assert run("fleetctl", "--url", platform.platform.api, "devices", "enrol", "nobody").status in (1, 3)
