"""OpenVINO behind the session port: the answers of ONNX Runtime, lanes, interruption, and what it must not be given."""

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from shared.protocol.errors import Corrupt, Refused
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.sessions.openvino import OpenVinoSession, imported
from tests.shared.serving.bundles import adder, echo
from tests.shared.serving.row_programs import program

SHIPPED = Path(__file__).parents[4] / "cloud_core" / "models" / "shipped"
FLOAT = TensorProto.FLOAT


def loaded(path, **more):
    session = OpenVinoSession(path, **({"threads": 1} | more))
    session.load()
    return session


def feeds(rows, tokens, seed=0):
    ids = np.random.default_rng(seed).integers(5, 1000, (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize(
    ("model", "variant"), [(m, v) for m in ("embed-zh", "ner-zh", "sentiment-zh") for v in ("fp32", "int8")]
)
def test_the_shipped_models_have_the_signature_and_the_answers_they_have_in_onnxruntime(model, variant):
    path = SHIPPED / model / f"model.{variant}.onnx"
    reference = OnnxSession(path, threads=1)
    reference.load()
    session = loaded(path)
    assert (session.inputs, session.outputs) == (reference.inputs, reference.outputs)
    for rows, tokens in ((1, 1), (1, 16), (5, 33)):
        given = {spec.name: feeds(rows, tokens)[spec.name] for spec in session.inputs}
        wanted, found = reference.run(given), session.run(given)
        for name, values in wanted.items():
            assert found[name].dtype == values.dtype
            # A value half way between two steps of int8 may be rounded to the other one.
            share = 1e-5 if variant == "fp32" else 0.02
            np.testing.assert_allclose(found[name], values, rtol=0, atol=share * float(np.abs(values).max()))


def test_outputs_are_the_callers_and_outlive_the_next_run(tmp_path):
    session = loaded(adder(tmp_path / "m.onnx"))
    first = session.run({"x": np.ones((2, 3), np.float32)})["y"]
    session.run({"x": np.full((2, 3), 5, np.float32)})
    assert first.tolist() == [[2.0] * 3] * 2
    first += 1


def test_arrays_that_are_read_only_strided_or_empty(tmp_path):
    session = loaded(adder(tmp_path / "m.onnx"))
    fixed = np.frombuffer(np.arange(6, dtype=np.float32).tobytes(), np.float32).reshape(2, 3)
    assert session.run({"x": fixed})["y"].tolist() == (fixed * 2).tolist()
    turned = np.asfortranarray(fixed)
    assert session.run({"x": turned})["y"].tolist() == (fixed * 2).tolist()
    assert session.run({"x": np.zeros((0, 3), np.float32)})["y"].shape == (0, 3)


def test_arrays_the_program_cannot_take_are_refused_by_name_and_it_runs_on():
    session = loaded(SHIPPED / "sentiment-zh" / "model.fp32.onnx")
    good = feeds(2, 8)
    for changes, field in (
        ({"attention_mask": None}, "inputs"),
        ({"input_ids": good["input_ids"].astype(np.int32)}, "inputs.input_ids.datatype"),
        ({"input_ids": good["input_ids"][0]}, "inputs.input_ids.shape"),
        # OpenVINO itself would compute with these, reading past the mask's end.
        ({"attention_mask": np.ones((2, 9), np.int64)}, "inputs.attention_mask.shape"),
        ({"attention_mask": np.ones((3, 8), np.int64)}, "inputs.attention_mask.shape"),
        ({"input_ids": np.full((2, 8), 2**31)}, "inputs.input_ids"),
        ({"input_ids": np.full((2, 8), -(2**31) - 1)}, "inputs.input_ids"),
    ):
        given = {name: array for name, array in {**good, **changes}.items() if array is not None}
        with pytest.raises(Refused) as caught:
            session.run(given)
        assert caught.value.field == field
    assert session.run(good)["logits"].shape == (2, 2)


def test_shapes_that_only_an_operator_knows_of_are_refused(tmp_path):
    path = program(
        tmp_path / "m.onnx",
        [("MatMul", ["a", "b"], ["y"])],
        [("a", FLOAT, ["n", "k"]), ("b", FLOAT, ["l", "m"])],
        [("y", FLOAT, ["n", "m"])],
    )
    session = loaded(path)
    with pytest.raises(Refused):
        session.run({"a": np.ones((2, 4), np.float32), "b": np.ones((3, 2), np.float32)})
    assert session.run({"a": np.ones((2, 3), np.float32), "b": np.ones((3, 2), np.float32)})["y"].shape == (2, 2)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.UINT32, TensorProto.UINT64, TensorProto.STRING])
