"""An `.onnx` file and its signature: every field that is not the graph's is refused by name, and golden inputs come from somewhere."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cloud_core.importer.made_up import NUMBERS
from cloud_core.importer.onnx_source import open_onnx
from shared.bundle.manifest import TaskKind, TensorSpec
from shared.protocol.errors import Corrupt, Refused

SIGNATURE = {
    "task": "tensor",
    "inputs": [
        {"name": "image", "datatype": "FP32", "shape": [-1, 3, 8, 8], "axes": ["batch", "channel", "row", "column"]}
    ],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 2]}],
    "labels": ["cat", "dog"],
}


def program(path, *, size=8):
    """[batch, 3, size, size] to two scores."""
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    weight = np.random.default_rng(0).normal(size=(3 * size * size, 2)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def signature(folder, **changes):
    path = folder / "signature.json"
    path.write_text(json.dumps(SIGNATURE | changes))
    return path


def refused(folder, **changes):
    with pytest.raises(Refused) as caught:
        open_onnx(program(folder / "m.onnx"), signature(folder, **changes))
    return caught.value


def tensor(which, **changes):
    return {which: [SIGNATURE[which][0] | changes]}


def test_a_program_with_its_signature(tmp_path):
    opened = open_onnx(program(tmp_path / "m.onnx"), signature(tmp_path))
    assert opened.task is TaskKind.TENSOR
    assert opened.labels == ("cat", "dog")
    assert opened.inputs == (TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 8, 8)),)
    assert opened.graph == (tmp_path / "m.onnx").read_bytes()
    assert opened.about["axes"] == "image: batch, channel, row, column"
    assert "made-up inputs" in opened.about["golden"]
    assert len(opened.golden) == 16
    again = open_onnx(tmp_path / "m.onnx", tmp_path / "signature.json")
    assert again.golden == opened.golden, "made up from a seed"


def test_without_a_signature_the_graph_speaks_for_itself(tmp_path):
    opened = open_onnx(program(tmp_path / "m.onnx"))
    assert opened.inputs == (TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 8, 8)),)
    assert opened.labels == ()


def test_golden_inputs_are_answered_by_the_program_unless_they_say_what_it_gives(tmp_path):
    inputs = {"image": np.ones((1, 3, 8, 8)).tolist()}
    wanted = {"outputs": {"scores": [[1.0, 2.0]]}}
    opened = open_onnx(
        program(tmp_path / "m.onnx"),
        signature(tmp_path, golden=[{"inputs": inputs}, {"inputs": inputs, "expect": wanted}]),
    )
    first, second = opened.golden
    assert np.asarray(first.expect["outputs"]["scores"]).shape == (1, 2)
    assert second.expect == wanted


def test_made_up_inputs_stay_small_however_large_the_model_takes_them(tmp_path):
    image = SIGNATURE["inputs"][0] | {
        "shape": [-1, 3, 224, 224],
        "example": [1, 3, 224, 224],
        "minimum": 0,
        "maximum": 1,
    }
    opened = open_onnx(program(tmp_path / "m.onnx", size=224), signature(tmp_path, inputs=[image]))
    values = [np.asarray(item.inputs["image"]) for item in opened.golden]
    assert sum(value.size for value in values) <= NUMBERS
    assert values[0].shape == (1, 3, 224, 224)
    assert 0 <= values[0].min() < values[0].max() <= 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"task": "text-classification"}, "task"),
        ({"task": "poetry"}, "task"),
        ({"colour": "red"}, None),
        ({"inputs": []}, "inputs"),
        (tensor("inputs", name="picture"), "inputs"),
        (tensor("inputs", datatype="INT64"), "inputs[0].datatype"),
        (tensor("inputs", datatype="BF16"), "inputs[0].datatype"),
        (tensor("inputs", shape=[-1, 3, 8]), "inputs[0].shape"),
        (tensor("inputs", shape=[-1, 4, 8, 8]), "inputs[0].shape"),
        (tensor("inputs", shape=[-2, 3, 8, 8]), "inputs[0].shape"),
        (tensor("inputs", axes=["batch"]), "inputs[0].axes"),
        (tensor("inputs", minimum=2, maximum=1), "inputs[0].maximum"),
        (tensor("inputs", example=[1, 3, 8, 9]), "inputs[0].example"),
        (tensor("inputs", example=[0, 3, 8, 8]), "inputs[0].example"),
        (tensor("outputs", name="logits"), "outputs"),
        (tensor("outputs", shape=[-1, 3]), "outputs[0].shape"),
        ({"golden": [{"inputs": {"image": [[1]]}}]}, "golden[0].inputs"),
        ({"golden": [{"inputs": {}}]}, "golden[0].inputs"),
    ],
)
def test_what_is_not_the_graphs_is_refused_by_its_field(tmp_path, changes, field):
    error = refused(tmp_path, **changes)
    assert str(error.field).startswith("signature")
    if field is not None:
        assert error.field == f"signature.{field}"
    assert error.allowed or error.message


def test_a_signature_that_is_none(tmp_path):
    path = tmp_path / "signature.json"
    path.write_bytes(b"\xff{")
    with pytest.raises(Refused) as caught:
        open_onnx(program(tmp_path / "m.onnx"), path)
    assert caught.value.field == "signature"
    with pytest.raises(Refused) as caught:
        open_onnx(tmp_path / "m.onnx", tmp_path / "absent.json")
    assert caught.value.field == "signature"


def test_what_is_no_program_is_refused_before_anything_runs(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("not a program")
    with pytest.raises(Refused):
        open_onnx(path)


def test_texts_cannot_be_made_up(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["u"])],
        "g",
        [helper.make_tensor_value_info("t", TensorProto.STRING, ["n"])],
        [helper.make_tensor_value_info("u", TensorProto.STRING, ["n"])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    with pytest.raises(Refused, match="made up"):
        open_onnx(path)


def test_a_program_that_kills_its_process_kills_another_one_than_ours(tmp_path):
    """160 GB, asked for by a few bytes: the trial dies of it, and says so."""
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["z"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])),
        helper.make_node("ReduceSum", ["z"], ["y"], keepdims=0),
        helper.make_node("Add", ["x", "y"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.array([200_000, 200_000]), "n")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    with pytest.raises(Corrupt) as caught:
        open_onnx(path)
    assert caught.value.code == "too-large"
