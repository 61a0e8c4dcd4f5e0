"""Which session runs a program, and what is refused before anything is loaded."""

import pytest

from shared.bundle.manifest import Requirements, Variant
from shared.protocol.errors import Refused
from shared.serving.arrangement import ONNXRUNTIME, OPENVINO, TORCH, Arrangement
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.sessions.open import open_session
from shared.serving.sessions.openvino import OpenVinoSession


def variant(precision="fp32", runtime="onnx", **requirements):
    requirements = Requirements(**requirements)
    return Variant(name="v", runtime=runtime, precision=precision, files=("m",), requirements=requirements)


def opened(tmp_path, made=None, **arrangement):
    return open_session(tmp_path / "m.onnx", made or variant(), Arrangement(**arrangement))


def test_the_arrangement_says_what_runs_an_onnx_program(tmp_path):
    assert isinstance(opened(tmp_path), OnnxSession)
    assert isinstance(opened(tmp_path, runtime=ONNXRUNTIME), OnnxSession)
    assert isinstance(opened(tmp_path, runtime=OPENVINO), OpenVinoSession)
    assert isinstance(opened(tmp_path, variant("int8"), runtime=OPENVINO), OpenVinoSession)
    assert isinstance(opened(tmp_path, runtime=OPENVINO, precision="bf16"), OpenVinoSession)


@pytest.mark.parametrize(
    ("made", "arrangement", "field"),
    [
        (variant(), {"runtime": TORCH}, "arrangement.runtime"),
        (variant(), {"precision": "bf16"}, "arrangement.precision"),
        (variant("int8"), {"runtime": OPENVINO, "precision": "bf16"}, "arrangement.precision"),
        (variant(runtime="tvm"), {}, "runtime"),
        (variant(providers=("NoSuchProvider",)), {}, "requirements.providers"),
        # A program for a provider is ONNX Runtime's whatever the arrangement says.
        (variant(providers=("NoSuchProvider",)), {"runtime": OPENVINO}, "requirements.providers"),
    ],
)
def test_what_cannot_be_run_so_is_refused_by_name(tmp_path, made, arrangement, field):
    with pytest.raises(Refused) as caught:
        opened(tmp_path, made, **arrangement)
    assert caught.value.field == field
