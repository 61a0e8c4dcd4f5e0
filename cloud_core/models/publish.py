"""Making a bundle: a folder becomes chunks in a store and a manifest that names them.

What can be published: a source folder with `model.json`, a bundle with a ready `manifest.json`, and a plain `.onnx` file.
The same input always gives the same bytes, so publishing twice is publishing once.
"""

import hashlib
from pathlib import Path
from typing import Protocol

import msgspec

from cloud_core.models.bundling import (
    TEXT_INPUT,
    Built,
    check_regular,
    described,
    memory_of,
    outputs_of,
    sealed,
    vector_space_of,
)
from cloud_core.models.source import read_source
from shared.bundle.manifest import (
    MANIFEST_FILE,
    File,
    Manifest,
    Processing,
    Requirements,
    TaskKind,
    Variant,
    parse_manifest,
)
from shared.bundle.store import disk
from shared.protocol.errors import Refusal, Refused
from shared.serving.versions.plain_onnx import manifest_of_onnx

RUNTIME = "onnx"
VARIANTS = {"cpu-fp32": ("model.fp32.onnx", "fp32"), "cpu-int8": ("model.int8.onnx", "int8")}
PROGRAM = "model.onnx"
TOKENIZER, CRF, GOLDEN, CARD = "tokenizer.json", "crf.npz", "golden.json", "CARD.md"


class Keeps(Protocol):
    """Where chunks go."""

    def put(self, digest: str, data: bytes) -> None:
        """Keep a chunk, durably."""
        ...


def build_bundle(source: Path, into: Keeps) -> Built:
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


def _from_source(folder: Path, into: Keeps) -> Built:
    source = read_source(folder)
    present = {name: path for name in _file_names() if (path := folder / name).exists()}
    programs = {variant: program for variant, (program, _) in VARIANTS.items() if program in present}
    if not programs:
        allowed = " or ".join(program for program, _ in VARIANTS.values())
        raise Refused("no program", kind=Refusal.UNPROCESSABLE, field="files", value=str(folder), allowed=allowed)
    if source.task is not TaskKind.TENSOR and TOKENIZER not in present:
        raise Refused("a text model needs its tokenizer", kind=Refusal.UNPROCESSABLE, field=TOKENIZER)
    files = {name: described(path, into.put) for name, path in sorted(present.items())}
    weights = next(files[program].sha256 for program in programs.values())
    manifest = Manifest(
        name=source.name,
        version=source.version,
        task=source.task,
        variants=tuple(_variant(name, files[program]) for name, program in programs.items()),
        files=tuple(files.values()),
        inputs=() if source.task is TaskKind.TENSOR else TEXT_INPUT,
        outputs=outputs_of(source.task, labels=source.labels, dimension=source.dimension),
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
        vector_space=vector_space_of(source.task, name=source.name, version=source.version, weights=weights),
    )
    return sealed(manifest)


def _from_program(path: Path, into: Keeps) -> Built:
    """A plain program becomes a `tensor` model that takes what the program takes; the file may be called anything."""
    manifest = manifest_of_onnx(path)
    file = msgspec.structs.replace(described(path, into.put), path=PROGRAM)
    requirements = Requirements(memory_bytes=memory_of(file))
    variants = tuple(
        msgspec.structs.replace(variant, files=(PROGRAM,), requirements=requirements) for variant in manifest.variants
    )
    return sealed(msgspec.structs.replace(manifest, variants=variants, files=(file,)))


def _from_bundle(folder: Path, into: Keeps) -> Built:
    """A ready manifest is published as it is, byte for byte: its digest is the version's identity."""
    data = (folder / MANIFEST_FILE).read_bytes()
    manifest = parse_manifest(data)
    for i, entry in enumerate(manifest.files):
        path = folder / entry.path
        field = f"files[{i}]"
        if not path.exists():
            allowed = "a folder with the files of every variant"
            raise Refused("missing", kind=Refusal.UNPROCESSABLE, field=field, value=entry.path, allowed=allowed)
        check_regular(path, field)
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


def _file_names() -> tuple[str, ...]:
    return (*(program for program, _ in VARIANTS.values()), TOKENIZER, CRF, GOLDEN, CARD)


def _variant(name: str, program: File) -> Variant:
    return Variant(
        name=name,
        runtime=RUNTIME,
        precision=VARIANTS[name][1],
        files=(program.path,),
        requirements=Requirements(memory_bytes=memory_of(program)),
    )
