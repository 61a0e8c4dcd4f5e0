"""What makes a folder a bundle: files in chunks, what each task gives out, a sealed manifest. Publisher and importer build with it.

The same input always gives the same bytes, so publishing twice is publishing once.
"""

import hashlib
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from cloud_core.models.chunking import pieces
from shared.bundle.manifest import (
    MAX_BYTES,
    Chunk,
    File,
    Manifest,
    TaskKind,
    TensorSpec,
    canonical,
    check_manifest,
)
from shared.protocol.errors import Refusal, Refused

SESSION_BYTES = 32 << 20
"""What a session takes besides its weights: arena, graph, tokenizer."""
TEXT_INPUT = (TensorSpec(name="text", datatype="BYTES", shape=(-1,)),)

Built = tuple[Manifest, bytes]
Keep = Callable[[str, bytes], None]


def described(path: Path, keep: Keep | None = None) -> File:
    """The manifest's entry of a file; every chunk is handed to `keep` under its digest.

    Raises:
        Refused: not a regular file.
        Transient: the disk did not give it.

    """
    check_regular(path, path.name)
    whole, size, chunks = hashlib.sha256(), 0, []
    for piece in pieces(path):
        digest = hashlib.sha256(piece).hexdigest()
        whole.update(piece)
        size += len(piece)
        chunks.append(Chunk(digest, len(piece)))
        if keep is not None:
            keep(digest, piece)
    return File(path=path.name, size=size, sha256=whole.hexdigest(), chunks=tuple(chunks))


def check_regular(path: Path, field: str) -> None:
    """Refuse links, pipes, devices and folders."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Refused("not a regular file", kind=Refusal.UNPROCESSABLE, field=field, value=str(path))


def memory_of(program: File) -> int:
    """Bytes a device needs for a program that was never measured."""
    # Weights may be stored in half the width they are computed in, and are repacked once for the processor's caches.
    return 3 * program.size + SESSION_BYTES


def outputs_of(task: TaskKind, *, labels: Sequence[str], dimension: int | None) -> tuple[TensorSpec, ...]:
    """What a model of this task gives out; nothing for `tensor`, whose program says it."""
    match task:
        case TaskKind.TEXT_CLASSIFICATION:
            return (
                TensorSpec(name="label", datatype="BYTES", shape=(-1,)),
                TensorSpec(name="score", datatype="FP32", shape=(-1,)),
                TensorSpec(name="scores", datatype="FP32", shape=(-1, len(labels))),
            )
        case TaskKind.TOKEN_CLASSIFICATION:
            return (TensorSpec(name="entities", datatype="BYTES", shape=(-1,)),)
        case TaskKind.TEXT_EMBEDDING:
            return (TensorSpec(name="embedding", datatype="FP32", shape=(-1, dimension or -1)),)
        case TaskKind.TEXT_GENERATION:
            return (TensorSpec(name="text", datatype="BYTES", shape=(-1,)),)
        case TaskKind.RELATION_EXTRACTION:
            return (TensorSpec(name="relations", datatype="BYTES", shape=(-1,)),)
        case TaskKind.TENSOR:
            return ()


def vector_space_of(task: TaskKind, *, name: str, version: str, weights: str) -> str | None:
    """Vectors compare only within one space: the model's name, its major version, and the weights it came from.

    All variants of a version share it: the narrower ones are the same weights, rounded.

    Args:
        task: only an embedding has a space.
        name: of the model.
        version: of the model.
        weights: SHA-256 of the widest program.

    """
    if task is not TaskKind.TEXT_EMBEDDING:
        return None
    return f"{name}@{version.partition('.')[0]}:{weights[:16]}"


def sealed(manifest: Manifest) -> Built:
    """The checked manifest and its canonical bytes.

    Raises:
        Refused: it contradicts itself, or is too large.

    """
    check_manifest(manifest)
    data = canonical(manifest)
    if len(data) > MAX_BYTES:
        raise Refused("manifest too large", kind=Refusal.TOO_LARGE, field="files", value=len(data))
    return manifest, data
