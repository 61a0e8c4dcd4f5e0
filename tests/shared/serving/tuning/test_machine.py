"""What a measurement holds for, and what can run a variant here."""

import msgspec
import pytest

from shared.bundle.manifest import Requirements, Variant
from shared.serving.decide.tuned import Machine
from shared.serving.decide.ways import Program
from shared.serving.tuning.machine import machine_here, programs_of, version_of
from shared.serving.tuning.turn import turn

FP32 = Variant(name="cpu-fp32", runtime="onnx", precision="fp32", files=("m.onnx",))
INT8 = msgspec.structs.replace(FP32, name="cpu-int8", precision="int8")
BOTH = {"onnxruntime": "1.31.1", "openvino": "2026.4.1"}


def machine(*features, runtimes=BOTH):
    return Machine(machine="x86_64", model="A", features=features, cores=2, runtimes=runtimes)


def runs(variant, here):
    return [(program.runtime, program.precision) for program in programs_of(variant, here)]


def test_this_machine_can_be_told_from_others():
    here = machine_here()
    assert here == machine_here()
    assert here.cores >= 1
    assert here.runtimes["onnxruntime"] == version_of("onnxruntime") != ""
    assert version_of("no-such-package-at-all") == ""
    others = [
        msgspec.structs.replace(here, **change)
        for change in (
            {"model": "B"},
            {"features": ("x",)},
            {"cores": here.cores + 1},
            {"runtimes": {"onnxruntime": "0"}},
        )
    ]
    assert len({here.key, *(other.key for other in others)}) == 5


@pytest.mark.parametrize("feature", ["amx_bf16", "avx512_bf16", "bf16"])
def test_bf16_is_for_whole_weights_on_processors_that_compute_it(feature):
    assert runs(FP32, machine(feature)) == [("onnxruntime", ""), ("openvino", ""), ("openvino", "bf16")]
    assert runs(FP32, machine()) == [("onnxruntime", ""), ("openvino", "")]
    assert runs(INT8, machine(feature)) == [("onnxruntime", ""), ("openvino", "")]
    exactly = programs_of(FP32, machine(feature), exact=True)
    assert [(program.runtime, program.precision) for program in exactly] == [("onnxruntime", ""), ("openvino", "")]


def test_what_is_not_here_runs_nothing():
    assert runs(FP32, machine(runtimes={"onnxruntime": "1"})) == [("onnxruntime", "")]
    torch = msgspec.structs.replace(FP32, runtime="torch")
    gpu = msgspec.structs.replace(FP32, requirements=Requirements(providers=("CUDAExecutionProvider",)))
    assert programs_of(torch, machine()) == programs_of(gpu, machine()) == ()
    assert programs_of(FP32, machine(runtimes={"onnxruntime": "1"})) == (Program(variant="cpu-fp32"),)


def test_one_run_at_a_time(tmp_path):
    with turn(tmp_path) as ours:
        assert ours
        with turn(tmp_path) as theirs:
            assert not theirs
    with turn(tmp_path) as again:
        assert again


def test_where_nothing_can_be_locked_everybody_is_let_in(tmp_path):
    with turn(tmp_path / "absent") as one, turn(tmp_path / "absent") as other:
        assert one
        assert other
