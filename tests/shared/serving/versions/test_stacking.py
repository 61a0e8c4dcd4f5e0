"""Requests of tensors computed together: only where each row is computed for itself, and then with the same answers."""

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.bundle.manifest import TensorSpec
from shared.io.clock import SystemClock
from shared.serving.arrangement import OPENVINO, Arrangement
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.sessions.open import open_session
from shared.serving.tasks.tensor import MOST_ROWS, TensorTask
from shared.serving.versions.plain_onnx import tried_onnx
from shared.serving.versions.stacking import mixing
from tests.shared.serving.bundles import TENANT, engine, until
from tests.shared.serving.in_process import try_in_process
from tests.shared.serving.row_programs import APART, FLOAT, MEAN, MIXED, PRODUCT, WEIGHTS, X, Y, program


def found(path, known=()):
    session = OnnxSession(path, threads=1)
    session.load()

    async def run(feeds):
        return session.run(feeds)

    return asyncio.run(mixing(run, session.inputs, session.outputs, known))


@pytest.mark.parametrize("name", APART)
def test_programs_that_compute_each_row_for_itself(tmp_path, name):
    nodes, inputs, outputs, constants = APART[name]
    assert found(program(tmp_path / "m.onnx", nodes, inputs, outputs, **constants)) == ""


@pytest.mark.parametrize("name", MIXED)
def test_programs_that_do_not_are_found_out(tmp_path, name):
    nodes, inputs, outputs, constants = MIXED[name]
    assert found(program(tmp_path / "m.onnx", nodes, inputs, outputs, **constants)) != ""


def test_what_only_the_golden_set_shows_is_found_too(tmp_path):
    """Rows are mixed where a number is above 1000, which nothing made up is."""
    nodes = [
        PRODUCT,
        ("ReduceMax", ["x"], ["most"], {"keepdims": 0}),
        ("Greater", ["most", "limit"], ["large"]),
        MEAN,
        ("Where", ["large", "m", "none"], ["less"]),
        ("Sub", ["p", "less"], ["y"]),
    ]
    constants = {"w": WEIGHTS, "limit": np.float32(1000), "none": np.zeros((1, 4), np.float32)}
    path = program(tmp_path / "m.onnx", nodes, X, Y, **constants)
    small, large = (
        [{"x": np.random.default_rng(i).normal(size=(1 + i, 6)).astype(np.float32) * size} for i in range(2)]
        for size in (1, 10_000)
    )
    assert found(path, small) == ""
    assert "differs" in found(path, large)


