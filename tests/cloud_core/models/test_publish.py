import json
import random

import onnx
import pytest
from onnx import TensorProto, helper

from cloud_core.models.publish import build_bundle
from cloud_core.models.shipped import shipped_models
from shared.bundle.install import install, verify_installed
from shared.bundle.manifest import TaskKind, digest_of, parse_manifest
from shared.bundle.store import ChunkStore
from shared.protocol.errors import Corrupt, Refused

SOURCE = {
    "name": "tiny-zh",
    "version": "1.2.0",
    "task": "text-classification",
    "labels": ["negative", "positive"],
    "max_length": 64,
    "processing": {"lowercase": False, "clean_text": True},
    "dev_scores": {"accuracy": 0.9},
}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    write(folder, SOURCE)
    (folder / "model.fp32.onnx").write_bytes(b"wide" * 100)
    (folder / "model.int8.onnx").write_bytes(b"narrow" * 20)
    (folder / "tokenizer.json").write_bytes(b"{}")
    (folder / "golden.json").write_bytes(b'{"items":[]}')
    (folder / "CARD.md").write_bytes(b"# tiny")
    (folder / "vocab.txt").write_bytes(b"not part of it")
    return folder


@pytest.fixture
def store(tmp_path):
    return ChunkStore(tmp_path / "chunks")


def write(folder, model):
    (folder / "model.json").write_text(json.dumps(model, ensure_ascii=False))


def test_a_source_folder_becomes_a_bundle(source, store):
    manifest, data = build_bundle(source, store)
    assert parse_manifest(data) == manifest
    assert (manifest.name, manifest.version, manifest.task) == ("tiny-zh", "1.2.0", TaskKind.TEXT_CLASSIFICATION)
    assert [(v.name, v.runtime, v.precision, v.files) for v in manifest.variants] == [
        ("cpu-fp32", "onnx", "fp32", ("model.fp32.onnx",)),
        ("cpu-int8", "onnx", "int8", ("model.int8.onnx",)),
    ]
    assert all(v.batch_invariant and v.requirements.memory_bytes > 0 for v in manifest.variants)
    common = {"tokenizer.json", "golden.json", "CARD.md"}
    assert {entry.path for entry in manifest.files_of("cpu-int8")} == {"model.int8.onnx", *common}
    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.inputs] == [("text", "BYTES", (-1,))]
    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.outputs] == [
        ("label", "BYTES", (-1,)),
        ("score", "FP32", (-1,)),
        ("scores", "FP32", (-1, 2)),
    ]
    assert manifest.processing.tokenizer == "tokenizer.json"
    assert (manifest.processing.max_length, manifest.processing.lowercase) == (64, False)
    assert (manifest.golden, manifest.vector_space) == ("golden.json", None)
    assert manifest.source == {"kind": "trained", "card": "CARD.md"}


def test_publishing_twice_is_publishing_once(source, store, tmp_path):
    _, first = build_bundle(source, store)
    held = store.held()
    _, second = build_bundle(source, ChunkStore(tmp_path / "elsewhere"))
    assert first == second
    build_bundle(source, store)
    assert store.held() == held


def test_a_large_file_is_cut_into_pieces(source, store, tmp_path):
    (source / "model.fp32.onnx").write_bytes(wide := random.Random(1).randbytes(1_000_000))
    manifest, data = build_bundle(source, store)
    assert len(manifest.file("model.fp32.onnx").chunks) > 5
    assert len(manifest.file("model.int8.onnx").chunks) == 1
    folder = install(data, "cpu-fp32", store, tmp_path / "bundles")
    assert (folder / "model.fp32.onnx").read_bytes() == wide


def test_the_vector_space_follows_name_major_version_and_weights(source, store):
    embedding = SOURCE | {"task": "text-embedding", "pooling": "cls", "normalize": True, "dimension": 8}
    write(source, embedding)
    manifest, _ = build_bundle(source, store)
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [("embedding", (-1, 8))]
    assert (manifest.processing.pooling, manifest.processing.normalize) == ("cls", True)
    write(source, embedding | {"version": "1.3.0"})
    assert build_bundle(source, store)[0].vector_space == manifest.vector_space
    write(source, embedding | {"version": "2.0.0"})
    assert build_bundle(source, store)[0].vector_space != manifest.vector_space
    write(source, embedding)
    (source / "model.fp32.onnx").write_bytes(b"other weights")
    assert build_bundle(source, store)[0].vector_space != manifest.vector_space


def test_one_variant_alone_will_do(source, store):
    (source / "model.int8.onnx").unlink()
    assert [variant.name for variant in build_bundle(source, store)[0].variants] == ["cpu-fp32"]


