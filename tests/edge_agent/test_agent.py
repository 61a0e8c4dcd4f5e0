"""`edge-agent` as a real process."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from edge_agent.cli import cli
from edge_agent.control.identity import load_identity
from tests.cloud_core.waiting import wait_for

INPUT = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}


def program(path: Path, *, loops: int = 1) -> Path:
    """y = 2x; with more loops, some work on the way."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    big = [helper.make_node("Add", ["x", "x"], ["y"])]
    if loops > 1:
        weight = helper.make_tensor("w", TensorProto.FLOAT, [900, 900], [0.001] * 810_000)
        shape = helper.make_tensor("s", TensorProto.INT64, [2], [900, 900])
        zero = helper.make_tensor("z", TensorProto.FLOAT, [1, 2], [0.0, 0.0])
        big = [
            helper.make_node("ReduceMean", ["x"], ["m0"], keepdims=1),
            helper.make_node("Expand", ["m0", "s"], ["a0"]),
        ]
        big += [helper.make_node("MatMul", [f"a{i}", "w"], [f"a{i + 1}"]) for i in range(loops)]
        big += [
            helper.make_node("ReduceMean", [f"a{loops}"], ["m"], keepdims=1),
            helper.make_node("Mul", ["m", "z"], ["none"]),
            helper.make_node("Add", ["x", "x"], ["xx"]),
            helper.make_node("Add", ["xx", "none"], ["y"]),
        ]
        graph = helper.make_graph(big, "g", [x], [y], [weight, shape, zero])
    else:
        graph = helper.make_graph(big, "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


class Agent:
    def __init__(self, *arguments: str, folder: Path, **environment: str) -> None:
        self.log = folder / f"agent-{time.monotonic_ns()}.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_AGENT_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_agent", *arguments], stdout=log, stderr=log, env=clean | environment
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def port(self) -> int:
        def listening() -> int | None:
            assert self.process.poll() is None, self.said
            found = re.search(r'"port": (\d+)', self.said)
            return int(found.group(1)) if found else None

        return int(wait_for(listening, within=60) or 0)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, Any], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        return exchange(connection, method, path, body, headers)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: object, headers: dict[str, str]
) -> tuple[int, dict[str, Any], Any]:
    data = None if body is None else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    raw = answer.read()
    connection.close()
    document = json.loads(raw) if "json" in answer.headers.get("Content-Type", "") else raw.decode()
    return answer.status, dict(answer.headers), document


