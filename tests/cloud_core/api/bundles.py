"""A small bundle to publish: what the manifest says and the chunks it names."""

import hashlib

from shared.bundle.manifest import Chunk, File, Manifest, TaskKind, Variant, canonical
from tests.cloud_core.api.server import Client


def bundle(name: str = "tiny", version: str = "1.0.0", content: bytes = b"weights") -> tuple[Manifest, list[bytes]]:
    """A manifest and its chunks; the content is unique to the version."""
    pieces = [content + version.encode(), b"more of " + content]
    chunks = tuple(Chunk(hashlib.sha256(piece).hexdigest(), len(piece)) for piece in pieces)
    whole = b"".join(pieces)
    file = File(path="model.onnx", size=len(whole), sha256=hashlib.sha256(whole).hexdigest(), chunks=chunks)
    manifest = Manifest(
        name=name,
        version=version,
        task=TaskKind.TENSOR,
        variants=(Variant(name="cpu-fp32", runtime="onnx", precision="fp32", files=("model.onnx",)),),
        files=(file,),
    )
    return manifest, pieces


async def publish(client: Client, name: str = "tiny", version: str = "1.0.0") -> str:
    """Upload and publish; the digest."""
    manifest, pieces = bundle(name, version)
    for piece in pieces:
        answer = await client("PUT", f"/api/v1/chunks/{hashlib.sha256(piece).hexdigest()}", piece)
        assert answer.status == 201, answer.body
    path = f"/api/v1/models/{name}/versions"
    answer = await client("POST", path, canonical(manifest), Content_Type="application/json")
    assert answer.status == 201, answer.body
    digest: str = answer.json["digest"]
    return digest
