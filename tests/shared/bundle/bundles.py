"""Small bundles for tests: manifests over made-up bytes, their chunks in a store."""

import hashlib

from shared.bundle.manifest import Chunk, File, Manifest, Requirements, TaskKind, Variant, canonical, digest_of


def sha(data):
    return hashlib.sha256(data).hexdigest()


def file_of(path, *pieces):
    data = b"".join(pieces)
    chunks = tuple(Chunk(sha(piece), len(piece)) for piece in pieces)
    return File(path=path, size=len(data), sha256=sha(data), chunks=chunks)


def bundle(name="sentiment-zh", version="1.0.0", *, seed="", memory=0, variants=("cpu-fp32", "cpu-int8"), store=None):
    """(manifest, its bytes, its digest, pieces by digest); pieces go to `store` where one is given."""
    pieces = {
        f"{variant}.onnx": [f"{name}{version}{seed}{variant}{i}".encode() * 50 for i in range(3)]
        for variant in variants
    }
    pieces["tokenizer.json"] = [b"{}"]
    manifest = Manifest(
        name=name,
        version=version,
        task=TaskKind.TENSOR,
        variants=tuple(
            Variant(
                name=variant,
                runtime="onnx",
                precision=variant[-4:],
                files=(f"{variant}.onnx",),
                requirements=Requirements(memory_bytes=memory),
            )
            for variant in variants
        ),
        files=tuple(file_of(path, *parts) for path, parts in pieces.items()),
    )
    data = canonical(manifest)
    by_digest = {sha(piece): piece for parts in pieces.values() for piece in parts}
    if store is not None:
        store.put(digest_of(data), data)
        for digest, piece in by_digest.items():
            store.put(digest, piece)
    return manifest, data, digest_of(data), by_digest
