"""The card of a version says everything that was measured, and takes what a source says of itself as text."""

import io

from rich.console import Console

from cloud_core.ctl.card import VersionDetail, card
from shared.bundle.manifest import Chunk, File, Manifest, Processing, Requirements, TaskKind, TensorSpec, Variant

FILES = tuple(
    File(path=path, size=size, sha256="0" * 64, chunks=(Chunk("0" * 64, size),))
    for path, size in (("model.fp32.onnx", 400_000_000), ("model.int8.onnx", 100_000_000), ("tokenizer.json", 400_000))
)
MANIFEST = Manifest(
    name="sentiment",
    version="1.0.0",
    task=TaskKind.TEXT_CLASSIFICATION,
    files=FILES,
    labels=("负面", "正面"),
    inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
    processing=Processing(tokenizer="tokenizer.json", max_length=510),
    source={"kind": "modelscope", "id": "damo/nlp_structbert", "note": "[red]not red[/red]"},
    vector_space="sentiment@1:abc",
    variants=(
        Variant(
            name="cpu-fp32",
            runtime="onnx",
            precision="fp32",
            files=("model.fp32.onnx",),
            requirements=Requirements(memory_bytes=700_000_000),
            measured={"load_ms": 812.5, "memory_bytes": 698e6, "ms_8x64": 86.9, "ms_1x32": 5.7},
            agreement={"labels": 1.0, "batch_labels": 0.996, "batch_largest_score_difference": 1.5e-06},
        ),
        Variant(
            name="cpu-int8",
            runtime="onnx",
            precision="int8",
            files=("model.int8.onnx",),
            batch_invariant=False,
            agreement={"labels": 0.987, "least_cosine": 0.99},
            accepted_drift="labels 0.987",
        ),
    ),
)


def test_all_that_was_measured_is_there() -> None:
    detail = VersionDetail(
        model="sentiment",
        version="1.0.0",
        digest="ab" * 32,
        task="text-classification",
        size=500_400_000,
        published_by="user:ann",
        created_at=0.0,
        manifest=MANIFEST,
    )
    out = io.StringIO()
    Console(file=out, width=220).print(card(detail))
    said = out.getvalue()
    for words in (
        "sentiment@1.0.0", "id: damo/nlp_structbert", "[red]not red[/red]", "负面, 正面", "text of up to 510 tokens", "ab" * 32,
        "by user:ann", "500 MB in 3 files", "fp32 (onnx)", "400 MB", "700 MB", "698 MB", "812 ms", "1x32: 5.7 ms",
        "8x64: 86.9 ms", "labels 100.0 %", "labels 98.7 %", "least cosine 0.99", "same answer in any batch",
        "depends on its batch", "labels 99.6 %", "largest score difference 1.5e-06", "cpu-int8 was let in although it misses the bar: labels 0.987", "sentiment@1:abc",
    ):  # fmt: skip
        assert words in said, (words, said)
    assert said.index("1x32") < said.index("8x64")
