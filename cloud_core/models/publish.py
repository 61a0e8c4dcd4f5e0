"""Making a bundle: a folder becomes chunks in a store and a manifest that names them.

What can be published: a source folder with `model.json`, a bundle with a ready `manifest.json`, and a plain `.onnx` file.
The same input always gives the same bytes, so publishing twice is publishing once.
"""

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cloud_core.models.source import Source, read_source
from shared.bundle.manifest import (
    MANIFEST_FILE,
    MAX_BYTES,
    Chunk,
    File,
    Manifest,
    Processing,
    Requirements,
    TaskKind,
    TensorSpec,
    Variant,
    canonical,
    check_manifest,
    parse_manifest,
)
from shared.bundle.store import ChunkStore, disk
from shared.protocol.errors import Refusal, Refused
from shared.serving.plain_onnx import manifest_of_onnx

RUNTIME = "onnx"
WHOLE_UP_TO = 8 << 20
"""A file up to this size is one chunk."""
PIECE = 4 << 20
"""Larger files are cut into chunks of this size."""
SESSION_BYTES = 32 << 20
"""What a session takes besides its weights: arena, graph, tokenizer."""
VARIANTS = {"cpu-fp32": ("model.fp32.onnx", "fp32"), "cpu-int8": ("model.int8.onnx", "int8")}
PROGRAM = "model.onnx"
TOKENIZER, CRF, GOLDEN, CARD = "tokenizer.json", "crf.npz", "golden.json", "CARD.md"

Built = tuple[Manifest, bytes]


def build_bundle(source: Path, into: ChunkStore) -> Built:
    """The manifest of what is at `source`, and its canonical bytes; every chunk is in `into` then.

    Raises:
        Refused: not a model, or one that contradicts itself; names the field.
        Corrupt: a plain `.onnx` file that ONNX Runtime cannot run.
        Transient: the disk is full or failing.

    """
    if source.suffix == ".onnx" and not source.is_dir():
        return _from_program(source, into)
    if (source / MANIFEST_FILE).is_file():
        return _from_bundle(source, into)
    return _from_source(source, into)


