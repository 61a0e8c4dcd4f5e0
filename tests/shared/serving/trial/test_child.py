"""Real trials of real bundles, in the child that confines itself."""

import asyncio
import sys

import msgspec
import pytest

from shared.bundle.manifest import MANIFEST_FILE, Manifest, Requirements, TaskKind, TensorSpec, Variant, canonical
from shared.protocol.reported import Isolation
from shared.serving.arrangement import OPENVINO
from shared.serving.trial.run import try_bundle
from shared.serving.trial.verdict import Died, Passed, TrialLimits, TrialRequest
from shared.serving.versions.plain_onnx import tried_onnx
from tests.hostile import programs
from tests.hostile.corpus import bundle as tensor_bundle
from tests.shared.serving.bundles import adder, bundle, echo, files_of
from tests.shared.serving.in_process import try_in_process


def tried(folder, variant="cpu", *, program=None, **more):
    limits = TrialLimits(memory_bytes=more.pop("memory", 2 << 30), seconds=more.pop("seconds", 60.0))
    request = TrialRequest(folder=str(folder), variant=variant, limits=limits, **more)
    return asyncio.run(try_bundle(request, **({} if program is None else {"program": program})))


def text_bundle(folder, task=TaskKind.TEXT_CLASSIFICATION, **more):
    manifest = bundle(folder, "m", task, **more)
    (folder / MANIFEST_FILE).write_bytes(canonical(manifest))
    return manifest


def rewritten(folder, manifest, **changes):
    (folder / MANIFEST_FILE).write_bytes(canonical(msgspec.structs.replace(manifest, **changes)))


@pytest.mark.parametrize("task", [TaskKind.TEXT_CLASSIFICATION, TaskKind.TOKEN_CLASSIFICATION, TaskKind.TEXT_EMBEDDING])
def test_what_serves_passes_and_is_measured(tmp_path, task):
    text_bundle(tmp_path, task)
    found = tried(tmp_path, measure=True)
    assert isinstance(found, Passed), found
    assert found.isolation is not Isolation.NONE
    # Of the sizes that are measured only the shortest fits a model of 16 tokens.
    assert set(found.measured) == {"load_ms", "memory_bytes", "ms_1x16"}
    assert found.measured["memory_bytes"] > 20e6
    assert all(value > 0 for value in found.measured.values())
    assert {spec.name for spec in found.inputs} >= {"input_ids"}
    assert tried(tmp_path).measured == {}


def test_the_golden_set_is_replayed_alone_and_in_a_batch(tmp_path):
    items = [{"text": "好", "expect": {"label": "正面"}}] * 11 + [{"text": "坏", "expect": {"label": "正面"}}]
    text_bundle(tmp_path / "bad", golden=items)
    died = tried(tmp_path / "bad")
    assert (died.code, died.differences) == ("golden-differs", ("item 11: label 负面 instead of 正面",))
    text_bundle(tmp_path / "good", golden=items[:-1])
    assert isinstance(tried(tmp_path / "good"), Passed)


def test_a_runtime_that_dies_of_signal_11_takes_only_the_child_with_it(tmp_path):
    """What the checks refuse is given to ONNX Runtime all the same: the process is the second line, and it holds."""
    folder = tensor_bundle("deep", programs.functions(3000)).write(tmp_path / "deep")
    rewritten(folder, msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=Manifest), inputs=())
    unchecked = """
from shared.serving.trial import child
def prepare():
    from shared.serving.trial import contents
    contents.check_contents = lambda *_: None
child.main(prepare)
"""
    died = tried(folder, program=(sys.executable, "-P", "-c", unchecked))
    assert (died.code, "SIGSEGV" in died.message) == ("crashed", True), died


def test_processor_time_is_bounded_where_the_parent_is_not_there_to_see_it(tmp_path):
    folder = tensor_bundle("loop", programs.endless_loop()).write(tmp_path / "loop")
    died = tried(folder, seconds=3.0)
    assert died.code == "too-slow"


def test_memory_is_bounded_in_the_runtime_in_python_and_in_rust(tmp_path):
    folder = tensor_bundle("bomb", programs.filled_at_run()).write(tmp_path / "bomb")
    died = tried(folder)
    assert (died.code, died.message.startswith("it needs more than 2147483648 B")) == ("too-large", True)
    text_bundle(tmp_path / "text")
    assert isinstance(tried(tmp_path / "text", memory=256 << 20), Passed)
    # Less than the libraries need for anything at all.
    assert tried(tmp_path / "text", memory=1 << 20).code in ("too-large", "crashed")


