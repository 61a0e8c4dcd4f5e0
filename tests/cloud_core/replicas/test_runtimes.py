"""What a replica can run, and what it says of what it cannot."""

import importlib.util

import onnxruntime
import pytest

from cloud_core.replicas import runtimes
from cloud_core.replicas.runtimes import TORCH, offers_here, open_session, read_signature, signature_path, suited
from shared.bundle.manifest import Requirements, Variant
from shared.protocol.errors import Corrupt, Refused
from shared.serving import arrangement as arrangements
from shared.serving.arrangement import ONNXRUNTIME, OPENVINO, Arrangement
from shared.serving.sessions.onnx import OnnxSession


def variant(runtime="onnx", precision="fp32", **requirements):
    requirements = Requirements(**requirements)
    return Variant(name="v", runtime=runtime, precision=precision, files=("m",), requirements=requirements)


def without_torch(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name == "torch" else find(name))


def test_a_replica_offers_its_providers_and_torch_only_where_it_is(monkeypatch):
    assert {"onnx", "CPUExecutionProvider"} <= offers_here()
    without_torch(monkeypatch)
    assert TORCH not in offers_here()


def test_a_torch_program_without_torch_is_refused_by_name(monkeypatch, tmp_path):
    without_torch(monkeypatch)
    with pytest.raises(Refused, match="torch") as caught:
        open_session(tmp_path / "model.pt2", variant(TORCH), Arrangement())
    assert (caught.value.field, caught.value.value) == ("runtime", TORCH)


def test_a_provider_that_is_not_here_is_refused_and_never_replaced(tmp_path):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has it")
    with pytest.raises(Refused) as caught:
        open_session(tmp_path / "m.onnx", variant(providers=("CUDAExecutionProvider",)), Arrangement())
    assert (caught.value.field, caught.value.value) == ("requirements.providers", "CUDAExecutionProvider")


def test_onnx_is_run_by_onnxruntime_and_an_unknown_runtime_by_nobody(tmp_path):
    assert isinstance(open_session(tmp_path / "m.onnx", variant(), Arrangement()), OnnxSession)
    with pytest.raises(Refused, match="unknown runtime"):
        open_session(tmp_path / "m.bin", variant("tvm"), Arrangement())


@pytest.mark.parametrize("data", [None, b"", b"[]", b'{"inputs": 1}', b"\xff"])
def test_a_signature_that_cannot_be_read(tmp_path, data):
    program = tmp_path / "model.pt2"
    if data is not None:
        signature_path(program).write_bytes(data)
    with pytest.raises(Corrupt, match=r"model\.pt2\.json"):
        read_signature(program)


@pytest.mark.parametrize(
    ("wanted", "made", "runtime", "precision"),
    [
        ((OPENVINO, "bf16"), {}, OPENVINO, "bf16"),
        ((OPENVINO, "bf16"), {"precision": "int8"}, OPENVINO, ""),
        ((OPENVINO, "bf16"), {"providers": ("CUDAExecutionProvider",)}, ONNXRUNTIME, ""),
        ((ONNXRUNTIME, "bf16"), {}, ONNXRUNTIME, ""),
        ((ONNXRUNTIME, "fp16"), {"runtime": TORCH, "providers": ()}, arrangements.TORCH, "fp16"),
        ((OPENVINO, "bf16"), {"runtime": TORCH, "providers": ()}, arrangements.TORCH, "bf16"),
    ],
)
def test_what_is_said_of_all_models_is_done_for_those_it_means_something_for(wanted, made, runtime, precision):
    made = variant(**made)
    found = suited(Arrangement(runtime=wanted[0], precision=wanted[1], lanes=3), made)
    assert (found.runtime, found.precision, found.lanes) == (runtime, precision, 3)
    assert suited(Arrangement(runtime=wanted[0], precision=wanted[1]), made, exact=True).precision == ""