def test_a_ready_bundle_is_published_byte_for_byte(source, store, tmp_path):
    (source / "model.int8.onnx").unlink()
    _, data = build_bundle(source, store)
    data = b'{"later":"thing",' + data[1:]
    folder = install(data, "cpu-fp32", store, tmp_path / "bundles")
    other = ChunkStore(tmp_path / "other")
    manifest, published = build_bundle(folder, other)
    assert published == data
    assert {chunk.digest for entry in manifest.files for chunk in entry.chunks} == other.held()


def test_a_ready_bundle_that_was_changed_is_refused(source, store, tmp_path):
    (source / "model.int8.onnx").unlink()
    _, data = build_bundle(source, store)
    folder = install(data, "cpu-fp32", store, tmp_path / "bundles")
    good = (folder / "tokenizer.json").read_bytes()
    for change in (
        lambda: (folder / "tokenizer.json").write_bytes(good + b" "),
        lambda: (folder / "tokenizer.json").write_bytes(b"[]"),
        (folder / "tokenizer.json").unlink,
    ):
        change()
        with pytest.raises(Refused) as caught:
            build_bundle(folder, ChunkStore(tmp_path / "other"))
        assert caught.value.field.startswith("files[")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Tiny ZH"}, "model.json.name"),
        ({"version": "1"}, "model.json.version"),
        ({"task": "poetry"}, "model.json.task"),
        ({"labels": []}, "model.json.labels"),
        ({"labels": ["a", "a"]}, "model.json.labels"),
        ({"labels": "ab"}, "model.json.labels"),
        ({"max_length": 0}, "model.json.max_length"),
        ({"max_length": "64"}, "model.json.max_length"),
        ({"task": "text-embedding"}, "model.json.pooling"),
        ({"task": "text-embedding", "pooling": "cls", "dimension": 0}, "model.json.dimension"),
        ({"processing": []}, "model.json.processing"),
    ],
)
def test_a_bad_description_is_refused_by_its_field(source, store, change, field):
    write(source, SOURCE | change)
    with pytest.raises(Refused) as caught:
        build_bundle(source, store)
    assert caught.value.field == field
    assert store.held() == frozenset()


@pytest.mark.parametrize("missing", ["name", "version", "task"])
def test_a_missing_field_is_refused(source, store, missing):
    write(source, {key: value for key, value in SOURCE.items() if key != missing})
    with pytest.raises(Refused, match=missing):
        build_bundle(source, store)


def test_what_is_no_model_is_refused(source, store, tmp_path):
    (source / "tokenizer.json").unlink()
    with pytest.raises(Refused) as caught:
        build_bundle(source, store)
    assert caught.value.field == "tokenizer.json"
    for name in ("model.fp32.onnx", "model.int8.onnx"):
        (source / name).unlink()
    with pytest.raises(Refused) as caught:
        build_bundle(source, store)
    assert caught.value.field == "files"
    (source / "model.json").write_bytes(b"\xff{")
    with pytest.raises(Refused):
        build_bundle(source, store)
    with pytest.raises(Refused) as caught:
        build_bundle(tmp_path / "nowhere", store)
    assert caught.value.field == "model.json"


def test_links_are_not_followed(source, store, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (source / "CARD.md").unlink()
    (source / "CARD.md").symlink_to(tmp_path / "secret")
    with pytest.raises(Refused) as caught:
        build_bundle(source, store)
    assert caught.value.field == "CARD.md"


def test_a_plain_program_becomes_a_tensor_model(tmp_path, store):
    node = helper.make_node("Identity", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "Same Again.onnx")
    manifest, data = build_bundle(tmp_path / "Same Again.onnx", store)
    assert (manifest.name, manifest.task) == ("same-again", TaskKind.TENSOR)
    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.inputs] == [("x", "FP32", (-1, 3))]
    (variant,) = manifest.variants
    verify_installed(install(data, variant.name, store, tmp_path / "bundles"))
    with pytest.raises(Refused):
        build_bundle(tmp_path / "absent.onnx", store)
    (tmp_path / "text.onnx").write_text("no program")
    with pytest.raises(Corrupt):
        build_bundle(tmp_path / "text.onnx", store)


def test_the_shipped_models_are_whole(tmp_path):
    folders = shipped_models()
    assert [folder.name for folder in folders] == ["embed-zh", "ner-zh", "sentiment-zh", "tiny-lm"]
    store = ChunkStore(tmp_path / "chunks")
    for folder in folders:
        manifest, data = build_bundle(folder, store)
        assert manifest.name == folder.name
        narrower = [] if manifest.task is TaskKind.TEXT_GENERATION else ["cpu-int8"]
        assert [variant.name for variant in manifest.variants] == ["cpu-fp32", *narrower]
        for variant in manifest.variants:
            found = verify_installed(install(data, variant.name, store, tmp_path / "bundles"))
            assert found.digest == digest_of(data)
            assert (found.folder / "golden.json").is_file()
            assert (manifest.processing.crf is not None) == (manifest.task is TaskKind.TOKEN_CLASSIFICATION)
