"""int8 in the graph: nearly the same numbers, exactly the same in any batch, and no pass or byte more than needed."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cloud_core.importer.folding import fold_constants
from cloud_core.importer.fp16_weights import store_weights_as_fp16
from cloud_core.importer.int8_per_token import quantize_per_token, quantized_activations
from cloud_core.importer.smoothing import activations_of, divisor_for

RANDOM = np.random.default_rng(7)
WIDTH = 64


def weight(*shape, scale=0.2):
    return RANDOM.normal(size=shape).astype(np.float32) * np.float32(scale)


def model(nodes, constants, *, inputs, outputs, opset=17, rank=3):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def floats(*nodes, constants, outputs=("y",), opset=17):
    inputs = [("x", TensorProto.FLOAT, ["rows", "tokens", WIDTH])]
    return model(nodes, constants, inputs=inputs, outputs=outputs, opset=opset)


def run(made, feeds):
    return onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def copied(made):
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    return copy


def quantized(made, feeds, *, fine=False):
    """An int8 copy; the fine form looks at `feeds`."""
    narrow, seen = copied(made), None
    if fine:
        fold_constants(narrow)
        seen = activations_of(narrow, quantized_activations(narrow), [feeds])
    quantize_per_token(narrow, seen=seen)
    return narrow


def kinds(made):
    return Counter(node.op_type for node in made.graph.node)


def held(made):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}


def text(rows=5, tokens=9):
    return {"x": RANDOM.normal(size=(rows, tokens, WIDTH)).astype(np.float32)}


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_a_product_is_nearly_what_it_was_and_the_same_alone_and_in_a_batch(fine, opset):
    made = floats(helper.make_node("MatMul", ["x", "w"], ["y"]), constants={"w": weight(WIDTH, 96)}, opset=opset)
    feeds = text()
    narrow = quantized(made, feeds, fine=fine)
    (wanted,), (found,) = run(made, feeds), run(narrow, feeds)
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
    for row in range(5):
        (alone,) = run(narrow, {"x": feeds["x"][row : row + 1]})
        assert np.array_equal(alone[0], found[row])


@pytest.mark.parametrize("fine", [False, True])
def test_an_activation_shared_by_three_matrices_is_quantized_once(fine):
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}_y"]) for name in ("q", "k", "v")]
    made = floats(
        *nodes, constants={name: weight(WIDTH, WIDTH) for name in ("q", "k", "v")}, outputs=("q_y", "k_y", "v_y")
    )
    found = kinds(quantized(made, text(), fine=fine))
    assert found["MatMulIntegerToFloat"] == 3
    assert found["ReduceMax"] == 1
    assert found["QuantizeLinear" if fine else "Cast"] == 1


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_keeps_its_bias(transposed):
    shape = (40, WIDTH) if transposed else (WIDTH, 40)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed)
    made = model(
        [node],
        {"w": weight(*shape), "b": weight(40, scale=3)},
        inputs=[("x", TensorProto.FLOAT, ["rows", WIDTH])],
        outputs=["y"],
        rank=2,
    )
    feeds = {"x": RANDOM.normal(size=(6, WIDTH)).astype(np.float32)}
    (wanted,), (found,) = run(made, feeds), run(quantized(made, feeds), feeds)
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("attribute", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_gemm_that_does_more_than_that_is_left_alone(attribute):
    made = model(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], **attribute)],
        {"w": weight(WIDTH, 40), "b": weight(40)},
        inputs=[("x", TensorProto.FLOAT, [WIDTH, WIDTH])],
        outputs=["y"],
        rank=2,
    )
    assert kinds(quantized(made, {})) == {"Gemm": 1}


def test_small_matrices_products_of_activations_and_other_axes_are_left_alone():
    nodes = [
        helper.make_node("MatMul", ["x", "small"], ["a"]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["b"]),
        helper.make_node("Gather", ["table", "ids"], ["c"], axis=1),
    ]
    made = floats(
        *nodes,
        constants={"small": weight(WIDTH, 8), "table": weight(100, 50), "ids": np.array([[1, 2]])},
        outputs=("a", "b", "c"),
    )
    assert kinds(quantized(made, text())) == {"MatMul": 2, "Transpose": 1, "Gather": 1}


def embedding(*nodes, constants, outputs, rank=3):
    return model(nodes, constants, inputs=[("ids", TensorProto.INT64, ["rows", "tokens"])], outputs=outputs, rank=rank)


def test_an_embedding_table_is_read_as_bytes():
    made = embedding(
        helper.make_node("Gather", ["table", "ids"], ["y"]), constants={"table": weight(200, WIDTH)}, outputs=["y"]
    )
    narrow, feeds = quantized(made, {}), {"ids": np.array([[1, 2, 3]])}
    assert {value.dtype for value in held(narrow).values()} == {np.dtype(np.int8), np.dtype(np.float32)}
    assert narrow.ByteSize() < 0.4 * made.ByteSize()
    assert np.abs(run(narrow, feeds)[0] - run(made, feeds)[0]).max() < 0.01


@pytest.mark.parametrize("written", ["transpose", "copy", "gemm"])
@pytest.mark.parametrize("fine", [False, True])
def test_an_output_matrix_tied_to_the_embeddings_shares_their_bytes(written, fine):
    table = weight(200, WIDTH)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("Relu", ["x"], ["h"])]
    constants = {"table": table}
    if written == "transpose":
        nodes += [helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0])]
        nodes += [helper.make_node("MatMul", ["h", "turned"], ["y"])]
    elif written == "copy":
        constants["turned"] = np.ascontiguousarray(table.T)
        nodes += [helper.make_node("MatMul", ["h", "turned"], ["y"])]
    else:
        constants["flat"] = np.array([-1, WIDTH])
        nodes += [helper.make_node("Reshape", ["h", "flat"], ["f"])]
        nodes += [helper.make_node("Gemm", ["f", "table"], ["y"], transB=1)]
    made = embedding(*nodes, constants=constants, outputs=["y"], rank=2 if written == "gemm" else 3)
    feeds = {"ids": np.array([[5, 7, 9], [1, 1, 0]])}
    narrow = quantized(made, feeds, fine=fine)
    assert [value.shape for value in held(narrow).values() if value.dtype == np.int8] == [table.shape]
    (wanted,), (found,) = run(made, feeds), run(narrow, feeds)
    assert (wanted.argmax(-1) == found.argmax(-1)).all()


def test_weights_stored_as_fp16_and_tied_by_identities_are_found():
    nodes = [
        helper.make_node("Identity", ["w"], ["same"]),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "same"], ["y"]),
    ]
    made = floats(*nodes, constants={"w": weight(WIDTH, WIDTH).astype(np.float16).astype(np.float32)})
    wide = copied(made)
    store_weights_as_fp16(made)
    assert made.ByteSize() < 0.6 * wide.ByteSize()
    feeds = text()
    assert np.array_equal(run(made, feeds)[0], run(wide, feeds)[0])
    found = kinds(quantized(made, feeds))
    assert (found["MatMulIntegerToFloat"], found["MatMul"]) == (2, 0)


def test_weights_that_would_lose_digits_stay_fp32():
    made = floats(helper.make_node("MatMul", ["x", "w"], ["y"]), constants={"w": weight(WIDTH, WIDTH)})
    before = made.SerializeToString()
    store_weights_as_fp16(made)
    assert made.SerializeToString() == before
    store_weights_as_fp16(made, exactly=False)
    assert made.ByteSize() < 0.6 * len(before)


def outlying():
    """Activations as transformers have them: one channel many times larger than the rest."""
    feeds = text(rows=8)
    feeds["x"][..., 3] *= 40
    return feeds


def test_the_fine_form_divides_outliers_out():
    made, feeds = floats(helper.make_node("MatMul", ["x", "w"], ["y"]), constants={"w": weight(WIDTH, 96)}), outlying()
    (wanted,) = run(made, feeds)
    errors = [
        float(np.square(run(quantized(made, feeds, fine=fine), feeds)[0] - wanted).sum()) for fine in (False, True)
    ]
    assert errors[1] < 0.3 * errors[0]


def test_a_matrix_that_two_activations_share_takes_no_factors():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    made, feeds = floats(*nodes, constants={"w": weight(WIDTH, WIDTH)}), outlying()
    narrow = quantized(made, feeds, fine=True)
    assert not any("smoothing" in name for name in held(narrow))
    assert np.abs(run(narrow, feeds)[0] - run(made, feeds)[0]).max() < 0.1 * np.abs(run(made, feeds)[0]).max()


def test_even_activations_are_not_worth_a_pass():
    assert divisor_for(RANDOM.normal(size=(50, WIDTH)).astype(np.float32), [weight(WIDTH, 20)]) is None


def test_rows_of_zeros_stay_zeros():
    made = floats(helper.make_node("MatMul", ["x", "w"], ["y"]), constants={"w": weight(WIDTH, WIDTH)})
    feeds = {"x": np.zeros((2, 3, WIDTH), np.float32)}
    for fine in (False, True):
        assert not run(quantized(made, text(), fine=fine), feeds)[0].any()


def test_no_rows_at_all_are_no_error():
    made = floats(helper.make_node("MatMul", ["x", "w"], ["y"]), constants={"w": weight(WIDTH, WIDTH)})
    for fine in (False, True):
        (found,) = run(quantized(made, text(), fine=fine), {"x": np.zeros((0, 3, WIDTH), np.float32)})
        assert found.shape == (0, 3, WIDTH)


def test_graphs_inside_a_loop_or_branch_keep_what_they_read():
    then = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["t"])], "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, [None] * 3)])  # fmt: skip
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["o"])], "else", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, [None] * 3)])  # fmt: skip
    made = model(
        [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        {"w": weight(WIDTH, WIDTH)},
        inputs=[("x", TensorProto.FLOAT, ["rows", "tokens", WIDTH]), ("c", TensorProto.BOOL, [])],
        outputs=["y"],
    )
    narrow, feeds = quantized(made, {}), text() | {"c": np.array(True)}
    assert np.array_equal(run(narrow, feeds)[0], run(made, feeds)[0])
