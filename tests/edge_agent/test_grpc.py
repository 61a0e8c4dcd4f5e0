"""`edge-agent` over gRPC, as a real process: an unmodified client, its own port, and life without it."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.cloud_core.waiting import wait_for
from tests.edge_agent.test_agent import INPUT, program, run_once, running


def given() -> Any:
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[1.0, 2.0]], dtype=np.float32))
    return tensor


def test_an_agent_answers_over_grpc_as_over_http(tmp_path: Path) -> None:
    double = str(program(tmp_path / "double.onnx"))
    with running("serve", double, "--port", "0", "--grpc-port", "0", folder=tmp_path) as agent:
        port = agent.ask("GET", "/health")[2]["grpc"]["port"]
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert client.is_server_ready()
            assert client.is_model_ready("double", "1.0.0")
            result = client.infer("double", [given()], headers={"x-request-id": "g-1"})
            assert result.as_numpy("y").tolist() == [[2.0, 4.0]]
            assert result.get_response().parameters["why"].string_param == "local-meets-deadline"
            # Routed like any other request: the device's story has it.
            _, _, story = agent.ask("GET", "/v1/why/g-1")
            assert (story["where"], story["outcome"]) == ("local", "ok")
            with pytest.raises(InferenceServerException) as caught:
                client.infer("other", [given()])
            assert caught.value.status() == "StatusCode.NOT_FOUND"
            client.start_stream(lambda result, error: None)
            # A stream that stays open does not keep the agent from ending in order.
            assert agent.end() == 0
        assert "requests were cut off" not in agent.said
        assert "Traceback" not in agent.said
        assert '"warning"' not in agent.said


def test_calls_in_flight_are_answered_before_it_ends(tmp_path: Path) -> None:
    slow = str(program(tmp_path / "slow.onnx", loops=60))
    with running("serve", slow, "--port", "0", folder=tmp_path) as agent:
        port, answers = agent.ask("GET", "/health")[2]["grpc"]["port"], list[Any]()

        def ask() -> None:
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
                answer = client.infer("slow", [given()], headers={"x-tideline-deadline-ms": "60000"})
                answers.append(answer.as_numpy("y").tolist())

        def taken() -> bool:
            metrics = agent.ask("GET", "/metrics/json")[2]
            asked = [*metrics["tideline_queue_depth"]["samples"], *metrics["tideline_requests"]["samples"]]
            return sum(sample["value"] for sample in asked if not sample["name"].endswith("_created")) >= 2

        callers = [threading.Thread(target=ask) for _ in range(3)]
        for caller in callers:
            caller.start()
        wait_for(taken)
        assert agent.end() == 0
        for caller in callers:
            caller.join(30)
        assert answers == [[[2.0, 4.0]]] * 3
        assert "cut off" not in agent.said


def test_an_agent_without_grpc(tmp_path: Path) -> None:
    double = str(program(tmp_path / "double.onnx"))
    with running("serve", double, "--port", "0", "--grpc-port", "-1", folder=tmp_path) as agent:
        assert agent.ask("GET", "/health")[2]["grpc"] == {"off": "switched off"}
        assert "no gRPC" not in agent.said
    # The packages are an extra. Here they cannot be imported, as where nobody installed them.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['grpc'] = None\n")
    with running("serve", double, "--port", "0", folder=tmp_path, PYTHONPATH=str(tmp_path)) as agent:
        assert agent.ask("POST", "/v2/models/double/infer", INPUT)[0] == 200
        assert "tideline[grpc] is not installed" in agent.ask("GET", "/health")[2]["grpc"]["off"]
        assert agent.said.count("no gRPC") == 1
        assert agent.end() == 0


def test_a_grpc_port_that_is_taken_ends_it_with_one_line(tmp_path: Path) -> None:
    double = str(program(tmp_path / "double.onnx"))
    with running("serve", double, "--port", "0", folder=tmp_path) as agent:
        port = str(agent.ask("GET", "/health")[2]["grpc"]["port"])
        code, _, said = run_once("serve", double, "--port", "0", "--grpc-port", port, folder=tmp_path)
        assert code == 1
        assert f"in use; field grpc_port; got '127.0.0.1:{port}'" in said.splitlines()[-1]
