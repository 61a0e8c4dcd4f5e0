"""Garbage at every door: a clear refusal that names the field, and everything still answers afterwards."""

import asyncio
import json

import pytest

from tests.e2e.scene import TEXT

EDGE_CASES = [
    ("/predict", b"{", 400, "body"),
    ("/predict", b'{"model": "sentiment-zh", "text": 5}', 400, "text"),
    ("/predict", json.dumps({"model": "sentiment-zh", "text": ""}).encode(), 422, "text"),
    ("/predict", json.dumps({"model": "sentiment-zh", "text": "长" * 5000}).encode(), 422, "128"),
    ("/predict", json.dumps({"model": "no-such", "text": TEXT}).encode(), 404, "no-such"),
    ("/predict", json.dumps({"task_type": "divination", "text": TEXT}).encode(), 422, "task_type"),
    ("/v2/models/no-such/infer", b'{"inputs": []}', 404, "no-such"),
    ("/v2/models/sentiment-zh/infer", b'{"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["x"]}]}', 400, "shape"),
    ("/v2/models/sentiment-zh/infer", b'{"inputs": [{"name": "text", "shape": [-1], "datatype": "BYTES", "data": ["x"]}]}', 400, "shape"),
    ("/v2/models/sentiment-zh/infer", b'{"inputs": [{"name": "text", "shape": [1], "datatype": "NOPE", "data": ["x"]}]}', 400, "datatype"),
    ("/v1/embeddings", b'{"model": "sentiment-zh", "input": "x"}', None, "embed"),
    ("/nowhere", b"{}", 404, ""),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "names"), EDGE_CASES)
def test_an_edge_refuses_bad_requests_and_goes_on(scene, path, body, status, names):
    async def story():
        url = scene.platform.edge_url("edge-1")
        headers = {"Content-Type": "application/json"}
        async with scene.session.post(f"{url}{path}", data=body, headers=headers) as answer:
            text = await answer.text()
            assert 400 <= answer.status < 500, text
            assert status is None or answer.status == status, text
            assert names in text
        await scene.edges_answer()

    scene.run(story())


def test_mqtt_garbage_is_dropped_and_counted(scene):
    """Wrong topics, wrong bytes, a newer protocol: nothing crashes and nothing changes."""
    import aiomqtt

    from cloud_core.keys import SERVICE_USER, load_or_create

    async def story():
        before = scene.platform.children_of_cloud()
        password = load_or_create(scene.folder / "cloud" / "secrets").broker_password
        # The control plane's own account may write every row that a hostile or newer control plane could.
        username = f"{SERVICE_USER}/gateway" if scene.mosquitto is not None else SERVICE_USER
        client = aiomqtt.Client(
            "127.0.0.1",
            scene.platform.ports.mqtt,
            username=username,
            password=password,
            identifier=f"{SERVICE_USER}/gateway",
        )
        newer = {"v": "2.0", "kind": "desired", "id": "x", "sent_at": 0, "body": {}}
        unsigned = {
            "v": "1.0",
            "kind": "desired",
            "id": "x",
            "sent_at": 0,
            "body": {"key_id": "0", "signature": "", "payload": "{}"},
        }
        async with client:
            for payload in (b"\x00\xff", b"[]", b"{}", json.dumps(newer).encode(), json.dumps(unsigned).encode()):
                await client.publish("tideline/v1/default/edge-1/desired", payload, qos=1)
                await client.publish("tideline/v1/default/edge-1/command", payload, qos=1)
            # What stays retained is again what the fleet should run.
        await scene.change_policy(777)
        await scene.edges_answer()
        after = scene.platform.children_of_cloud()
        assert {name: before[name] for name in ("api", "loops")} == {name: after[name] for name in ("api", "loops")}

    scene.run(story())


def test_a_second_agent_on_the_same_folder_is_refused(scene):
    import os
    import sys

    async def story():
        environment = {
            **os.environ,
            "EDGE_AGENT_STATE_DIR": str(scene.folder / "edges" / "edge-1"),
            "EDGE_AGENT_PORT": "0",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge_agent", "run", env=environment, stderr=asyncio.subprocess.PIPE
        )
        _, said = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode not in (0, None)
        assert b"state_dir" in said
        assert b"in use" in said
        await scene.edges_answer()

    scene.run(story())