@pytest.mark.parametrize(
    ("changes", "unrun"),
    [
        ({"runtime": "torch-export"}, "torch-export"),
        ({"requirements": Requirements(providers=("CUDAExecutionProvider",))}, "CUDA"),
    ],
)
def test_what_cannot_be_run_here_is_only_looked_at_and_that_is_said(tmp_path, changes, unrun):
    manifest = text_bundle(tmp_path)
    (variant,) = manifest.variants
    rewritten(tmp_path, manifest, variants=(msgspec.structs.replace(variant, **changes),))
    found = tried(tmp_path)
    assert isinstance(found, Passed)
    assert unrun in found.unrun


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ((), "inputs"),
        ((TensorSpec(name="z", datatype="FP32", shape=(-1, 3)),), "inputs"),
        ((TensorSpec(name="x", datatype="INT64", shape=(-1, 3)),), "inputs"),
    ],
)
def test_a_tensor_model_says_what_its_program_takes(tmp_path, inputs, field):
    folder = tensor_bundle("adder", programs.good(), inputs=inputs).write(tmp_path / "adder")
    died = tried(folder)
    assert (died.code, died.field) == ("other-signature", field)
    assert "x FP32" in died.message


def test_a_shape_that_is_not_the_programs(tmp_path):
    wrong = (TensorSpec(name="x", datatype="FP32", shape=(1, 4)),)
    folder = tensor_bundle("adder", programs.good(), inputs=wrong).write(tmp_path / "adder")
    assert tried(folder).code == "does-not-run"


def test_an_input_can_be_made_up_where_there_is_no_golden_set(tmp_path):
    async def manifest(path):
        return await tried_onnx(path, trial=try_bundle)

    found = asyncio.run(manifest(adder(tmp_path / "My adder.onnx")))
    assert (found.name, found.inputs[0].shape, found.variants[0].files) == ("my-adder", (-1, 3), ("My adder.onnx",))
    assert asyncio.run(manifest(echo(tmp_path / "echo.onnx"))).inputs[0].datatype == "BYTES"


def test_a_variant_or_manifest_that_is_not_there(tmp_path):
    text_bundle(tmp_path)
    assert tried(tmp_path, "gpu").code == "not-found"
    (tmp_path / MANIFEST_FILE).write_bytes(b"{")
    assert isinstance(tried(tmp_path), Died)
    (tmp_path / MANIFEST_FILE).unlink()
    assert tried(tmp_path).code == "crashed"


def test_threads_and_a_relative_folder(tmp_path, monkeypatch):
    text_bundle(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    assert isinstance(tried("m", threads=2), Passed)


def test_the_double_of_other_tests_says_what_the_child_says(tmp_path):
    text_bundle(tmp_path / "good")
    text_bundle(tmp_path / "bad", golden=[{"text": "好", "expect": {"label": "负面"}}])
    tensor_bundle("evil", programs.outside("x")).write(tmp_path / "evil")
    for name in ("good", "bad", "evil"):
        real = tried(tmp_path / name)
        double = asyncio.run(try_in_process(TrialRequest(folder=str(tmp_path / name), variant="cpu")))
        assert (type(double), getattr(double, "code", "")) == (type(real), getattr(real, "code", ""))


def test_variants_of_a_bundle_are_tried_one_by_one(tmp_path):
    manifest = text_bundle(tmp_path)
    other = Variant(name="other", runtime="onnx", precision="fp32", files=("model.onnx",))
    rewritten(tmp_path, manifest, variants=(*manifest.variants, other))
    assert isinstance(tried(tmp_path, "other"), Passed)


@pytest.mark.parametrize("task", [TaskKind.TEXT_CLASSIFICATION, TaskKind.TOKEN_CLASSIFICATION, TaskKind.TENSOR])
def test_openvino_is_tried_in_the_child_too(tmp_path, task):
    manifest = text_bundle(tmp_path, task)
    if task is TaskKind.TENSOR:
        rewritten(tmp_path, manifest, inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),))
    found = tried(tmp_path, runtime=OPENVINO)
    assert isinstance(found, Passed), found


def test_what_passed_in_one_runtime_does_not_pass_in_another_that_cannot_run_it(tmp_path):
    manifest = bundle(tmp_path, "text", TaskKind.TENSOR)
    echo(tmp_path / "model.onnx")
    rewritten(
        tmp_path,
        manifest,
        inputs=(TensorSpec(name="s", datatype="BYTES", shape=(-1,)),),
        files=files_of(tmp_path),
    )
    assert isinstance(tried(tmp_path), Passed)
    found = tried(tmp_path, runtime=OPENVINO)
    assert isinstance(found, Died), found
    assert (found.code, found.field) == ("unsupported", "arrangement.runtime")
