"""Plain `.onnx` files served as `tensor` models: a manifest made from the program's own inputs and outputs."""

import hashlib
import re
from pathlib import Path

from shared.bundle.manifest import Chunk, File, Manifest, TaskKind, Variant
from shared.protocol import names
from shared.protocol.errors import Refusal, Refused
from shared.serving.sessions.onnx import OnnxSession

VARIANT = "cpu"
VERSION = "1.0.0"


def manifest_of_onnx(path: Path) -> Manifest:
    """The manifest of a plain file; its model's name is the file's stem, made to fit. Blocks while it loads the program.

    Raises:
        Refused: no such file, or a name nothing is left of.
        Corrupt: not a program ONNX Runtime can run.

    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(
            f"cannot be read: {error.strerror}", kind=Refusal.NOT_FOUND, field="path", value=str(path)
        ) from error
    stem = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower())[:64].strip("-._")
    name = names.checked("model", stem, field="path")
    session = OnnxSession(path, threads=1)
    session.load()
    inputs, outputs = session.inputs, session.outputs
    session.close()
    digest = hashlib.sha256(data).hexdigest()
    return Manifest(
        name=name,
        version=VERSION,
        task=TaskKind.TENSOR,
        variants=(Variant(name=VARIANT, runtime="onnx", precision="unknown", files=(path.name,)),),
        files=(File(path=path.name, size=len(data), sha256=digest, chunks=(Chunk(digest, len(data)),)),),
        inputs=inputs,
        outputs=outputs,
        source={"file": path.name},
    )
