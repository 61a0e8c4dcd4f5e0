"""The card: told from the manifest alone, the same every time."""

import msgspec
import pytest

from cloud_core.importer.card import card_of
from shared.bundle.manifest import (
    Chunk,
    File,
    Generation,
    Manifest,
    Processing,
    Requirements,
    TaskKind,
    TensorSpec,
    Variant,
)


def file(path, size):
    return File(path=path, size=size, sha256="0" * 64, chunks=(Chunk("0" * 64, size),))


FP32 = Variant(
    name="cpu-fp32",
    runtime="onnx",
    precision="fp32",
    files=("model.fp32.onnx",),
    measured={"load_ms": 41.6, "memory_bytes": 96e6, "ms_1x32": 0.82, "ms_1x128": 3.0, "ms_8x64": 11.0},
    agreement={"source_labels": 1.0, "source_largest_score_difference": 2.3e-7, "batch_labels": 1.0},
)
INT8 = Variant(
    name="cpu-int8",
    runtime="onnx",
    precision="int8",
    files=("model.int8.onnx",),
    measured={"load_ms": 60.0, "memory_bytes": 93e6, "ms_1x32": 0.5},
    agreement={"labels": 0.9875, "largest_score_difference": 0.02},
    accepted_drift="labels 0.9875",
)
CUDA = Variant(
    name="cuda-fp16",
    runtime="onnx",
    precision="fp16",
    files=("model.fp16.onnx",),
    requirements=Requirements(providers=("CUDAExecutionProvider",)),
)
MANIFEST = Manifest(
    name="mood",
    version="1.2.0",
    task=TaskKind.TEXT_CLASSIFICATION,
    variants=(FP32, INT8, CUDA),
    files=(file("model.fp32.onnx", 3_400_000), file("model.int8.onnx", 1_800_000), file("model.fp16.onnx", 1_700_000)),
    labels=("负面", "正面"),
    processing=Processing(max_length=128),
    source={"said": "modelscope:a/b", "kind": "modelscope", "weights_sha256": "ab", "card": "CARD.md"},
)


def lines(text):
    return text.splitlines()


def test_it_says_what_it_is_and_how_good():
    card = card_of(MANIFEST, notes="**Limits.** Two classes.\n", golden=43)
    assert lines(card)[0] == "# mood 1.2.0"
    assert "2 labels: 负面, 正面" in card
    assert "texts of 128 tokens at once" in card
    assert "**Limits.** Two classes." in card
    rows = [line for line in lines(card) if line.startswith("| `")]
    assert rows == [
        "| `cpu-fp32` | onnx | fp32 | 3.4 MB | 96 MB | 42 ms | 0.82 ms | 3.00 ms | 11.00 ms | same answers |",
        "| `cpu-int8` | onnx | int8 | 1.8 MB | 93 MB | 60 ms | 0.50 ms | – | – | same answers |",
        "| `cuda-fp16` | onnx | fp16 | 1.7 MB | not measured | – | – | – | – | same answers |",
    ]
    assert "Not measured there, for want of the hardware: cuda-fp16." in card
    assert "43 inputs were answered by the source itself" in card
    assert "`cpu-fp32` against the source: same label 100.00%, largest difference of a score 2e-07." in card
    assert "`cpu-int8` against fp32: same label 98.75%" in card
    assert "**Accepted drift** of `cpu-int8`: labels 0.9875" in card
    assert [line for line in lines(card) if line.startswith("- ")] == [
        "- said: modelscope:a/b",
        "- kind: modelscope",
        "- weights sha256: ab",
    ]


def test_it_is_the_same_every_time_and_whatever_the_order_of_the_source():
    turned = msgspec.structs.replace(MANIFEST, source=dict(reversed(MANIFEST.source.items())))
    assert card_of(MANIFEST, golden=3) == card_of(turned, golden=3)


def test_a_source_without_a_pipeline_is_not_said_to_have_answered():
    manifest = msgspec.structs.replace(MANIFEST, source={"golden": "the fp32 program's own answers"})
    card = card_of(manifest, golden=43)
    assert "43 inputs were answered by the fp32 program, and" in card
    assert "against the source" not in card


def test_what_depends_on_batch_mates_is_marked():
    unstable = msgspec.structs.replace(INT8, name="cpu-int8-dynamic", batch_invariant=False)
    manifest = msgspec.structs.replace(MANIFEST, variants=(FP32, unstable))
    assert "**depends on its batch mates**" in card_of(manifest)


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        (TaskKind.TOKEN_CLASSIFICATION, {}, "windows that share 64"),
        (TaskKind.TEXT_EMBEDDING, {"outputs": (TensorSpec(name="embedding", datatype="FP32", shape=(-1, 384)),)}, "384 numbers"),
        (TaskKind.RELATION_EXTRACTION, {}, "read in windows"),
        (
            TaskKind.TEXT_GENERATION,
            {"processing": Processing(generation=Generation(layers=1, heads=1, head_size=8, context=256))},
            "at most 256 tokens",
        ),
        (TaskKind.TENSOR, {"inputs": (TensorSpec(name="image", datatype="FP32", shape=(-1, 3)),)}, "takes `image` FP32 [-1, 3]"),
    ],
)  # fmt: skip
def test_every_task_is_described(task, changes, words):
    card = card_of(msgspec.structs.replace(MANIFEST, task=task, **changes))
    assert words in card
    assert f"`{task.value}`" in card


def test_one_run_of_a_tensor_model_has_no_tokens():
    variant = msgspec.structs.replace(FP32, measured={"ms_1x12": 0.1})
    card = card_of(msgspec.structs.replace(MANIFEST, task=TaskKind.TENSOR, variants=(variant,)))
    assert "One run" in card
    assert "12 tokens" not in card


def test_without_measurements_it_promises_none():
    bare = tuple(msgspec.structs.replace(each, measured={}) for each in MANIFEST.variants)
    assert "Measured where" not in card_of(msgspec.structs.replace(MANIFEST, variants=bare))
