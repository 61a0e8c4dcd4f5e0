"""Several lanes over one program, runs on the loop's own thread, and runs that would never end."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shared.bundle.manifest import Manifest, TaskKind, TensorSpec, Variant
from shared.io.clock import SystemClock
from shared.protocol.errors import Corrupt, Transient, Unavailable
from shared.serving.answer import Request
from shared.serving.arrangement import Arrangement
from shared.serving.decide.cost import Cost
from shared.serving.lanes.inline import LEARNT
from shared.serving.sessions.scripted import ScriptedSession
from tests.shared.serving.bundles import TENANT, engine
from tests.shared.serving.echo import INPUTS, ask, load, manifest_for, piece_of, scripted

TWO = Arrangement(lanes=2)


def looping(folder: Path) -> Manifest:
    """y = x after `n` rounds of a loop that adds nothing: a run as long as its caller says."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["carried", "zero"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["k"]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["k"]),
        ],
        [helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "looping",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["k"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["k"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "m.onnx")
    return Manifest(
        name="looping",
        version="1.0.0",
        task=TaskKind.TENSOR,
        variants=(Variant(name="cpu", runtime="onnx", precision="fp32", files=("m.onnx",)),),
        files=(),
        inputs=(
            TensorSpec(name="n", datatype="INT64", shape=()),
            TensorSpec(name="x", datatype="FP32", shape=(-1,)),
        ),
    )


def rounds(n: int, **fields) -> Request:
    tensors = {"n": np.array(n, np.int64), "x": np.array([1, 2], np.float32)}
    return Request(
        **({"id": "r", "tenant": TENANT, "model": "looping", "version": "1.0.0", "tensors": tensors} | fields)
    )


@pytest.mark.parametrize("arrangement", [Arrangement(), TWO])
def test_a_run_that_would_never_end_is_ended_at_its_deadline_and_its_lane_computes_on(tmp_path, arrangement):
    async def main():
        async with engine() as made:
            await load(made, tmp_path, looping(tmp_path), arrangement=arrangement)
            for _ in range(3):
                with pytest.raises(Transient) as caught:
                    await made.answer(rounds(10**15, deadline=SystemClock().monotonic() + 0.2))
                assert caught.value.why is Unavailable.DEADLINE
            async with asyncio.timeout(20):
                response = await made.answer(rounds(1))
            assert response.results[0].outputs["y"].tolist() == [1, 2]

    asyncio.run(main())


def test_a_run_whose_caller_went_away_is_ended(tmp_path):
    async def main():
        async with engine() as made:
            await load(made, tmp_path, looping(tmp_path))
            gone = asyncio.create_task(made.answer(rounds(10**15)))
            while made.load_of(TENANT, "looping", "1.0.0").running == 0:
                await asyncio.sleep(0)
            gone.cancel()
            async with asyncio.timeout(20):
                await made.answer(rounds(1))

    asyncio.run(main())


def test_two_lanes_compute_at_once():
    async def main():
        together = threading.Barrier(2)

        def script(feeds):
            together.wait(20)
            return piece_of(".", feeds)

        async with scripted(ScriptedSession(script, inputs=INPUTS)) as made:
            await load(made, Path(), manifest_for(), arrangement=TWO)
            # Each of the two runs ends only when the other has begun.
            answers = await asyncio.gather(made.answer(ask("gen", "a")), made.answer(ask("gen", "b")))
            assert [answer.results[0].text for answer in answers] == [".", "."]

    asyncio.run(main())


def learnt(made, seconds: float) -> None:
    (model,) = made._models.values()
    model.program.inline.cost = Cost(fixed=seconds, observations=LEARNT, mean=seconds, mean_tokens=1.0)


def test_a_run_shorter_than_the_way_to_a_lane_is_made_on_the_loop_and_counted():
    async def main():
        threads = []

        def script(feeds):
            threads.append(threading.get_ident())
            return piece_of(".", feeds)

        async with scripted(ScriptedSession(script, inputs=INPUTS)) as made:
            await load(made, Path(), manifest_for())
            await made.answer(ask("gen", "a"))
            learnt(made, 10e-6)
            assert (await made.answer(ask("gen", "b"))).results[0].text == "."
            learnt(made, 60e-6)
            await made.answer(ask("gen", "c"))
            here = threading.get_ident()
            assert [thread == here for thread in threads] == [False, True, False]
            counted = made.statistics(TENANT, "gen", "1.0.0")
            assert (counted.inferences, counted.executions, counted.success.count) == (3, 3, 3)

    asyncio.run(main())


def test_nothing_is_made_on_the_loop_while_something_else_waits_or_runs():
    async def main():
        gate = threading.Event()
        session = ScriptedSession(lambda feeds: piece_of(".", feeds), inputs=INPUTS, gate=gate)
        async with scripted(session) as made:
            await load(made, Path(), manifest_for())
            first = asyncio.create_task(made.answer(ask("gen", "a")))
            await asyncio.to_thread(session.started.wait, 20)
            learnt(made, 10e-6)
            # On the loop it would wait for the gate for ever.
            second = asyncio.create_task(made.answer(ask("gen", "b")))
            while made.load_of(TENANT, "gen", "1.0.0").queued == 0:
                await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(first, second)

    asyncio.run(main())


def test_what_fails_on_the_loop_is_the_program_s_fault_and_later_ones_are_answered():
    async def main():
        def script(feeds):
            if "bad" in feeds["texts"]:
                raise ValueError("boom")
            return piece_of(".", feeds)

        async with scripted(ScriptedSession(script, inputs=INPUTS)) as made:
            await load(made, Path(), manifest_for())
            learnt(made, 10e-6)
            with pytest.raises(Corrupt, match="boom"):
                await made.answer(ask("gen", "bad"))
            assert (await made.answer(ask("gen", "a"))).results[0].text == "."
            assert made.load_of(TENANT, "gen", "1.0.0").queued == 0

    asyncio.run(main())