@contextlib.contextmanager
def running(*arguments: str, folder: Path, **environment: str) -> Iterator[Agent]:
    agent = Agent(*arguments, folder=folder, **environment)
    try:
        yield agent
    finally:
        agent.process.kill()
        agent.process.wait()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def run_once(*arguments: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_AGENT_")}
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=clean | environment,
        cwd=folder,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_plain_onnx_is_served_over_tcp_and_a_unix_socket_and_ends_cleanly(tmp_path: Path) -> None:
    uds = tmp_path / "agent.sock"
    with running(
        "serve", str(program(tmp_path / "double.onnx")), "--port", "0", "--uds", str(uds), folder=tmp_path
    ) as agent:
        status, headers, answer = agent.ask("POST", "/v2/models/double/infer", INPUT, **{"X-Request-Id": "r-1"})
        assert status == 200, answer
        assert answer["outputs"][0]["data"] == [2.0, 4.0]
        assert headers["X-Tideline-Where"] == "local"
        assert headers["X-Tideline-Why"] == "local-meets-deadline"
        assert headers["X-Tideline-Model"].startswith("double@1.0.0/")
        status, _, story = agent.ask("GET", "/v1/why/r-1")
        assert (status, story["where"], story["outcome"]) == (200, "local", "ok")
        status, _, problem = agent.ask("GET", "/v1/why/never")
        assert (status, problem["code"]) == (404, "not-found")
        status, _, answer = exchange(UnixConnection(uds), "POST", "/v2/models/double/infer", INPUT, {})
        assert (status, answer["outputs"][0]["data"]) == (200, [2.0, 4.0])
        assert agent.ask("GET", "/ready")[0] == 200
        assert agent.ask("GET", "/v2/models/other")[0] == 404
        _, _, metrics = agent.ask("GET", "/metrics")
        for name in (
            'tideline_route_total{reason="local-meets-deadline",where="local"} 2.0',
            'tideline_requests_total{model="double",outcome="ok",version="1.0.0",where="local"} 2.0',
            'tideline_breaker_state{state="closed"} 1.0',
            "tideline_process_memory_bytes",
            "tideline_process_cpu_seconds_total",
        ):
            assert name in metrics
        code, out, _ = run_once("status", "--url", f"http://127.0.0.1:{agent.port}", "--json", folder=tmp_path)
        assert (code, json.loads(out)["running"], json.loads(out)["ready"]) == (0, True, True)
        assert json.loads(out)["isolation"] in ("namespace", "seccomp", "none")
        _, lines, _ = run_once("status", "--url", f"http://127.0.0.1:{agent.port}", folder=tmp_path)
        assert re.search(r"^isolation  \w+ while models are tried$", lines, re.MULTILINE)
        assert agent.end() == 0
        assert '"stopped"' in agent.said
        assert "Traceback" not in agent.said


def test_requests_in_flight_are_answered_before_it_ends(tmp_path: Path) -> None:
    path = program(tmp_path / "slow.onnx", loops=60)
    with running("serve", str(path), "--port", "0", folder=tmp_path) as agent:
        port, answers = agent.port, list[int]()
        began = threading.Event()

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            body = json.dumps(INPUT).encode()
            headers = {"Content-Type": "application/json", "X-Tideline-Deadline-Ms": "60000"}
            connection.request("POST", "/v2/models/slow/infer", body, headers)
            began.set()
            answers.append(connection.getresponse().status)
            connection.close()

        callers = [threading.Thread(target=ask) for _ in range(3)]
        for caller in callers:
            caller.start()
        began.wait(10)

        def taken() -> bool:
            _, _, metrics = agent.ask("GET", "/metrics/json")
            depth = metrics["tideline_queue_depth"]["samples"][0]["value"]
            done = sum(
                sample["value"]
                for sample in metrics["tideline_requests"]["samples"]
                if sample["name"].endswith("_total")
            )
            return bool(depth + done >= 2)

        wait_for(taken)
        assert agent.end() == 0
        for caller in callers:
            caller.join(30)
        assert answers == [200, 200, 200]
        assert "cut off" not in agent.said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("serve", "nothing.onnx", "--port", "0"), 1, "nothing that can be served"),
        (("serve",), 2, "Missing argument"),
        (("run", "--state-dir", "s", "--port", "0"), 2, "enrol_url"),
        (("run", "--port", "70000"), 2, "port"),
        (("status", "--state-dir", "nowhere"), 1, "no agent ever ran here"),
        (("infer", "m", "text", "--url", "http://127.0.0.1:1"), 4, "no agent answers"),
        (
            ("enrol", "--enrol-url", "http://127.0.0.1:1", "--enrol-token", "t", "--state-dir", "s"),
            4,
            "cannot be reached",
        ),
    ],
)
def test_what_cannot_be_done_ends_with_a_line_and_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner(env={"COLUMNS": "300"}).invoke(cli, arguments)
    assert done.exit_code == code, done.output
    assert words in done.output


def test_one_agent_per_folder_and_one_line_for_the_second(tmp_path: Path) -> None:
    state = tmp_path / "state"
    arguments = (
        "run",
        "--state-dir",
        str(state),
        "--port",
        "0",
        "--enrol-url",
        "http://127.0.0.1:1",
        "--enrol-token",
        "t",
    )
    with running(*arguments, folder=tmp_path) as agent:
        # Not enrolled and its cloud out of reach: it runs all the same, and says that it is not ready.
        assert agent.ask("GET", "/live")[0] == 200
        assert agent.ask("GET", "/ready")[0] == 503
        status, _, said = run_once(*arguments, folder=tmp_path)
        assert status == 1
        (line,) = said.strip().splitlines()
        assert line.startswith(f"edge-agent: the folder is in use by process {agent.process.pid}; field state_dir; ")
        code, out, _ = run_once("status", "--state-dir", str(state), "--json", folder=tmp_path)
        told = json.loads(out)
        assert (code, told["running"], told["link"]["enrolled"]) == (0, True, False)
        identity = load_identity(state)
        assert identity is not None
        assert identity.enrolment is None
        assert agent.end() == 0
    code, out, _ = run_once("status", "--state-dir", str(state), folder=tmp_path)
    assert code == 0
    assert "not running" in out


def test_a_killed_agent_leaves_a_folder_the_next_one_takes(tmp_path: Path) -> None:
    state = tmp_path / "state"
    arguments = (
        "run",
        "--state-dir",
        str(state),
        "--port",
        "0",
        "--enrol-url",
        "http://127.0.0.1:1",
        "--enrol-token",
        "t",
    )
    for _ in range(2):
        with running(*arguments, folder=tmp_path) as agent:
            assert agent.ask("GET", "/live")[0] == 200
            agent.end(signal.SIGKILL)


def test_a_record_of_a_port_nobody_listens_on_is_no_agent(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "agent.json").write_text('{"pid": 1, "url": "http://127.0.0.1:1"}')
    code, out, _ = run_once("status", "--state-dir", str(state), "--json", folder=tmp_path)
    assert (code, json.loads(out)["running"]) == (0, False)
