"""The child of `test_memory_limit`: joins a control group, then serves more models than fit, and tells what it saw as JSON.

Arguments: the group's `cgroup.procs` or `-`, the folder of models, how many there are, their width, and `bounded` or `unbounded`.
"""

import asyncio
import json
import os
import random
import sys
from pathlib import Path

CLIENTS, EACH = 8, 30


def main() -> None:
    procs, folder, count, width, how = sys.argv[1:]
    if procs != "-":
        # Before anything is imported: all that this process ever takes is counted.
        Path(procs).write_text(str(os.getpid()), encoding="ascii")
    print(json.dumps(asyncio.run(serve(Path(folder), int(count), int(width), bounded=how == "bounded"))))


async def serve(folder: Path, count: int, width: int, *, bounded: bool) -> dict[str, object]:
    import numpy as np
    import structlog
    from prometheus_client import CollectorRegistry

    from shared.bundle.manifest import File, Manifest, TaskKind, TensorSpec, Variant
    from shared.io.clock import SystemClock
    from shared.io.memory import Heap, memory_limit
    from shared.serving.answer import Request
    from shared.serving.decide.footprint import allowance
    from shared.serving.engine import Engine
    from shared.serving.memory.room import Room
    from shared.serving.metrics import EngineMetrics
    from shared.serving.sessions.onnx import OnnxSession

    wrong: list[str] = []

    class Watched(OnnxSession):
        """Says so if it is closed while it runs, or runs once it is closed."""

        running = 0

        def run(self, feeds):
            self.running += 1
            try:
                return super().run(feeds)
            finally:
                self.running -= 1

        def close(self):
            if self.running:
                wrong.append("closed in use")
            super().close()

    heap, clock, log = Heap(), SystemClock(), structlog.wrap_logger(structlog.ReturnLogger())
    limit = memory_limit()
    allowed = allowance(limit, heap.resident())
    metrics = EngineMetrics(CollectorRegistry())
    room = Room(clock=clock, log=log, metrics=metrics.residency, heap=heap, budget=allowed.budget if bounded else None)
    engine = Engine(
        clock=clock,
        log=log,
        metrics=metrics,
        room=room,
        sessions=lambda path, variant, arrangement: Watched(path, threads=1),
    )
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, width))
    most = answers = 0
    for i in range(count):
        name = f"m{i}.onnx"
        file = File(path=name, size=(folder / name).stat().st_size, sha256="0" * 64, chunks=())
        variant = Variant(name="cpu", runtime="onnx", precision="fp32", files=(name,))
        manifest = Manifest(
            name=f"m{i}", version="1.0.0", task=TaskKind.TENSOR, variants=(variant,), files=(file,), inputs=(spec,)
        )
        await engine.load("default", manifest, "d" * 64, folder, "cpu")

    async def client(seed: int) -> None:
        nonlocal most, answers
        draw = random.Random(seed)
        for _ in range(EACH):
            i = draw.randrange(count)
            x = np.zeros((1, width), np.float32)
            x[0, : draw.randrange(1, 9)] = 1.0
            request = Request(id="r", tenant="default", model=f"m{i}", version="1.0.0", tensors={"x": x})
            response = await engine.answer(request)
            (result,) = response.results
            # Every weight of model i is i + 1.
            if not np.array_equal(result.outputs["y"], np.full((1, width), x.sum() * (i + 1), np.float32)):
                wrong.append(f"m{i} answered {result.outputs['y'][0, :3]}")
            answers += 1
            most = max(most, heap.resident())

    async with asyncio.TaskGroup() as group:
        for seed in range(CLIENTS):
            group.create_task(client(seed))
    story = room.story()["versions"]
    told = {
        "limit": limit,
        "budget": allowed.budget,
        "most_resident": most,
        "answers": answers,
        "wrong": wrong,
        "evictions": sum(each["evictions"] for each in story),
        "loads": sum(each["loads"] for each in story),
    }
    await engine.close()
    heap.trim()
    return told | {"left": heap.resident(), "base": room.base}


if __name__ == "__main__":
    main()
