"""A device whose models really compute, and somebody who asks it all the time."""

import asyncio
import hashlib
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import onnx
import structlog
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry

from shared.bundle.manifest import Chunk, File, Manifest, TaskKind, TensorSpec, Variant, canonical, digest_of
from shared.io.clock import SystemClock
from shared.serving.answer import Request
from shared.serving.engine import Engine
from shared.serving.metrics import EngineMetrics
from tests.edge_agent.control.device import Agent
from tests.edge_agent.control.device_api import device_api
from tests.edge_agent.control.generations import generation, ref, signed

PARTS = 4


def _sha(data):
    return hashlib.sha256(data).hexdigest()


def _program(factor):
    """y = factor * x, beside some bytes that make it worth fetching in parts."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [factor])
    ballast = helper.make_tensor("b", TensorProto.FLOAT, [20_000], np.random.default_rng(int(factor)).random(20_000))
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [weight, ballast]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _bundle(factor):
    """(digest of the manifest, all bytes by digest) of the version that multiplies by `factor`."""
    data = _program(float(factor))
    size = -(-len(data) // PARTS)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
    manifest = Manifest(
        name="times",
        version=f"{factor}.0.0",
        task=TaskKind.TENSOR,
        inputs=(spec,),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
        variants=(Variant(name="cpu-fp32", runtime="onnx", precision="fp32", files=("m.onnx",)),),
        files=(
            File(
                path="m.onnx",
                size=len(data),
                sha256=_sha(data),
                chunks=tuple(Chunk(_sha(each), len(each)) for each in pieces),
            ),
        ),
    )
    said = canonical(manifest)
    return digest_of(said), {digest_of(said): said, **{_sha(each): each for each in pieces}}


OLD, OLD_BYTES = _bundle(2)
NEW, NEW_BYTES = _bundle(3)
BYTES = OLD_BYTES | NEW_BYTES
ONE = generation(1, ref(OLD, "times", "2.0.0"))
TWO = generation(2, ref(NEW, "times", "3.0.0"))
CHUNKS = [digest for digest in NEW_BYTES if digest != NEW]


class Asker:
    """Asks without a pause; `heard` are the factors that were answered with, `count` how often."""

    def __init__(self, engine):
        self._engine = engine
        self.heard = set()
        self.count = 0
        self.more = asyncio.Event()

    async def run(self):
        x = np.array([1.0, 2.0], dtype=np.float32)
        while True:
            request = Request(id="r", tenant="default", model="times", tensors={"x": x})
            (result,) = (await self._engine.answer(request)).results
            first, second = result.outputs["y"]
            assert second == 2 * first
            self.heard.add(float(first))
            self.count += 1
            self.more.set()
            await asyncio.sleep(0)

    async def goes_on(self):
        """Wait for two more answers: the second was asked for after this was called."""
        for _ in range(2):
            self.more.clear()
            async with asyncio.timeout(20):
                await self.more.wait()


@asynccontextmanager
async def answering(folder):
    """(agent, api, asker): generation `ONE` is applied, and is asked."""
    async with device_api() as (api, http):
        api.bytes = dict(BYTES)
        engine = Engine(clock=SystemClock(), log=structlog.get_logger(), metrics=EngineMetrics(CollectorRegistry()))
        agent = Agent(folder, api, http, preferred="cpu-fp32", host=engine, parallel=1, draw=0.01)
        try:
            async with agent.running():
                await agent.converger.accept(signed(ONE))
                await agent.until(lambda report: report.applied == ONE.order and report.outcome == "committed")
                asker = Asker(engine)
                asking = asyncio.create_task(asker.run())
                await asker.goes_on()
                assert asker.heard == {2.0}
                try:
                    yield agent, api, asker
                finally:
                    asking.cancel()
                    await asyncio.wait({asking})
                    if not asking.cancelled():
                        asking.result()
        finally:
            await engine.close()


def played(folder: Path, work):
    """Run `work(agent, api, asker)`."""

    async def run():
        async with answering(folder) as (agent, api, asker):
            await work(agent, api, asker)

    with structlog.testing.capture_logs():
        asyncio.run(asyncio.wait_for(run(), 60))


def committed(of):
    return lambda report: report.applied == of.order and report.outcome == "committed"
