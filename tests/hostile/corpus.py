"""The corpus: bundles that must be refused, and by which word, at the control plane's gate and on a device."""

import hashlib
import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from shared.bundle.manifest import Chunk, File, Manifest, Processing, TaskKind, TensorSpec, Variant, canonical
from tests.hostile import programs as p
from tests.shared.serving.bundles import tokenizer

Make = Callable[[Path], bytes]
PIECE = 16 << 20


class Bundle(NamedTuple):
    """A bundle in memory: the manifest's bytes, and its files by name."""

    manifest: bytes
    files: dict[str, bytes]

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_bytes(self.manifest)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder

    def pieces(self) -> dict[str, bytes]:
        """Chunks by digest."""
        found = {}
        for data in self.files.values():
            for start in range(0, max(len(data), 1), PIECE):
                piece = data[start : start + PIECE]
                found[hashlib.sha256(piece).hexdigest()] = piece
        return found


def described(name: str, data: bytes) -> File:
    pieces = [data[start : start + PIECE] for start in range(0, max(len(data), 1), PIECE)]
    chunks = tuple(Chunk(hashlib.sha256(piece).hexdigest(), len(piece)) for piece in pieces)
    return File(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), chunks=chunks)


def bundle(name: str, program: bytes, *, extra: dict[str, bytes] | None = None, **more: object) -> Bundle:
    """A `tensor` bundle around a program, unless `more` says otherwise."""
    files = {"model.onnx": program, **(extra or {})}
    inputs = _inputs(program) if "task" not in more else ()
    manifest = Manifest(
        name=name,
        version="1.0.0",
        files=tuple(described(path, data) for path, data in files.items()),
        **{
            "task": TaskKind.TENSOR,
            "inputs": inputs,
            "variants": (Variant(name="cpu", runtime="onnx", precision="fp32", files=("model.onnx",)),),
            **more,
        },
    )
    return Bundle(canonical(manifest), files)


def _inputs(program: bytes) -> tuple[TensorSpec, ...]:
    """What the program says it takes, where it is one."""
    try:
        graph = onnx.load_from_string(program).graph
    except DecodeError:
        return ()
    kinds = {TensorProto.FLOAT: "FP32", TensorProto.BOOL: "BOOL"}
    return tuple(
        TensorSpec(
            name=one.name,
            datatype=kinds[one.type.tensor_type.elem_type],
            shape=tuple(dim.dim_value or -1 for dim in one.type.tensor_type.shape.dim),
        )
        for one in graph.input
    )


def texts(name: str, extra: dict[str, bytes], **processing: object) -> Bundle:
    """A bundle of a model of texts; what is wrong with it is among the other files."""
    table = np.zeros((17, 2), np.float32)
    import tempfile

    from tests.shared.serving.bundles import per_token

    with tempfile.TemporaryDirectory() as folder:
        per_token(table, "logits", pool=True, path=Path(folder) / "m.onnx")
        program = (Path(folder) / "m.onnx").read_bytes()
    files = {"tokenizer.json": tokenizer().to_str().encode(), **extra}
    golden = "golden.json" if "golden.json" in files else None
    used = Processing(tokenizer="tokenizer.json", max_length=16, **processing)
    return bundle(
        name, program, extra=files, task=TaskKind.TEXT_CLASSIFICATION, labels=("a", "b"), processing=used, golden=golden
    )


def golden(*items: object, **tolerances: float) -> bytes:
    return json.dumps({"items": items, "tolerances": tolerances}).encode()


def arrays(**named: np.ndarray) -> bytes:
    into = BytesIO()
    np.savez_compressed(into, **named)
    return into.getvalue()


class Hostile(NamedTuple):
    """One of the corpus: what it is called, how it is made (given where a sentinel file would appear), and what refuses it.

    `gate` and `device` are codes.
    """

    name: str
    make: Callable[[Path], Bundle]
    gate: str
    device: str


def program(name: str, make: Callable[[], bytes], gate: str, device: str | None = None) -> Hostile:
    return Hostile(name, lambda _: bundle(name, make()), gate, device or gate)


def _with_object(sentinel: Path) -> bytes:
    return arrays(start_transitions=np.array([p._Touches(sentinel)], dtype=object))


