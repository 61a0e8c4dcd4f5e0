import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from cloud_core.models.inspect_program import WEIGHT_BYTES, inspect_program, without_weights
from cloud_core.models.shipped import shipped_models
from shared.protocol.errors import Refused
from tests.hostile import programs
from tests.hostile.programs import model, value


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(Refused) as caught:
        inspect_program(path)
    return caught.value


@pytest.mark.parametrize("folder", shipped_models(), ids=lambda folder: folder.name)
def test_the_shipped_models_pass(folder):
    for path in folder.glob("*.onnx"):
        inspect_program(path)


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (programs.stride_zero(), "invalid-program", "strides"),
        (programs.functions(3000), "invalid-program", "depth"),
        (programs.one("Frobnicate").SerializeToString(), "invalid-program", "Frobnicate"),
        (programs.good()[:50], "invalid-program", "checker"),
        (programs.filled(200_000), "too-large", "536870912"),
        (programs.spread("Expand"), "too-large", "300000"),
        (programs.spread("Tile"), "too-large", "300000"),
    ],
    ids=["strides", "functions", "operator", "cut", "filled", "expand", "tile"],
)
def test_what_the_checker_or_its_shapes_give_away(tmp_path, data, code, words):
    error = refused(tmp_path / "m.onnx", data)
    assert error.code == code
    assert words in error.message
    assert error.field.startswith("m.onnx")


def test_the_value_that_is_too_large_is_named(tmp_path):
    error = refused(tmp_path / "m.onnx", programs.filled(200_000))
    assert (error.field, error.value) == ("m.onnx:big", [200_000, 200_000])


def test_large_values_within_branches_are_seen(tmp_path):
    shape = numpy_helper.from_array(np.array([100_000, 100_000]), "s")
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["a"], keepdims=0),
    ]
    then = helper.make_graph(nodes, "then", [], [value("a", [])], [shape])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "other", [], [value("b", [])])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    made = model([branch], [value("c", [], onnx.TensorProto.BOOL), value("x", [])], [value("y", [])])
    assert refused(tmp_path / "m.onnx", made.SerializeToString()).code == "too-large"


def test_weights_are_left_out_and_shapes_are_not(tmp_path):
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32), "w")
    shape = numpy_helper.from_array(np.array([-1, 32]), "s")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Reshape", ["h", "s"], ["y"])]
    made = model(nodes, [value("x", ["n", 64])], [value("y", ["m", 32])], [weights, shape])
    onnx.save(made, tmp_path / "m.onnx")
    light = without_weights(tmp_path / "m.onnx")
    assert len(light) < WEIGHT_BYTES < (tmp_path / "m.onnx").stat().st_size
    found = onnx.load_from_string(light)
    assert [list(tensor.dims) for tensor in found.graph.initializer] == [[64, 64], [2]]
    assert list(numpy_helper.to_array(found.graph.initializer[1])) == [-1, 32]
    for tensor in (*made.graph.initializer, *found.graph.initializer):
        tensor.ClearField("raw_data")
    assert found == made
    inspect_program(tmp_path / "m.onnx")
