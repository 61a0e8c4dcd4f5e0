"""What a request costs beyond its computation, at concurrency 1: a 1x4 matmul over HTTP JSON.

Side by side in one run, five interleaved rounds: our edge agent, and an aiohttp handler that does nothing but decode the same
body, run the same session and encode the answer: the floor of this stack. The goal is the serving engine's
(p50 at most 1.6 times that handler).
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np
import onnx
from onnx import TensorProto, helper

from bench.result import Result

ROUNDS, REQUESTS, WARM = 5, 400, 100
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()
PORTS = {"edge": 18190, "floor": 18191}

FLOOR = """
import asyncio, json, sys, uvloop
import numpy as np, onnxruntime as ort
from aiohttp import web

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options)

async def infer(request):
    tensor = json.loads(await request.read())["inputs"][0]
    x = np.asarray(tensor["data"], np.float32).reshape(tensor["shape"])
    (y,) = session.run(None, {"x": x})
    output = {"name": "y", "shape": list(y.shape), "datatype": "FP32", "data": y.ravel().tolist()}
    return web.Response(body=json.dumps({"outputs": [output]}).encode(), content_type="application/json")

app = web.Application()
app.router.add_post("/v2/models/matmul/infer", infer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None, loop=uvloop.new_event_loop(), access_log=None)
"""


def write_matmul(path: Path) -> None:
    """A program of one 4x4 matmul."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.eye(4, dtype=np.float32).ravel())
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "matmul", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)


async def one(session: aiohttp.ClientSession, port: int) -> float:
    """One request, in microseconds."""
    began = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    async with session.post(f"http://127.0.0.1:{port}/v2/models/matmul/infer", data=BODY, headers=headers) as answer:
        await answer.read()
        if answer.status != 200:
            raise RuntimeError(f"port {port} answered {answer.status}")
    return (time.perf_counter() - began) * 1e6


async def measure() -> dict[str, list[list[float]]]:
    """Latencies of each round by server, rounds interleaved."""
    found: dict[str, list[list[float]]] = {name: [] for name in PORTS}
    async with aiohttp.ClientSession() as session:
        for port in PORTS.values():
            await _until_up(session, port)
            for _ in range(WARM):
                await one(session, port)
        for _ in range(ROUNDS):
            for name, port in PORTS.items():
                found[name].append([await one(session, port) for _ in range(REQUESTS)])
    return found


async def _until_up(session: aiohttp.ClientSession, port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            await one(session, port)
        except (aiohttp.ClientError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def run() -> Result:
    """Start both, measure, stop both."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "matmul.onnx"
        write_matmul(model)
        edge = [sys.executable, "-m", "edge_agent", "serve", str(model), "--port", str(PORTS["edge"])]
        floor = [sys.executable, "-c", FLOOR, str(model), str(PORTS["floor"])]
        servers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in (edge, floor)]
        try:
            found = asyncio.run(measure())
        finally:
            for server in servers:
                server.terminate()
                server.wait()
    p50 = {name: [statistics.median(round_) for round_ in rounds] for name, rounds in found.items()}
    ratios = [a / b for a, b in zip(p50["edge"], p50["floor"], strict=True)]
    p99 = {name: np.quantile(np.concatenate(rounds), 0.99) for name, rounds in found.items()}
    metrics = {
        "edge_p50_us": statistics.median(p50["edge"]),
        "edge_p99_us": float(p99["edge"]),
        "floor_p50_us": statistics.median(p50["floor"]),
        "floor_p99_us": float(p99["floor"]),
        "p50_ratio": statistics.median(ratios),
        "p50_ratio_least": min(ratios),
        "p50_ratio_most": max(ratios),
    }
    return Result(name="overhead", metrics=metrics, goals={"p50_ratio": ("<=", 1.6)})