def test_datatypes_it_would_round_wrap_or_not_take_are_refused(tmp_path, kind):
    path = program(tmp_path / "m.onnx", [("Identity", ["x"], ["y"])], [("x", kind, ["n"])], [("y", kind, ["n"])])
    with pytest.raises(Refused) as caught:
        loaded(path)
    assert (caught.value.field, caught.value.value) == ("arrangement.runtime", "openvino")


def test_dimensions_that_vary_without_a_name_are_taken_of_one_input_only(tmp_path):
    one = program(
        tmp_path / "one.onnx", [("Exp", ["a"], ["y"])], [("a", FLOAT, [None, None])], [("y", FLOAT, [None, None])]
    )
    assert loaded(one).run({"a": np.zeros((2, 3), np.float32)})["y"].tolist() == [[1.0] * 3] * 2
    two = program(
        tmp_path / "two.onnx",
        [("Add", ["a", "b"], ["y"])],
        [("a", FLOAT, [None, 4]), ("b", FLOAT, ["n", 4])],
        [("y", FLOAT, [None, 4])],
    )
    with pytest.raises(Refused, match="dim_param"):
        loaded(two)


def test_constants_that_an_old_program_lists_among_its_inputs_are_none(tmp_path):
    path = program(
        tmp_path / "m.onnx",
        [("Add", ["x", "one"], ["y"])],
        [("x", FLOAT, ["n"]), ("one", FLOAT, [1])],
        [("y", FLOAT, ["n"])],
        one=np.ones(1, np.float32),
    )
    session = loaded(path)
    assert [spec.name for spec in session.inputs] == ["x"]
    assert session.run({"x": np.ones(2, np.float32)})["y"].tolist() == [2.0, 2.0]


def test_what_is_no_program_is_corrupt_and_what_openvino_lacks_is_refused(tmp_path):
    for name, data in (("empty", b""), ("text", b"garbage" * 100), ("torn", adder(tmp_path / "a").read_bytes()[:-9])):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(Corrupt):
            loaded(path)
    with pytest.raises(Corrupt):
        loaded(tmp_path / "absent")
    path = program(tmp_path / "det", [("Det", ["a"], ["y"])], [("a", FLOAT, ["n", 2, 2])], [("y", FLOAT, ["n"])])
    with pytest.raises(Refused, match="Det"):
        loaded(path)
    with pytest.raises(Refused):
        loaded(echo(tmp_path / "echo"))


def test_another_format_than_onnx_is_not_tried(tmp_path):
    # A TensorFlow graph as text, which OpenVINO would look into if it were left to guess.
    path = tmp_path / "m.onnx"
    path.write_text('node { name: "x" op: "Placeholder" attr { key: "dtype" value { type: DT_FLOAT } } }')
    with pytest.raises(Corrupt):
        loaded(path)


def test_bf16_is_near_and_refused_where_the_processor_lacks_it(tmp_path, monkeypatch):
    openvino = imported()
    path = SHIPPED / "embed-zh" / "model.fp32.onnx"
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        exact, near = loaded(path), loaded(path, precision="bf16")
        given = feeds(4, 20)
        a, b = (next(iter(session.run(given).values())) for session in (exact, near))
        assert 0 < float(np.abs(a - b).max()) < 0.01
        cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() > 0.999
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(Refused, match="bf16") as caught:
        loaded(path, precision="bf16")
    assert caught.value.field == "arrangement.precision"
    with pytest.raises(Refused):
        loaded(path, precision="f16")


def test_without_the_package_the_refusal_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Refused, match=r"not installed") as caught:
        loaded(adder(tmp_path / "m.onnx"))
    assert "tideline[openvino]" in (caught.value.allowed or "")