class Gated:
    """Sessions whose runs wait while `gate` is closed; `rows` of every run that began, in order."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.rows: list[int] = []

    def open(self, path, variant, arrangement):
        session = open_session(path, variant, arrangement)
        run = session.run

        def waiting(feeds):
            self.rows.append(len(next(iter(feeds.values()))))
            assert self.gate.wait(30)
            return run(feeds)

        session.run = waiting
        session.sibling = lambda: session
        return session


async def computed(path, feeds, *, arrangement=None):
    """Outputs of each request alone, of all of them at once behind one that is running, and the rows of those runs."""
    gated = Gated()
    async with engine(sessions=gated.open) as made:
        manifest = await tried_onnx(path, trial=try_in_process)
        arrangement = arrangement or Arrangement()
        model = await made.load(TENANT, manifest, "a" * 64, path.parent, "cpu", arrangement=arrangement)

        async def answer(each):
            # Behind the entrance, which might refuse what comes all at once.
            (result,) = await model._computed((each,))
            return result.outputs

        alone = [await answer(each) for each in feeds]
        gated.rows.clear()
        gated.gate.clear()
        first = asyncio.create_task(answer(feeds[0]))
        await until(lambda: gated.rows)
        others = [asyncio.create_task(answer(each)) for each in feeds[1:]]
        await until(lambda: model.queue.depth == len(others))
        gated.gate.set()
        together = await asyncio.gather(first, *others)
        return alone, together, gated.rows, made.models(TENANT)[0]


def numbers(*shapes):
    draw = np.random.default_rng(0)
    return [{"x": draw.normal(size=shape).astype(np.float32)} for shape in shapes]


@pytest.mark.parametrize("runtime", ["onnxruntime", OPENVINO])
def test_requests_that_wait_together_are_one_run_and_each_gets_its_own_rows(tmp_path, runtime):
    nodes, inputs, outputs, constants = APART["softmax of a row"]
    path = program(tmp_path / "m.onnx", nodes, inputs, outputs, **constants)
    given = numbers(*((rows, 6) for rows in (1, 3, 2, 1, 40, 1, MOST_ROWS + 1, 20)))
    alone, together, rows, listed = asyncio.run(computed(path, given, arrangement=Arrangement(runtime=runtime)))
    assert listed.max_batch_size == 32
    # The one that ran; those that fit into 32 rows; and one by one what has more, or whom there was no room for.
    assert rows[:2] == [1, 27]
    assert sorted(rows[2:]) == [40, MOST_ROWS + 1] or sorted(rows[2:]) == [1, 40, MOST_ROWS + 1]
    for each, one, other in zip(given, alone, together, strict=True):
        assert other["y"].shape == (len(each["x"]), 4)
        np.testing.assert_allclose(one["y"], other["y"], rtol=0, atol=1e-6)


def test_only_requests_of_one_shape_share_a_run(tmp_path):
    nodes, inputs, outputs, _ = APART["any width"]
    path = program(tmp_path / "m.onnx", nodes, inputs, outputs)
    given = numbers((1, 2), (2, 3), (1, 5), (1, 3), (2, 5), (0, 3), (3, 3))
    alone, together, rows, _ = asyncio.run(computed(path, given))
    assert sorted(rows) == [0, 1, 3, 6]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one["y"], other["y"])


def test_inputs_whose_rows_differ_run_alone_as_they_came(tmp_path):
    nodes, inputs, outputs, _ = APART["two inputs"]
    # The same numbers, one row of them for all.
    path = program(tmp_path / "m.onnx", nodes, [inputs[0], ("b", FLOAT, ["l", 4])], outputs)
    draw = np.random.default_rng(0)
    given = [
        {"a": draw.normal(size=(n, 4)).astype(np.float32), "b": draw.normal(size=(m, 4)).astype(np.float32)}
        for n, m in ((2, 2), (3, 1), (2, 2), (1, 4), (1, 1))
    ]
    _, together, rows, _ = asyncio.run(computed(path, given))
    for each, found in zip(given, together, strict=True):
        np.testing.assert_array_equal(found["y"], each["a"] + each["b"])
    assert sorted(rows) == [1, 2, 3, 3]


@pytest.mark.parametrize("name", ["less the mean", "one scale for all"])
def test_a_program_that_mixes_rows_is_never_given_those_of_two_requests(tmp_path, name):
    nodes, inputs, outputs, constants = MIXED[name]
    path = program(tmp_path / "m.onnx", nodes, inputs, outputs, **constants)
    given = numbers(*((rows, 6) for rows in (1, 3, 2, 1)))
    alone, together, rows, listed = asyncio.run(computed(path, given))
    assert listed.max_batch_size == 0
    assert sorted(rows) == [1, 1, 2, 3]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one["y"], other["y"])


def test_a_program_whose_rows_come_out_otherwise_later_is_asked_once_for_each(tmp_path):
    """It passes what is made up, where every number is above 0, and gives fewer rows where one is below."""
    nodes = [
        ("ReduceMin", ["x"], ["least"], {"axes": [1], "keepdims": 0}),
        ("Greater", ["least", "zero"], ["kept"]),
        ("Compress", ["x", "kept"], ["y"], {"axis": 0}),
    ]
    path = program(tmp_path / "m.onnx", nodes, X, [("y", FLOAT, ["m", 6])], zero=np.float32(0))
    given = [{"x": np.full((rows, 6), value, np.float32)} for rows, value in ((1, 1), (2, 1), (1, -1), (3, 2))]
    _, together, rows, listed = asyncio.run(computed(path, given))
    assert listed.max_batch_size == 32
    assert rows == [1, 6, 2, 1, 3]
    assert [len(each["y"]) for each in together] == [1, 2, 0, 3]


SPECS = (TensorSpec(name="a", datatype="FP32", shape=(-1, -1)), TensorSpec(name="b", datatype="INT64", shape=(-1,)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=6), st.data())
def test_rows_go_in_and_come_out_in_their_places(shapes, data):
    """The task alone: whatever is put together is taken apart again, bytes and all."""
    task = TensorTask(SPECS, stacks=True)
    items = [
        task.prepare(
            {
                "a": data.draw(arrays(np.float32, shape, elements=st.floats(-9, 9, width=32))),
                "b": data.draw(arrays(np.int64, shape[:1], elements=st.integers(-9, 9))),
            },
            {},
        )
        for shape in shapes
    ]
    for item, (rows, width) in zip(items, shapes, strict=True):
        assert (item.rows, item.tokens) == (rows, 2)
        assert (item.group == items[0].group) == (width == shapes[0][1])
        assert task.estimate(item.data, {}) == item.rows * item.tokens
    batch = [item for item in items if item.group == items[0].group]
    ((*results,),) = task.steps(lambda feeds: {"a": feeds["a"] + 1, "b": feeds["b"]}, batch)
    for item, result in zip(batch, results, strict=True):
        np.testing.assert_array_equal(result.outputs["a"], item.data["a"] + 1)
        np.testing.assert_array_equal(result.outputs["b"], item.data["b"])


def test_what_takes_long_is_not_tried(tmp_path):
    """Nothing is gained by it, and loading would take as long as several requests."""

    class Slow(SystemClock):
        def monotonic(self) -> float:
            self.looks = getattr(self, "looks", 0) + 1
            return super().monotonic() + self.looks

    async def main():
        nodes, inputs, outputs, constants = APART["a product"]
        path = program(tmp_path / "m.onnx", nodes, inputs, outputs, **constants)
        async with engine(clock=Slow()) as made:
            await made.load(TENANT, await tried_onnx(path, trial=try_in_process), "a" * 64, tmp_path, "cpu")
            (listed,) = made.models(TENANT)
            (line,) = [line for line in made.lines if line["event"] == "requests are not computed together"]
            return listed.max_batch_size, line["why"]

    assert asyncio.run(main()) == (0, "a row takes more than 0.5 s")