def _from_source(folder: Path, into: ChunkStore) -> Built:
    source = read_source(folder)
    present = {name: path for name in _file_names() if (path := folder / name).exists()}
    programs = {variant: program for variant, (program, _) in VARIANTS.items() if program in present}
    if not programs:
        allowed = " or ".join(program for program, _ in VARIANTS.values())
        raise Refused("no program", kind=Refusal.UNPROCESSABLE, field="files", value=str(folder), allowed=allowed)
    if source.task is not TaskKind.TENSOR and TOKENIZER not in present:
        raise Refused("a text model needs its tokenizer", kind=Refusal.UNPROCESSABLE, field=TOKENIZER)
    files = {name: _chunked(path, into) for name, path in sorted(present.items())}
    manifest = Manifest(
        name=source.name,
        version=source.version,
        task=source.task,
        variants=tuple(_variant(name, files[program]) for name, program in programs.items()),
        files=tuple(files.values()),
        inputs=() if source.task is TaskKind.TENSOR else (TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
        outputs=_outputs(source),
        labels=source.labels,
        processing=Processing(
            tokenizer=TOKENIZER if TOKENIZER in files else None,
            max_length=source.max_length,
            lowercase=source.processing.lowercase,
            char_level=source.char_level,
            crf=CRF if CRF in files else None,
            pooling=source.pooling,
            normalize=source.normalize,
        ),
        golden=GOLDEN if GOLDEN in files else None,
        source={"kind": "trained"} | ({"card": CARD} if CARD in files else {}),
        vector_space=_vector_space(source, files),
    )
    return _sealed(manifest)


def _from_program(path: Path, into: ChunkStore) -> Built:
    """A plain program becomes a `tensor` model that takes what the program takes; the file may be called anything."""
    manifest = manifest_of_onnx(path)
    file = msgspec.structs.replace(_chunked(path, into), path=PROGRAM)
    requirements = Requirements(memory_bytes=_memory(file))
    variants = tuple(
        msgspec.structs.replace(variant, files=(PROGRAM,), requirements=requirements) for variant in manifest.variants
    )
    return _sealed(msgspec.structs.replace(manifest, variants=variants, files=(file,)))


def _from_bundle(folder: Path, into: ChunkStore) -> Built:
    """A ready manifest is published as it is, byte for byte: its digest is the version's identity."""
    data = (folder / MANIFEST_FILE).read_bytes()
    manifest = parse_manifest(data)
    for i, entry in enumerate(manifest.files):
        path = folder / entry.path
        field = f"files[{i}]"
        if not path.exists():
            allowed = "a folder with the files of every variant"
            raise Refused("missing", kind=Refusal.UNPROCESSABLE, field=field, value=entry.path, allowed=allowed)
        _regular(path, field)
        with disk(f"reading {path}"), path.open("rb") as file:
            for chunk in entry.chunks:
                piece = file.read(chunk.size)
                found = hashlib.sha256(piece).hexdigest()
                if found != chunk.digest:
                    raise Refused("not the bytes that the manifest names", kind=Refusal.UNPROCESSABLE, field=field)
                into.put(chunk.digest, piece)
            if file.read(1):
                raise Refused("longer than the manifest says", kind=Refusal.UNPROCESSABLE, field=field)
    return manifest, data


def _chunked(path: Path, into: ChunkStore) -> File:
    _regular(path, path.name)
    whole, size, chunks = hashlib.sha256(), 0, []
    for piece in _pieces(path):
        digest = hashlib.sha256(piece).hexdigest()
        whole.update(piece)
        size += len(piece)
        chunks.append(Chunk(digest, len(piece)))
        into.put(digest, piece)
    return File(path=path.name, size=size, sha256=whole.hexdigest(), chunks=tuple(chunks))


def _pieces(path: Path) -> Iterator[bytes]:
    with disk(f"reading {path}"), path.open("rb") as file:
        length = WHOLE_UP_TO if path.stat().st_size <= WHOLE_UP_TO else PIECE
        while piece := file.read(length):
            yield piece


def _regular(path: Path, field: str) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Refused("not a regular file", kind=Refusal.UNPROCESSABLE, field=field, value=str(path))


def _file_names() -> tuple[str, ...]:
    return (*(program for program, _ in VARIANTS.values()), TOKENIZER, CRF, GOLDEN, CARD)


def _variant(name: str, program: File) -> Variant:
    return Variant(
        name=name,
        runtime=RUNTIME,
        precision=VARIANTS[name][1],
        files=(program.path,),
        requirements=Requirements(memory_bytes=_memory(program)),
    )


def _memory(program: File) -> int:
    # Weights may be stored in half the width they are computed in, and are repacked once for the processor's caches.
    return 3 * program.size + SESSION_BYTES


def _outputs(source: Source) -> tuple[TensorSpec, ...]:
    match source.task:
        case TaskKind.TEXT_CLASSIFICATION:
            return (
                TensorSpec(name="label", datatype="BYTES", shape=(-1,)),
                TensorSpec(name="score", datatype="FP32", shape=(-1,)),
                TensorSpec(name="scores", datatype="FP32", shape=(-1, len(source.labels))),
            )
        case TaskKind.TOKEN_CLASSIFICATION:
            return (TensorSpec(name="entities", datatype="BYTES", shape=(-1,)),)
        case TaskKind.TEXT_EMBEDDING:
            return (TensorSpec(name="embedding", datatype="FP32", shape=(-1, source.dimension or -1)),)
        case TaskKind.TEXT_GENERATION:
            return (TensorSpec(name="text", datatype="BYTES", shape=(-1,)),)
        case TaskKind.RELATION_EXTRACTION:
            return (TensorSpec(name="relations", datatype="BYTES", shape=(-1,)),)
        case TaskKind.TENSOR:
            return ()


def _vector_space(source: Source, files: dict[str, File]) -> str | None:
    """Vectors compare only within one space: the model's name, its major version, and the weights it came from.

    All variants of a version share it: the narrower ones are the same weights, rounded.
    """
    if source.task is not TaskKind.TEXT_EMBEDDING:
        return None
    weights = next(files[program].sha256 for program, _ in VARIANTS.values() if program in files)
    return f"{source.name}@{source.version.partition('.')[0]}:{weights[:16]}"


def _sealed(manifest: Manifest) -> Built:
    check_manifest(manifest)
    data = canonical(manifest)
    if len(data) > MAX_BYTES:
        raise Refused("manifest too large", kind=Refusal.TOO_LARGE, field="files", value=len(data))
    return manifest, data
