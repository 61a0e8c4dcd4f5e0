"""Plain `.onnx` files served as `tensor` models: a manifest made from the program's own inputs and outputs.

The process that asks never parses the program: a trial does, in a process of its own, and tells what it takes and gives.
"""

import asyncio
import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shared.bundle.manifest import Chunk, File, Manifest, TaskKind, Variant, canonical
from shared.protocol import names
from shared.protocol.errors import Refusal, Refused
from shared.serving.trial.run import Trial, passed, try_bundle
from shared.serving.trial.verdict import TrialLimits, TrialRequest

VARIANT = "cpu"
VERSION = "1.0.0"
PROGRAM = "model.onnx"
BLOCK = 1 << 20


def manifest_of_onnx(path: Path, *, limits: TrialLimits = TrialLimits()) -> Manifest:  # noqa: B008 - a frozen value
    """As `tried_onnx`, for callers without an event loop. Blocks while the program is tried."""
    return asyncio.run(tried_onnx(path, limits=limits))


async def tried_onnx(
    path: Path,
    *,
    limits: TrialLimits = TrialLimits(),  # noqa: B008 - a frozen value
    threads: int = 1,
    trial: Trial = try_bundle,
) -> Manifest:
    """The manifest of a plain file that passed its trial; its model's name is the file's stem, made to fit.

    Raises:
        Refused: no such file, or a name nothing is left of.
        Corrupt: not a program that can be run; `code` is the trial's.
        Transient: it cannot be tried here and now.

    """
    manifest = await asyncio.to_thread(_described, path)
    with readable(manifest, path) as (folder, text):
        request = TrialRequest(folder=str(folder), variant=VARIANT, manifest=text, limits=limits, threads=threads)
        found = passed(await trial(request))
    return msgspec.structs.replace(manifest, inputs=found.inputs, outputs=found.outputs)


@contextlib.contextmanager
def readable(manifest: Manifest, path: Path) -> Iterator[tuple[Path, str]]:
    """For another process: the folder in which the file has a name that a manifest may have, and a manifest that says so."""
    with _under_a_fit_name(path) as program:
        yield program.parent, canonical(_named(manifest, program.name)).decode()


@contextlib.contextmanager
def _under_a_fit_name(path: Path) -> Iterator[Path]:
    """The file itself, or a link to it where its own name is none that a manifest may have."""
    if names.FILE.fullmatch(path.name) is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="tideline-trial-") as folder:
        link = Path(folder) / PROGRAM
        link.symlink_to(path.resolve())
        yield link


def _described(path: Path) -> Manifest:
    size, digest = 0, hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise Refused(
            f"cannot be read: {error.strerror}", kind=Refusal.NOT_FOUND, field="path", value=str(path)
        ) from error
    stem = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower())[:64].strip("-._")
    sha256 = digest.hexdigest()
    return Manifest(
        name=names.checked("model", stem, field="path"),
        version=VERSION,
        task=TaskKind.TENSOR,
        variants=(Variant(name=VARIANT, runtime="onnx", precision="unknown", files=(path.name,)),),
        files=(File(path=path.name, size=size, sha256=sha256, chunks=(Chunk(sha256, size),)),),
        source={"file": path.name},
    )


def _named(manifest: Manifest, program: str) -> Manifest:
    """The same model with its one file under another name."""
    files = tuple(msgspec.structs.replace(file, path=program) for file in manifest.files)
    variants = tuple(msgspec.structs.replace(variant, files=(program,)) for variant in manifest.variants)
    return msgspec.structs.replace(manifest, files=files, variants=variants)
