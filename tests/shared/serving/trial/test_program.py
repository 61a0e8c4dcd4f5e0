"""Judging programs by their bytes: what is allowed passes, what is not is named, and no bytes do anything but be refused."""

import contextlib

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from shared.protocol.errors import Refused
from shared.serving.trial.program import MAX_NESTING, MICROSOFT, check_program, judge
from tests.hostile import programs

GOOD = programs.good()


def code_of(data: bytes) -> str:
    with pytest.raises(Refused) as caught:
        judge(memoryview(data), "model.onnx")
    assert caught.value.field.startswith("model.onnx")
    return caught.value.code


def test_what_a_program_is():
    found = judge(memoryview(GOOD), "m")
    assert (found.ir_version, found.opsets, found.operators, found.nodes) == (9, {"": 17}, {("", "Add")}, 1)


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"])
def test_domains_that_are_allowed(domain):
    operator = {"ai.onnx.ml": "Scaler", "com.microsoft": "Gelu"}.get(domain, "Relu")
    model = programs.one(operator, domain)
    if domain == "ai.onnx":
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    found = judge(memoryview(model.SerializeToString()), "m")
    assert found.operators == {("" if domain == "ai.onnx" else domain, operator)}


def test_an_unused_domain_may_be_declared_and_a_used_one_not():
    model = programs.model(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [programs.value("x", [1])],
        [programs.value("y", [1])],
        opsets=[programs.OPSET, helper.make_opsetid("pkg.exporter", 1)],
    )
    assert judge(memoryview(model.SerializeToString()), "m").nodes == 1
    model.graph.node[0].domain = "pkg.exporter"
    assert code_of(model.SerializeToString()) == "forbidden-operator"


def test_the_refusal_names_the_place_the_thing_and_what_is_allowed():
    with pytest.raises(Refused) as caught:
        judge(memoryview(programs.one("EPContext", "com.microsoft").SerializeToString()), "model.onnx")
    error = caught.value
    assert (error.field, error.value) == ("model.onnx:graph.node[0]", "com.microsoft.EPContext")
    assert "FastGelu" in error.allowed
    assert "EPContext" not in MICROSOFT


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (programs.functions(1), "forbidden-operator"),
        (programs.sparse(), "forbidden-content"),
        (programs.huge([1 << 31]), "too-large"),
        (programs.huge([-1]), "forbidden-content"),
        (programs.nested(MAX_NESTING + 1), "forbidden-content"),
        (programs.many_nodes(100_001), "too-large"),
        (GOOD[:-1], "not-onnx"),
        (b"", "not-onnx"),
        (b"{}", "not-onnx"),
        (GOOD + b"\xa2\x01\x00", "forbidden-content"),
    ],
    ids=["functions", "sparse", "dims", "negative", "nested", "nodes", "cut", "empty", "json", "training"],
)
def test_what_is_refused(data, code):
    assert code_of(data) == code


def test_the_deepest_nesting_that_is_allowed():
    assert judge(memoryview(programs.nested(MAX_NESTING)), "m").nodes == 2 * MAX_NESTING + 1


def test_a_function_that_is_not_called_is_refused_too():
    model = onnx.load_from_string(programs.functions(2))
    model.graph.node[0].domain, model.graph.node[0].op_type = "", "Identity"
    assert code_of(model.SerializeToString()) == "forbidden-content"


def test_a_field_that_stands_twice_is_judged_twice():
    """A parser takes the last of two: both must be fit."""
    node = helper.make_node("Relu", ["x"], ["y"])
    twice = node.SerializeToString() + onnx.NodeProto(op_type="PyOp", domain="evil").SerializeToString()
    for parts in (twice, onnx.NodeProto(op_type="PyOp", domain="evil").SerializeToString() + node.SerializeToString()):
        graph = b"\x0a" + bytes([len(parts)]) + parts
        model = onnx.ModelProto(ir_version=9, opset_import=[programs.OPSET]).SerializeToString()
        assert code_of(model + b"\x3a" + bytes([len(graph)]) + graph) == "forbidden-operator"
    external = TensorProto(dims=[1], data_location=TensorProto.EXTERNAL).SerializeToString()
    inside = TensorProto(data_type=1, data_location=TensorProto.DEFAULT).SerializeToString()
    tensor = external + inside
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    model = onnx.ModelProto(ir_version=9, opset_import=[programs.OPSET]).SerializeToString()
    assert code_of(model + b"\x3a" + bytes([len(graph)]) + graph) == "external-data"


def test_two_graphs_are_both_judged():
    evil = onnx.load_from_string(programs.outside("x")).graph.SerializeToString()
    assert code_of(GOOD + b"\x3a" + bytes([len(evil)]) + evil) == "external-data"


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_are_judged_or_refused(data):
    with contextlib.suppress(Refused):
        judge(memoryview(data), "m")


BASES = [
    GOOD,
    programs.endless_loop(),
    programs.outside("x", where="subgraph"),
    programs.functions(2),
    programs.stride_zero(),
]


@settings(max_examples=300)
@given(st.sampled_from(BASES), st.integers(min_value=0), st.integers(min_value=0, max_value=255), st.integers(0, 40))
def test_any_damage_is_judged_or_refused(base, place, byte, cut):
    place %= len(base)
    damaged = base[:place] + bytes([byte]) + base[place + 1 : len(base) - cut]
    with contextlib.suppress(Refused):
        judge(memoryview(damaged), "m")


def test_a_file(tmp_path):
    (tmp_path / "a.onnx").write_bytes(GOOD)
    assert check_program(tmp_path / "a.onnx").nodes == 1
    with (tmp_path / "b.onnx").open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(Refused) as caught:
        check_program(tmp_path / "b.onnx")
    assert caught.value.code == "too-large"