CORPUS = (
    # External data: every form of a location, and every place a tensor can stand.
    program("outside-parent", lambda: p.outside("../secret.bin"), "external-data"),
    program("outside-roundabout", lambda: p.outside("a/../../secret.bin"), "external-data"),
    program("outside-absolute", lambda: p.outside("/etc/hostname"), "external-data"),
    program("outside-beside", lambda: p.outside("tokenizer.json"), "external-data"),
    program("outside-itself", lambda: p.outside("model.onnx"), "external-data"),
    program("outside-before-the-file", lambda: p.outside("model.onnx", offset=-8), "external-data"),
    program("outside-far-beyond", lambda: p.outside("model.onnx", offset=1 << 40), "external-data"),
    program("outside-in-memory", lambda: p.outside("*/_ORT_MEM_ADDR_/*", offset=1), "external-data"),
    program("outside-in-an-attribute", lambda: p.outside("x", where="attribute"), "external-data"),
    program("outside-in-a-subgraph", lambda: p.outside("x", where="subgraph"), "external-data"),
    program("outside-in-a-sparse-tensor", lambda: p.outside("x", where="sparse"), "forbidden-content"),
    # What kills, hangs or bloats the process that loads it.
    program("functions-3000-deep", lambda: p.functions(3000), "forbidden-operator"),
    program("stride-zero", p.stride_zero, "invalid-program", "corrupt"),
    program("loop-endless", p.endless_loop, "too-slow"),
    program("bomb-constant", lambda: p.filled(200_000), "too-large"),
    program("bomb-at-run", p.filled_at_run, "too-large"),
    program("bomb-expand", lambda: p.spread("Expand"), "too-large"),
    program("bomb-tile", lambda: p.spread("Tile"), "too-large", "does-not-run"),
    program("nested-branches", lambda: p.nested(12), "forbidden-content"),
    program("million-nodes", lambda: p.many_nodes(1_000_000), "too-large"),
    program("dims-huge", lambda: p.huge([1 << 20, 1 << 20]), "too-large"),
    program("dims-overflowing", lambda: p.huge([1 << 32, 1 << 32]), "too-large"),
    program("dims-negative", lambda: p.huge([-4]), "forbidden-content"),
    program("sparse-huge", p.sparse, "forbidden-content"),
    # Operators that are none of ours.
    program("op-unknown-domain", lambda: p.one("Any", "evil.example").SerializeToString(), "forbidden-operator"),
    program("op-python", lambda: p.one("PyOp", "ai.onnx.contrib", module="os").SerializeToString(), "forbidden-operator"),
    program("op-python-of-training", lambda: p.one("PythonOp", "com.microsoft").SerializeToString(), "forbidden-operator"),
    program("op-that-loads-files", lambda: p.one("EPContext", "com.microsoft").SerializeToString(), "forbidden-operator"),
    program("op-that-does-not-exist", lambda: p.one("Frobnicate").SerializeToString(), "invalid-program", "corrupt"),
    program("opset-of-the-future", lambda: p.model([helper.make_node("Relu", ["x"], ["y"])], [p.value("x", [1])], [p.value("y", [1])], opsets=[helper.make_opsetid("", 99)]).SerializeToString(), "unsupported-opset"),
    program("ir-of-the-future", lambda: p.model([helper.make_node("Relu", ["x"], ["y"])], [p.value("x", [1])], [p.value("y", [1])], ir=99).SerializeToString(), "unsupported-opset"),
    # No programs at all.
    program("truncated", lambda: p.good()[:40], "not-onnx"),
    program("empty", lambda: b"", "not-onnx"),
    program("noise", p.noise, "not-onnx"),
    Hostile("pickle", lambda s: bundle("pickle", p.pickled(s)), "not-onnx", "not-onnx"),
    Hostile("pickle-of-old", lambda s: bundle("pickle-of-old", p.pickled(s, 0)), "not-onnx", "not-onnx"),
    Hostile("torch-archive", lambda s: bundle("torch-archive", p.zipped(s)), "not-onnx", "not-onnx"),
    program("ort-format", lambda: b"\x1c\0\0\0ORTM" + bytes(100), "not-onnx"),
    program("hdf5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "not-onnx"),
    # What lies beside the program.
    Hostile("array-of-objects", lambda s: texts("array-of-objects", {"crf.npz": _with_object(s)}, crf="crf.npz"), "forbidden-content", "forbidden-content"),
    Hostile("array-pickled", lambda s: texts("array-pickled", {"crf.npz": p.pickled(s)}, crf="crf.npz"), "forbidden-content", "forbidden-content"),
    Hostile("array-bomb", lambda _: texts("array-bomb", {"crf.npz": arrays(x=np.zeros(300 << 20, np.uint8))}, crf="crf.npz"), "too-large", "too-large"),
    Hostile("tokenizer-nested", lambda _: texts("tokenizer-nested", {"tokenizer.json": b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}"}), "forbidden-content", "forbidden-content"),
    Hostile("tokenizer-is-none", lambda _: texts("tokenizer-is-none", {"tokenizer.json": b'{"model": {"type": "Magic"}}'}), "corrupt", "corrupt"),
    Hostile("tokenizer-pickled", lambda s: texts("tokenizer-pickled", {"tokenizer.json": p.pickled(s)}), "forbidden-content", "forbidden-content"),
    Hostile("tokenizer-huge", lambda _: texts("tokenizer-huge", {"tokenizer.json": b'{"a": "' + b"a" * (65 << 20) + b'"}'}), "too-large", "too-large"),
    Hostile("file-of-another-kind", lambda s: bundle("file-of-another-kind", p.good(), extra={"weights.bin": p.pickled(s)}), "forbidden-content", "forbidden-content"),
    Hostile("readme-pickled", lambda s: bundle("readme-pickled", p.good(), extra={"README.md": p.pickled(s)}), "forbidden-content", "forbidden-content"),
    # Models that run and answer nonsense.
    Hostile("answers-nan", lambda _: bundle("answers-nan", p.not_a_number(), extra={"golden.json": golden({"inputs": {"x": [[1.0, 2.0, 3.0]]}, "expect": {"outputs": {"y": [[1.0, 1.0, 1.0]]}}}, cpu=1e9)}, golden="golden.json", inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),)), "golden-differs", "golden-differs"),
    Hostile("answers-something-else", lambda _: texts("answers-something-else", {"golden.json": golden({"text": "好", "expect": {"label": "b", "score": 1.0}})}), "golden-differs", "golden-differs"),
    Hostile("golden-of-nan", lambda _: texts("golden-of-nan", {"golden.json": b'{"items": [{"text": "a", "expect": {"score": NaN}}]}'}), "forbidden-content", "forbidden-content"),
    Hostile("golden-nested", lambda _: texts("golden-nested", {"golden.json": b'{"items": [{"text": "a", "expect": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}]}"}), "forbidden-content", "forbidden-content"),
    Hostile("golden-of-other-inputs", lambda _: bundle("golden-of-other-inputs", p.good(), extra={"golden.json": golden({"inputs": {"z": [[["a"]]]}, "expect": {}})}, golden="golden.json"), "corrupt", "corrupt"),
    Hostile("golden-that-means-nothing", lambda _: texts("golden-that-means-nothing", {"golden.json": golden({"text": "好", "expect": {"label": 5, "score": {}}})}), "golden-differs", "golden-differs"),
)  # fmt: skip
"""Every bundle here is whole and says the truth of its own bytes: only what the bytes are is wrong."""

MANIFESTS = {
    "name-parent": {"path": "../model.onnx"},
    "name-absolute": {"path": "/etc/passwd"},
    "name-folder": {"path": "a/model.onnx"},
    "name-hidden": {"path": ".model.onnx"},
    "name-option": {"path": "-model.onnx"},
    "name-nul": {"path": "model\0.onnx"},
    "name-manifest": {"path": "manifest.json"},
}
"""Names of files no manifest may have."""


def renamed(path: str) -> Bundle:
    """A bundle whose manifest names its file so."""
    made = bundle("renamed", p.good())
    document = msgspec.json.decode(made.manifest)
    document["files"][0]["path"] = path
    document["variants"][0]["files"] = [path]
    return Bundle(msgspec.json.encode(document, order="sorted"), made.files)


def _linked(folder: Path) -> None:
    (folder.parent / "elsewhere").write_bytes((folder / "model.onnx").read_bytes())
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("../elsewhere")


FOLDERS: dict[str, Callable[[Path], object]] = {
    "dotfile": lambda folder: (folder / ".hidden").write_bytes(b"x"),
    "git": lambda folder: (folder / ".git").mkdir(),
    "extra": lambda folder: (folder / "extra.bin").write_bytes(b"x"),
    "folder": lambda folder: (folder / "more").mkdir(),
    "link": _linked,
    "link-beside": lambda folder: (folder / "more.txt").symlink_to("/etc/passwd"),
    "hard-link": lambda folder: os.link(folder / "model.onnx", folder.parent / "second-name"),
    "pipe": lambda folder: ((folder / "model.onnx").unlink(), os.mkfifo(folder / "model.onnx")),
    "changed": lambda folder: (folder / "model.onnx").write_bytes(p.good() + b"\x12\x00"),
}
"""What is done to the folder of a good bundle."""
