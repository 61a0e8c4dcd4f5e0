"""What a request costs beyond its computation, at concurrency 1.

Five interleaved rounds of a few hundred milliseconds each, one client on a bare protocol (`bench.client`), all servers idle but one:

* a 1x4 matmul (a few microseconds): our edge agent over HTTP with JSON, with binary tensors (the protocol's binary extension), and
  both over a Unix socket; against an aiohttp handler that decodes the same JSON, runs the same session and encodes the answer
  (`bench.floor`). Goals: p50 with JSON at most 1.6 times that handler's; binary and Unix socket below JSON over TCP. `edge_asleep` is
  an agent that never waits awake (`busy_poll_us`), as the handler never does: the ratio of instructions, without that of waking.
* a model of about 2 ms, its depth chosen on this machine, with inputs as small: our agent against `session.run` alone (one thread, no
  spinning, as the agent runs it) in a process that does nothing else. Goal: at most 300 us added at p50, transport and client
  included. What the bare handler adds is told beside it.

Ratios and differences are taken within a round.
"""

import json
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bench import inprocess, rounds
from bench.client import Load, measure, request
from bench.findings import Findings
from bench.inprocess import Cell
from bench.result import Result
from bench.servers import edge_agent, edge_arguments, started
from shared.io.free_ports import find_ports

REQUESTS = 2000
WIDE, DEEP = 512, 32
TARGET_MS = 2.0
ASLEEP = {"EDGE_AGENT_BUSY_POLL_US": "0"}
TENSOR: dict[str, object] = {"name": "x", "shape": [1, 4], "datatype": "FP32"}
JSON_BODY = json.dumps({"inputs": [{**TENSOR, "data": [1, 2, 3, 4]}]}).encode()


def write_matmul(path: Path) -> None:
    """A program of one 4x4 matmul."""
    _write(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.eye(4, dtype=np.float32)})


def write_steps(path: Path, steps: int) -> None:
    """A program as small outside, whose time is `steps` products of [32, 512] and [512, 512] matrices for each row."""
    drawn = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {
        "into": drawn.standard_normal((4, WIDE), np.float32),
        "spread": drawn.standard_normal((DEEP, WIDE), np.float32),
        "out": drawn.standard_normal((WIDE, 4), np.float32),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "into"], ["a"]),
        helper.make_node("Unsqueeze", ["a", "axis"], ["b"]),
        helper.make_node("Add", ["b", "spread"], ["h0"]),
    ]
    for i in range(steps):
        constants[f"w{i}"] = drawn.standard_normal((WIDE, WIDE), np.float32) / np.float32(WIDE**0.5)
        nodes += [
            helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"p{i}"]),
            helper.make_node("Tanh", [f"p{i}"], [f"h{i + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", [f"h{steps}"], ["m"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["m", "out"], ["y"]),
    ]
    _write(path, nodes, constants)


def _write(path: Path, nodes: list[NodeProto], constants: Mapping[str, np.ndarray]) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, [x], [y], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def _steps_for(folder: Path, wanted_ms: float) -> int:
    """How many steps take `wanted_ms` on this machine."""
    path = folder / "probe.onnx"
    write_steps(path, 4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    x = np.ones((1, 4), np.float32)
    taken = []
    for _ in range(60):
        began = time.perf_counter()
        session.run(None, {"x": x})
        taken.append((time.perf_counter() - began) * 1e3)
    path.unlink()
    return max(1, round(4 * wanted_ms / statistics.median(taken[10:])))


def _binary(path: str) -> bytes:
    """The same tensor as raw bytes behind a JSON header, asking for the same back."""
    header = {
        "inputs": [{**TENSOR, "parameters": {"binary_data_size": 16}}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(header, separators=(",", ":")).encode()
    body = head + struct.pack("<4f", 1, 2, 3, 4)
    said = {"Inference-Header-Content-Length": str(len(head))}
    return request(path, body, headers=said, kind="application/octet-stream")


def run() -> Result:
    """Start both servers, measure in turns, stop them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, middle = folder / "matmul.onnx", folder / "middle.onnx"
        write_matmul(small)
        write_steps(middle, _steps_for(folder, TARGET_MS))
        edge, floor, asleep = (port := find_ports("127.0.0.1", 3)), port + 1, port + 2
        socket = str(folder / "edge.sock")
        at_small, at_middle = "/v2/models/matmul/infer", "/v2/models/middle/infer"
        plain, binary, long = request(at_small, JSON_BODY), _binary(at_small), request(at_middle, JSON_BODY)
        serving = [sys.executable, "-m", "bench.floor", str(floor), str(small), str(middle)]
        with (
            started(edge_agent([small, middle], port=edge, uds=socket), port=edge, first=long),
            started(serving, port=floor, first=long),
            started(edge_agent([small], port=asleep), port=asleep, first=plain, environment=ASLEEP),
        ):
            loads = {
                "floor_json": Load(requests=(plain,), port=floor),
                "edge_json": Load(requests=(plain,), port=edge),
                "edge_asleep": Load(requests=(plain,), port=asleep),
                "edge_binary": Load(requests=(binary,), port=edge),
                "edge_uds": Load(requests=(plain,), uds=socket),
                "edge_uds_binary": Load(requests=(binary,), uds=socket),
                "floor_middle": Load(requests=(long,), port=floor),
                "edge_middle": Load(requests=(long,), port=edge),
            }
            bare = {"bare": small, "bare_middle": middle}
            p99: dict[str, list[float]] = {name: [] for name in loads}

            def one(name: str) -> float:
                """The p50 of one contestant, in microseconds."""
                seconds = rounds.seconds(3.0)
                if name in bare:
                    cell = Cell(program=str(bare[name]), inputs=(("x", (4,)),), seconds=rounds.seconds(1.0))
                    return inprocess.measure(cell).p50 * 1e3
                found = measure(_bounded(loads[name], seconds))
                if found.errors:
                    raise RuntimeError(f"{name} answered with errors: {found.errors}")
                p99[name].append(found.p99 * 1e3)
                return found.p50 * 1e3

            p50 = rounds.interleaved([*loads, *bare], one)
    return _result(p50, p99)


def _bounded(load: Load, seconds: float) -> Load:
    return msgspec.structs.replace(load, seconds=seconds, count=REQUESTS, warm=min(0.3, seconds))


def _result(p50: dict[str, list[float]], p99: dict[str, list[float]]) -> Result:
    findings = Findings()
    findings.notes.append(f"the agent's flags: {edge_arguments() or 'none'}")
    for name, values in p50.items():
        findings.figure(f"{name}_p50_us", values)
    for name, values in p99.items():
        findings.figure(f"{name}_p99_us", values)
    findings.ratio("p50_ratio", p50["edge_json"], p50["floor_json"], goal=("<=", 1.6))
    findings.ratio("asleep_ratio", p50["edge_asleep"], p50["floor_json"])
    findings.ratio("binary_to_json", p50["edge_binary"], p50["edge_json"], goal=("<", 1.0))
    findings.ratio("uds_to_json", p50["edge_uds"], p50["edge_json"], goal=("<", 1.0))
    findings.ratio("uds_binary_to_json", p50["edge_uds_binary"], p50["edge_json"])
    added = {
        server: statistics.median(a - b for a, b in zip(p50[f"{server}_middle"], p50["bare_middle"], strict=True))
        for server in ("edge", "floor")
    }
    findings.metrics |= {"edge_added_us": added["edge"], "floor_added_us": added["floor"]}
    findings.goals["edge_added_us"] = ("<=", 300.0)
    return findings.result("overhead")
